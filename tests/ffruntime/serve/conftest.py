"""Servers to ask, where the extra `serve` is installed; without it these tests are left out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from serving import Client

if find_spec("starlette") is None or find_spec("uvicorn") is None:
    collect_ignore_glob = ["*"]


@pytest.fixture
def serving() -> Iterator[Callable[..., Client]]:
    """`serving.server`, entered; the servers end with the test."""
    from serving import server

    with contextlib.ExitStack() as stack:

        def start(*arguments: Any, **options: Any) -> Client:
            client = server(*arguments, **options)
            stack.enter_context(client)
            return client

        yield start


@pytest.fixture
def client(serving: Callable[..., Client], class_bundle: Path, tmp_path: Path) -> Client:
    """A server of the committed bundle with class goodness, with a state of its own."""
    return serving(class_bundle, tmp_path / "model.state")


@pytest.fixture
def pairs(serving: Callable[..., Client], exported: Path, tmp_path: Path) -> Client:
    """A server of the committed bundle with the label in the input, likewise."""
    return serving(exported, tmp_path / "pairs.state")
