"""Who gets in: the threats of `docs/serve.md`, one test for each."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from serving import API, LIMITS, Client, ended, png

from ffruntime.serve.access import TOKENS, Tokens

ROOT = Path(__file__).parents[3]
HOSTILE = "<img src=x onerror=alert(1)>\"'&"


@pytest.fixture
def house(serving: Callable[..., Client], class_bundle: Path, tmp_path: Path) -> Client:
    """A server for the house, which asks for a token."""
    state = tmp_path / "model.state"
    client = serving(class_bundle, state, any_address=True, tokens=Tokens(state))
    client.base_url = "http://192.168.1.5:8080"  # type: ignore[assignment]
    return client


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def code(response: object) -> tuple[int, str]:
    """Status and code of an answer that is no success."""
    return response.status_code, response.json()["error"]["code"]  # type: ignore[attr-defined]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "192.168.1.5", "", "a b", "[::2]"])
def test_a_name_that_is_bound_to_this_address_elsewhere_is_refused(client: Client, host: str) -> None:
    """DNS rebinding."""
    for path in ("/", f"{API}/status", f"{API}/health"):
        assert code(client.get(path, headers={"Host": host})) == (403, "host")


@pytest.mark.parametrize("host", ["127.0.0.1:8080", "localhost:9000", "[::1]:8080", "LOCALHOST"])
def test_own_names_are_served(client: Client, host: str) -> None:
    assert client.get(f"{API}/status", headers={"Host": host}).status_code == 200


def test_in_the_house_any_address_is_served_and_no_other_name(house: Client) -> None:
    token = Tokens(house.work.directory).make()
    for host, status in (("10.0.0.7:8080", 200), ("[fe80::1]:8080", 200), ("evil.example", 403)):
        assert house.get(f"{API}/status", headers={**bearer(token), "Host": host}).status_code == status


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:8081"},
        {"Origin": "http://127.0.0.1:8080.evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_another_sites_page_cannot_ask_or_teach(
    client: Client, images: np.ndarray, headers: dict[str, str]
) -> None:
    """CSRF."""
    asked = client.post(f"{API}/learn", params={"label": "x"}, content=png(images[0]), headers=headers)
    assert code(asked) == (403, "origin")
    assert code(client.get(f"{API}/status", headers=headers)) == (403, "origin")
    assert client.get(f"{API}/examples").json()["examples"] == []


def test_the_own_page_can(client: Client) -> None:
    headers = {"Origin": "http://127.0.0.1:8080", "Sec-Fetch-Site": "same-origin"}
    assert client.post(f"{API}/reset", headers=headers).status_code == 200


def test_no_request_is_let_through_by_cors(client: Client) -> None:
    headers = {"Origin": "http://evil.example", "Access-Control-Request-Method": "POST"}
    answer = client.options(f"{API}/learn", headers=headers)
    assert answer.status_code == 403
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_without_a_token_nothing_of_the_network_is_told(house: Client, images: np.ndarray) -> None:
    document = house.get(f"{API}/openapi.json").json()
    assert house.get(f"{API}/health").json() == {"status": "ok"}
    for path, operations in document["paths"].items():
        for method in operations:
            if path.endswith(("/health", "/openapi.json")):
                continue
            for headers in ({}, bearer("guess"), {"Authorization": "Basic eDp5"}, {"Cookie": "ffedge_8080=guess"}):
                answer = house.request(method, path.replace("{id}", "1"), headers=headers, content=png(images[0]))
                assert code(answer) == (401, "token")


def test_a_token_is_kept_as_a_hash_and_can_be_revoked(house: Client) -> None:
    tokens = Tokens(house.work.directory)
    token = tokens.make()
    file = house.work.directory / TOKENS
    assert token not in file.read_text()
    assert house.get(f"{API}/status", headers=bearer(token)).status_code == 200
    (tmp := file.with_name("x")).write_text("damaged")
    tmp.replace(file)
    assert code(house.get(f"{API}/status", headers=bearer(token))) == (401, "token")
    file.unlink()
    token = tokens.make()
    assert house.get(f"{API}/status", headers=bearer(token)).status_code == 200
    assert tokens.revoke() == 1  # as another process does
    assert code(house.get(f"{API}/status", headers=bearer(token))) == (401, "token")


def test_the_cookie_of_a_token_is_read_by_no_script_and_sent_by_no_other_site(house: Client) -> None:
    token = Tokens(house.work.directory).make()
    said = house.post(f"{API}/session", headers=bearer(token)).headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(said.split("; "))
    name, _, value = said.partition(";")[0].partition("=")
    assert house.get(f"{API}/status", headers={"Cookie": f"{name}={value}"}).status_code == 200


def test_every_answer_forbids_scripts_of_others(client: Client, house: Client) -> None:
    answers = [client.get("/"), client.get("/nothing"), client.get(f"{API}/status"), house.get(f"{API}/status")]
    for answer in [*answers, client.get(f"{API}/status", headers={"Host": "evil.example"})]:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_has_no_inline_script_and_nothing_from_elsewhere() -> None:
    folder = ROOT / "ffruntime" / "serve"
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+\s*=|javascript:|\bstyle\s*=|<style", page)
    for file in folder.glob("page.*"):
        for address in re.findall(r"https?://[^\s\"'`<>)]+", file.read_text(encoding="utf-8")):
            assert address.startswith("http://www.w3.org/"), address  # names of XML, which nobody fetches
    script = (folder / "page.js").read_text(encoding="utf-8")
    assert not re.search(r"\.(inner|outer)HTML\b|insertAdjacentHTML|document\.write|\beval\(|new Function", script)


def test_names_are_data_wherever_they_are_told(client: Client, images: np.ndarray) -> None:
    learned = client.post(f"{API}/learn", params={"label": HOSTILE, "yes": True}, content=png(images[0]))
    job = ended(client, learned.json()["job"])
    assert job["label"] == HOSTILE
    for path in ("status", "jobs", "examples"):
        answer = client.get(f"{API}/{path}")
        assert answer.headers["content-type"] == "application/json"
        assert HOSTILE in json.dumps(answer.json(), ensure_ascii=False).replace('\\"', '"')
    assert HOSTILE not in client.get(f"{API}/metrics").text
    for label in ("a\nb", "a\x1b[2J", "a\u202eb", "\x00", ""):
        assert client.post(f"{API}/learn", params={"label": label}, content=png(images[0])).status_code in (
            400,
            422,
        )


def test_no_answer_has_a_path_of_the_device(client: Client, images: np.ndarray, tmp_path: Path) -> None:
    answers = [
        client.post(f"{API}/classify", content=b"no picture"),
        client.post(f"{API}/state", content=b"no state"),
        client.post(f"{API}/state", params={"force": True}, content=client.get(f"{API}/state").content[:-9]),
        client.post(f"{API}/rollback", params={"version": 7}),
        client.post(f"{API}/rollback"),
        client.post(f"{API}/forget", params={"id": 7}),
        client.post(f"{API}/forget", params={"label": "/etc/passwd"}),
        client.post(f"{API}/explain", params={"label": "nothing"}, content=png(images[0])),
        client.get(f"{API}/status"),
        client.get(f"{API}/metrics"),
    ]
    (client.work.directory / "learning.db").write_bytes(b"damaged")
    answers += [
        client.post(f"{API}/learn", params={"label": "x"}, content=png(images[0])),
        client.get(f"{API}/jobs"),
    ]
    folders = {str(tmp_path), str(client.work.model.path.parent), "/tmp", "/root", "/home"}
    for answer in answers:
        assert not any(folder in answer.text for folder in folders), answer.text


def test_a_client_that_asks_too_often_is_told_when_to_come_back(
    serving: Callable[..., Client], class_bundle: Path, tmp_path: Path
) -> None:
    client = serving(class_bundle, tmp_path / "model.state", rate=2.0)
    answers = [client.get(f"{API}/health") for _ in range(8)]
    assert [answer.status_code for answer in answers[:4]] == [200] * 4
    assert code(answers[-1]) == (429, "rate")
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_a_body_that_is_too_large_is_not_read(client: Client) -> None:
    large = LIMITS.picture + 1
    assert code(client.post(f"{API}/classify", content=bytes(large))) == (413, "large")
    unsaid = client.post(f"{API}/classify", content=(bytes(1 << 16) for _ in range(large // (1 << 16) + 1)))
    assert code(unsaid) == (413, "large")
    file = {"file": ("x.png", bytes(large), "image/png")}
    assert code(client.post(f"{API}/classify", files=file)) == (413, "large")


def test_pictures_that_are_small_files_and_large_in_memory_are_not_decoded(client: Client) -> None:
    """A PNG of 8,000 × 8,000 pixels in 62 kB."""
    import io

    from PIL import Image

    file = io.BytesIO()
    Image.new("1", (8000, 8000)).save(file, "PNG")
    assert len(file.getvalue()) < LIMITS.picture
    answer = client.post(f"{API}/classify", content=file.getvalue())
    assert code(answer) == (422, "picture")
    assert "memory" in answer.text


def test_uploads_beyond_the_budget_wait_their_turn(
    serving: Callable[..., Client], class_bundle: Path, images: np.ndarray, tmp_path: Path
) -> None:
    client = serving(class_bundle, tmp_path / "model.state", uploads=2 << 20)
    with client.uploads.share() as share:
        share.take(2 << 20)  # somebody else's
        answer = client.post(f"{API}/classify", content=png(images[0]))
        assert code(answer) == (503, "busy")
        assert answer.headers["retry-after"]
    assert client.post(f"{API}/classify", content=png(images[0])).status_code == 200
    assert client.uploads.taken == 0


def test_everything_is_forgotten_only_when_it_is_asked_twice(client: Client, images: np.ndarray) -> None:
    learned = client.post(f"{API}/learn", params={"label": "x", "yes": True}, content=png(images[0]))
    ended(client, learned.json()["job"])
    assert code(client.post(f"{API}/reset", params={"confirm": "guess"})) == (409, "confirm")
    asked = client.post(f"{API}/reset").json()
    assert asked["examples"] == 1
    assert code(client.post(f"{API}/reset", params={"confirm": "Ω"})) == (409, "confirm")
    asked = client.post(f"{API}/reset").json()
    assert len(client.get(f"{API}/examples").json()["examples"]) == 1
    job = ended(client, client.post(f"{API}/reset", params={"confirm": asked["confirm"]}).json())
    assert job["state"] == "done"
    assert client.get(f"{API}/examples").json()["examples"] == []
    assert code(client.post(f"{API}/reset", params={"confirm": asked["confirm"]})) == (409, "confirm")


def test_every_threat_has_a_test() -> None:
    """Each line of the threat model names one that is here, or in another file of this room."""
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| .+ \| .+ \| `(test_\w+)` \|$", text, re.MULTILINE)
    here = "".join(file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    assert len(rows) >= 15
    assert len(rows) == len(re.findall(r"^\|", text.partition("## Who gets in")[2], re.MULTILINE)) - 2
    for name in rows:
        assert f"def {name}(" in here, name


def test_images_in_answers_are_png(client: Client, images: np.ndarray) -> None:
    answer = client.post(f"{API}/explain", content=png(images[0])).json()
    for uri in (answer["image"], *(one["picture"] for one in answer["evidence"])):
        head, _, data = uri.partition(",")
        assert head == "data:image/png;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\x89PNG")
