"""The work behind the API: queues, one learner, events, states that go and come, what other processes do."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attack_readers import picture_bytes
from msgspec import structs
from mutations import flipped
from serving import API, LIMITS, Client, ended, png

from ffruntime.learning.learner import Learner
from ffruntime.learning.store import Store
from ffruntime.model import Model
from ffruntime.pictures.picture_file import FORMATS
from ffruntime.serve import pictures
from ffruntime.session import Session


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, no picture is answered."""
    go, decode = threading.Event(), pictures.decode_picture

    def wait(*arguments: Any) -> Any:
        assert go.wait(30)
        return decode(*arguments)

    monkeypatch.setattr(pictures, "decode_picture", wait)
    yield go
    go.set()


def test_beyond_the_queue_there_is_a_503_with_a_reason(
    client: Client, images: np.ndarray, held: threading.Event
) -> None:
    def ask(_: int) -> Any:
        return client.post(f"{API}/classify", content=png(images[0]))

    count = 1 + LIMITS.waiting + 3
    with ThreadPoolExecutor(count) as pool:
        asked = [pool.submit(ask, number) for number in range(count)]
        while sum(one.done() for one in asked) < 3:
            time.sleep(0.01)
        held.set()
        answers = [one.result() for one in asked]
    refused = [answer for answer in answers if answer.status_code != 200]
    assert len(refused) == 3
    assert {(answer.status_code, answer.json()["error"]["code"]) for answer in refused} == {(503, "busy")}
    assert all(int(answer.headers["retry-after"]) for answer in refused)


def slow_update(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Updates begin with the first event, and go on with the second one."""
    begun, go, update = threading.Event(), threading.Event(), Learner.update

    def wait(self: Learner, *arguments: Any) -> Any:
        begun.set()
        assert go.wait(30)
        return update(self, *arguments)

    monkeypatch.setattr(Learner, "update", wait)
    return begun, go


def test_answers_come_from_the_former_weights_while_one_learns(
    pairs: Client, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = slow_update(monkeypatch)
    learned = pairs.post(f"{API}/learn", params={"label": "thing"}, content=png(images[0]))
    assert learned.status_code == 202
    assert len(learned.json()["job"]["examples"]) == 1  # durable, while the update has not begun to end
    assert begun.wait(10)
    assert pairs.post(f"{API}/classify", content=png(images[0])).json()["version"] == 0
    status = pairs.get(f"{API}/status").json()
    assert (status["job"]["kind"], status["examples"]) == ("learn", 1)
    for _ in range(LIMITS.jobs):
        monkeypatch.setattr("ffruntime.serve.api.SOON", 0.01)
        assert pairs.post(f"{API}/rehearse").status_code == 202
    busy = pairs.post(f"{API}/rehearse")
    assert (busy.status_code, busy.json()["error"]["code"]) == (503, "busy")
    go.set()
    job = ended(pairs, learned.json()["job"])
    if job["state"] == "done":
        assert job["changes"][0]["adopted"]
        assert job["version"] >= 1


def test_an_update_that_costs_too_much_is_refused_with_the_reason(
    pairs: Client, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ffruntime.learning.learner.costs", lambda *_: True)
    learned = pairs.post(f"{API}/learn", params={"label": "thing"}, content=png(images[0]))
    job = ended(pairs, learned.json()["job"])
    assert job["state"] == "refused"
    assert "cost too much" in job["changes"][0]["reason"]
    assert pairs.get(f"{API}/status").json()["version"] == 0


def test_what_happens_is_told_as_it_happens(client: Client, images: np.ndarray) -> None:
    """The events of a job, through the broker: a test client reads no stream that does not end."""
    told: list[tuple[str, Any]] = []
    events = client.work.events
    tell = events.tell
    events.tell = lambda name, what: (told.append((name, what)), tell(name, what))[1]  # type: ignore[method-assign]
    learned = client.post(f"{API}/learn", params={"label": "thing", "yes": True}, content=png(images[0]))
    job = ended(client, learned.json()["job"])
    jobs = [what for name, what in told if name == "job"]
    assert jobs[0].state == "queued"
    assert jobs[-1].state == job["state"]
    assert len(jobs[-1].before) == len(jobs[-1].after) == 1
    assert "status" in {name for name, _ in told}


def test_a_state_goes_to_another_device(
    serving: Callable[..., Client], exported: Path, images: np.ndarray, tmp_path: Path
) -> None:
    first, second = (serving(exported, tmp_path / name) for name in ("a.state", "b.state"))
    ended(first, first.post(f"{API}/learn", params={"label": "thing"}, content=png(images[0])).json()["job"])
    data = first.get(f"{API}/state")
    assert data.headers["content-disposition"] == 'attachment; filename="learned.state"'
    job = ended(second, second.post(f"{API}/state", params={"force": True}, content=data.content).json())
    assert (job["kind"], job["state"]) == ("import", "done")
    assert "thing" in [one["name"] for one in second.get(f"{API}/status").json()["classes"]]


def test_an_unsigned_state_where_signatures_are_required(
    serving: Callable[..., Client], class_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the variable that commands obey; the answer names no file of the device."""
    serialization = pytest.importorskip("cryptography.hazmat.primitives.serialization")
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    keys, form = tmp_path / "keys.pem", serialization.PublicFormat.SubjectPublicKeyInfo
    keys.write_bytes(Ed25519PrivateKey.generate().public_key().public_bytes(serialization.Encoding.PEM, form))
    monkeypatch.setenv("FF_TRUSTED", str(keys))
    client = serving(class_bundle, tmp_path / "some.state")
    answer = client.post(f"{API}/state", content=client.get(f"{API}/state").content)
    assert answer.status_code == 422
    assert "not signed" in answer.text
    assert str(tmp_path) not in answer.text


def test_a_hostile_state_is_refused(client: Client) -> None:
    whole, rng = client.get(f"{API}/state").content, random.Random(0)
    for _ in range(20):
        answer = client.post(f"{API}/state", content=flipped(whole, rng))
        assert answer.status_code in (200, 422), answer.text
        if answer.status_code == 422:
            assert answer.json()["error"]["code"] in ("file", "picture")


def test_hostile_pictures_are_refused_in_order(client: Client) -> None:
    rng = random.Random(0)
    for form in FORMATS:
        whole = picture_bytes(form)
        for _ in range(6):
            answer = client.post(f"{API}/classify", content=flipped(whole, rng))
            assert answer.status_code in (200, 422), answer.text


def test_what_another_process_learns_is_taken(client: Client, images: np.ndarray) -> None:
    work = client.work
    with closing(Learner(Model(work.model.path, session=Session(threads=1), state=False), work.directory)) as other:
        other.store.add(images[:1], ["thing"])
    for _ in range(100):
        if "thing" in [one["name"] for one in client.get(f"{API}/status").json()["classes"]]:
            return
        time.sleep(0.1)
    raise AssertionError("it was not taken")


def test_a_doubtful_example_is_asked_about(
    client: Client, images: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = client.work.model.classes[:2]
    monkeypatch.setattr("ffruntime.serve.work.contradicts", lambda *_: True)
    asked = client.post(f"{API}/learn", params={"label": first}, content=png(images[0]))
    assert (asked.status_code, asked.json()["error"]["code"]) == (409, "contradicted")
    near = client.post(f"{API}/learn", params={"label": first + "x", "yes": True}, content=png(images[0]))
    assert (near.status_code, near.json()["error"]["code"]) == (409, "near")
    assert client.get(f"{API}/examples").json()["examples"] == []
    sure = client.post(f"{API}/learn", params={"label": second, "yes": True}, content=png(images[0]))
    assert sure.status_code in (200, 202)


def test_a_bundle_that_cannot_learn_is_asked_all_the_same(
    serving: Callable[..., Client], bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    for graph in bundle.glob("gradient*.onnx"):
        graph.unlink()
    text = json.loads((bundle / "manifest.json").read_text())
    text["files"] = {name: entry for name, entry in text["files"].items() if not name.startswith("gradient")}
    (bundle / "manifest.json").write_text(json.dumps(text))
    client = serving(bundle, tmp_path / "model.state")
    assert client.post(f"{API}/classify", content=png(images[0])).status_code == 200
    assert client.get(f"{API}/status").json()["learns"] is False
    answer = client.post(f"{API}/learn", params={"label": "x"}, content=png(images[0]))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "usage")
    assert str(tmp_path) not in answer.text
    assert not (tmp_path / "model.state").exists()


def test_what_is_pending_is_learned_from_when_the_server_starts(
    serving: Callable[..., Client], exported: Path, images: np.ndarray, tmp_path: Path
) -> None:
    """As after a power loss in the middle of an update."""
    state = tmp_path / "model.state"
    with closing(Store(state, Model(exported, state=False).manifest)) as store:
        store.add(images[:2], ["thing", "thing"])
    client = serving(exported, state)
    job = client.get(f"{API}/jobs").json()["jobs"][0]
    assert job["kind"] == "resume"
    ended(client, job)
    assert {one["status"] for one in client.get(f"{API}/examples").json()["examples"]} <= {"learned", "refused"}


def test_figures_for_prometheus(client: Client, images: np.ndarray) -> None:
    for image in images[:3]:
        client.post(f"{API}/classify", content=png(image))
    client.post(f"{API}/classify", params={"unsure": 0.5}, content=png(255 - images[0]))
    lines = dict(
        line.rsplit(" ", 1) for line in client.get(f"{API}/metrics").text.splitlines() if not line.startswith("#")
    )
    assert float(lines['ffedge_requests_total{path="/classify",status="200"}']) == 4
    sure = sum(float(lines[f'ffedge_answers_total{{sure="{kind}"}}']) for kind in ("sure", "unsure", "unknown"))
    assert sure == float(lines["ffedge_answer_milliseconds_count"]) == 4
    share = float(lines['ffedge_answers_total{sure="unsure"}']) / 4
    assert float(lines["ffedge_unsure_share"]) == share
    assert float(lines["ffedge_memory_bytes"]) > 1 << 20


def test_rate_of_pictures_in_one_request(client: Client, images: np.ndarray) -> None:
    files = [("file", ("x.png", png(images[0]), "image/png"))] * (LIMITS.pictures + 1)
    answer = client.post(f"{API}/learn", params={"label": "x"}, files=files)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "request")
    assert structs.asdict(LIMITS) == client.get(f"{API}/status").json()["limits"]
