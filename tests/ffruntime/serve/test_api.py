"""What the API answers: pictures, learning, and how it goes back."""

from __future__ import annotations

import numpy as np
from serving import API, Client, ended, png


def test_a_picture_is_answered_as_by_the_model(client: Client, images: np.ndarray) -> None:
    for image in images[:3]:
        said = client.post(f"{API}/classify", content=png(image)).json()
        answer = said["answers"][0]
        expected = client.work.model.classify(png(image))
        assert answer["label"] == expected.label
        assert [row["name"] for row in answer["classes"]] == list(expected.scores)
        assert answer["image"].startswith("data:image/png;base64,")


def test_a_new_class_is_learned_and_forgotten(client: Client, images: np.ndarray) -> None:
    files = [("file", (f"{i}.png", png(image), "image/png")) for i, image in enumerate(images[:3])]
    learned = client.post(f"{API}/learn", params={"label": "thing", "yes": True}, files=files)
    job = ended(client, learned.json()["job"])
    assert (job["new"], len(job["examples"])) == (True, 3)
    assert job["state"] in ("done", "refused")  # two steps may cost too much
    assert "thing" in [one["name"] for one in client.get(f"{API}/status").json()["classes"]]
    gone = client.post(f"{API}/forget", params={"id": job["examples"]})
    assert ended(client, gone.json())["examples"] == job["examples"]
    assert client.get(f"{API}/examples").json()["examples"] == []


def test_an_update_is_a_version_that_can_be_gone_back_from(pairs: Client, images: np.ndarray) -> None:
    learned = pairs.post(f"{API}/learn", params={"label": "thing"}, content=png(images[0]))
    job = ended(pairs, learned.json()["job"])
    assert job["examples"]
    assert len(job["changes"]) == 1
    if job["state"] == "done":
        assert pairs.get(f"{API}/versions").json()["current"] == job["version"] == 1
        assert ended(pairs, pairs.post(f"{API}/rollback").json())["version"] == 0
