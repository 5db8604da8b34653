"""The server as a process: how it is started, told to end, killed, and what it says."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import uvicorn
from click.testing import CliRunner
from serving import API, png

from ffruntime.cli import cli
from ffruntime.serve import server
from ffruntime.serve.access import Tokens

COMMAND = (sys.executable, "-m", "ffruntime", "serve", "--json", "--port", "0", "--threads", "1")
Started = tuple[subprocess.Popen[str], dict[str, Any]]


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    """A function that starts a server of a bundle, with options; the process, and what it says of itself."""
    processes: list[subprocess.Popen[str]] = []

    def start(bundle: Path, *options: str) -> Started:
        command = [*COMMAND, "--model", str(bundle), "--state", str(tmp_path / "model.state"), *options]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        processes.append(process)
        assert process.stdout
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return process, json.loads(line)

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def ask(address: str, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, Any]:
    """One request; its status, and the JSON of its answer."""
    place = address.removeprefix("http://").rstrip("/")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=30)) as connection:
        connection.request(method, f"{API}{path}", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


@pytest.mark.posix
def test_a_signal_ends_it_in_order(started: Callable[..., Started], class_bundle: Path, images: np.ndarray) -> None:
    """With an open stream of events, and a connection that is kept."""
    process, said = started(class_bundle)
    assert said["token"] is None
    assert ask(said["address"], "POST", "/classify", png(images[0]))[0] == 200
    place = said["address"].removeprefix("http://").rstrip("/")
    with contextlib.closing(http.client.HTTPConnection(place, timeout=30)) as listening:
        listening.request("GET", f"{API}/events")
        stream = listening.getresponse()
        assert stream.readline() == b"retry: 2000\n"
        process.send_signal(signal.SIGTERM)
        stream.read()  # comes to its end
    assert process.wait(20) == 143
    assert process.communicate()[1] == ""


@pytest.mark.slow
@pytest.mark.posix
def test_ctrl_c_is_one_word_and_gives_up_an_update(
    started: Callable[..., Started], exported: Path, images: np.ndarray
) -> None:
    process, said = started(exported)
    status, learned = ask(said["address"], "POST", "/learn?label=thing", png(images[0]))
    assert status == 202
    assert learned["job"]["examples"]
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 130
    assert process.communicate()[1].strip() == "interrupted"
    process, said = started(exported)  # and goes on where it was
    assert ask(said["address"], "GET", "/examples")[1]["examples"][0]["id"] == learned["job"]["examples"][0]
    assert ask(said["address"], "GET", "/jobs")[1]["jobs"][-1]["kind"] == "resume"


@pytest.mark.slow
@pytest.mark.posix
def test_killed_in_an_update_nothing_acknowledged_is_lost(
    started: Callable[..., Started], exported: Path, images: np.ndarray
) -> None:
    acknowledged: list[int] = []
    for round in range(2):
        process, said = started(exported)
        there = [one["id"] for one in ask(said["address"], "GET", "/examples")[1]["examples"]]
        assert set(acknowledged) <= set(there)
        status, learned = ask(said["address"], "POST", "/learn?label=thing&yes=true", png(images[round]))
        assert status in (200, 202)
        acknowledged += learned["job"]["examples"]
        time.sleep(0.3 * round)
        process.kill()
        process.wait()
    assert acknowledged


@pytest.mark.slow
@pytest.mark.posix
def test_in_the_house_a_token_is_shown_once(started: Callable[..., Started], class_bundle: Path) -> None:
    process, said = started(class_bundle, "--host", "0.0.0.0")
    address = f"http://127.0.0.1:{said['address'].rpartition(':')[2]}"
    token = {"Authorization": f"Bearer {said['token']}"}
    assert ask(address, "GET", "/status")[0] == 401
    assert ask(address, "GET", "/status", **token)[0] == 200
    process.terminate()
    process.wait(20)
    process, said = started(class_bundle, "--host", "0.0.0.0")
    address = f"http://127.0.0.1:{said['address'].rpartition(':')[2]}"
    assert said["token"] is None
    assert ask(address, "GET", "/status", **token)[0] == 200


def test_another_link_is_made_beside_a_server(class_bundle: Path, tmp_path: Path) -> None:
    state = tmp_path / "model.state"
    arguments = ["serve", "--model", str(class_bundle), "--state", str(state)]
    shown = CliRunner().invoke(cli, [*arguments, "--new-token", "--host", "192.0.2.9", "--port", "8443"]).output
    link = next(line for line in shown.splitlines() if line.startswith("http"))
    address, _, token = link.partition("#token=")
    assert address == "http://192.0.2.9:8443/"
    assert Tokens(state).count(token)
    assert "▄" in shown  # the same as a QR code
    assert CliRunner().invoke(cli, [*arguments, "--revoke"]).output == "1 tokens revoked\n"
    assert not Tokens(state).count(token)


@pytest.mark.slow
def test_with_a_certificate_it_speaks_tls(
    started: Callable[..., Started], class_bundle: Path, tmp_path: Path
) -> None:
    both = tmp_path / "both.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(both), "-out", str(tmp_path / "one.pem")]
    try:
        subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("openssl is not there to make a certificate")
    both.write_text(both.read_text() + (tmp_path / "one.pem").read_text())
    _, said = started(class_bundle, "--certificate", str(both))
    assert said["address"].startswith("https://")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "one.pem"))
    port = int(said["address"].rstrip("/").rpartition(":")[2])
    with contextlib.closing(http.client.HTTPSConnection("localhost", port, context=trusting)) as connection:
        connection.request("GET", f"{API}/health")
        assert connection.getresponse().status == 200


def test_a_head_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def app(scope: Any, _receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    monkeypatch.setattr(server, "HEAD", 0.5)
    listening = server.bound("127.0.0.1", 0)
    serving = uvicorn.Server(uvicorn.Config(app, http=server.Impatient, lifespan="off", log_config=None))
    thread = threading.Thread(target=lambda: serving.run([listening]), daemon=True)
    thread.start()
    address = listening.getsockname()
    try:
        for first in (b"", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"):
            with socket.create_connection(address, timeout=10) as connection:
                if first:
                    connection.sendall(first)
                    assert connection.recv(1000).startswith(b"HTTP/1.1 204")
                connection.sendall(b"GET / HTTP/1.1\r\nHos")
                assert connection.recv(1000) == b""  # closed
    finally:
        serving.should_exit = True
        thread.join(10)


def test_what_cannot_be_served_is_one_line(class_bundle: Path, tmp_path: Path) -> None:
    taken = server.bound("127.0.0.1", 0)
    for options, said in (
        (["--port", str(taken.getsockname()[1])], "--port names another"),
        (["--host", "203.0.113.1"], "--port"),
        (["--certificate", str(tmp_path / "none.pem")], "No such file"),
        (["--key", str(tmp_path / "none.pem")], "--certificate"),
        (["--memory", "60"], "MiB"),
    ):
        arguments = ["serve", "--model", str(class_bundle), "--state", str(tmp_path / "model.state"), *options]
        done = CliRunner().invoke(cli, arguments)
        assert said in str(done.exception or done.output), options
    taken.close()


def test_a_missing_extra_is_named(class_bundle: Path) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from ffruntime.__main__ import main; main()"
    command = [sys.executable, "-c", code, "serve", "--model", str(class_bundle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: uvicorn is not installed: pip install 'ffedge[cpu,serve]'\n"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is read from /proc")
def test_with_a_memory_limit_it_keeps_to_that(
    started: Callable[..., Started], exported: Path, images: np.ndarray
) -> None:
    """Answering while it learns, with bodies as large as they may be."""
    limit = 150
    process, said = started(exported, "--memory", str(limit))
    largest = ask(said["address"], "GET", "/status")[1]["limits"]["picture"]
    learned = ask(said["address"], "POST", "/learn?label=thing&update=now", png(images[0]))[1]["job"]
    picture = png(images[0])
    for _ in range(5):
        assert ask(said["address"], "POST", "/classify", picture)[0] == 200
        assert ask(said["address"], "POST", "/classify", picture + bytes(largest - len(picture)))[0] == 200
    while ask(said["address"], "GET", f"/jobs/{learned['id']}")[1]["state"] in ("queued", "running"):
        time.sleep(0.1)
    status = Path(f"/proc/{process.pid}/status").read_text()
    (peak,) = (int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    assert peak / 1024 < limit
