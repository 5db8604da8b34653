"""A server in this process: the application, with a bundle of its own, asked by a client without a network."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from starlette.testclient import TestClient

from ffruntime.learning.step import Settings as StepSettings
from ffruntime.model import Model
from ffruntime.serve.access import LOOPBACK
from ffruntime.serve.api import Context
from ffruntime.serve.app import Gate, application
from ffruntime.serve.metrics import Counts
from ffruntime.serve.requests import Uploads
from ffruntime.serve.shapes import Limits
from ffruntime.serve.work import Settings, Work
from ffruntime.session import Session

API = "/api/v1"
STEPS = StepSettings(steps=2, head_steps=2)
LIMITS = Limits(1 << 20, 5, 8 << 20, 10_000, 8, 2)


class Client(TestClient):
    """A client, and what is inside of the server that it asks."""

    work: Work
    uploads: Uploads


def server(
    bundle: Path, state: Path, limits: Limits = LIMITS, uploads: int = 32 << 20, workers: int = 1, **gate: Any
) -> Client:
    """A server, which runs while its client is entered as a context. `gate`: what `Gate` takes, by default that of
    a server at 127.0.0.1."""
    model = Model(bundle, session=Session(threads=1), state=False)
    private = {str(bundle): "the model", str(state): "the state"}
    work = Work(model, state, Settings(limits, 16 << 20, workers, 0.01, STEPS), private)
    asked = {"names": LOOPBACK, "any_address": False, "tokens": None, "rate": limits.rate, **gate}
    context = Context(work, Uploads(uploads), Counts())
    app = application(context, Gate(**asked))
    client = Client(app, base_url="http://127.0.0.1:8080", raise_server_exceptions=False)
    client.work, client.uploads = work, context.uploads
    return client


def png(image: np.ndarray) -> bytes:
    """An image uint8 (1, H, W) as a picture's file."""
    file = io.BytesIO()
    Image.fromarray(image[0]).save(file, "PNG")
    return file.getvalue()


def ended(client: TestClient, job: dict[str, Any]) -> dict[str, Any]:
    """A job, once it has ended."""
    for _ in range(600):
        job = client.get(f"{API}/jobs/{job['id']}").json()
        if job["state"] not in ("queued", "running"):
            return job
        time.sleep(0.05)
    raise AssertionError(job)
