"""Requests and pictures made to break `ffruntime serve`: 10,000 requests by its own OpenAPI document, right and
wrong ones, and 1,000 hostile pictures. A fault is a 500, a hang, an answer that is not in the document, a path of
the device. The peak of the process stands beside the limit that it was given.

    python benchmarks/attack_serve.py [--requests 10000] [--pictures 1000] [--write]

The server is a process of its own, with `--memory`, whose updates take two steps;
`tests/ffruntime/serve/test_openapi.py`
tries a hundred in one process.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import io
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote, urlencode

import jsonschema
import numpy as np
from attack_readers import picture_bytes
from common import record
from mutations import ODD, flipped
from PIL import Image

from ffruntime.pictures.picture_file import FORMATS

ROOT = Path(__file__).parents[1]
BUNDLE = ROOT / "tests" / "fixtures" / "classes.ff"
LIMIT = 150  # MiB
PATIENCE = 40.0  # seconds for an answer
RARE = {"learn": 0.25, "rehearse": 0.03, "reset": 0.2, "camera": 0.1, "frame": 0.1}  # by operation; of others 1
OPEN = ("/events", "/camera")  # answers without an end
CHILD = """
import functools, sys
from ffruntime.learning import step
step.Settings = functools.partial(step.Settings, steps=2, head_steps=2)
from ffruntime.__main__ import main
sys.argv[0] = "ffruntime"
main()
"""


class Asked(NamedTuple):
    """A request, and the operation of the document that it is."""

    method: str
    path: str  # with its query
    headers: dict[str, str]
    body: bytes
    operation: dict[str, Any] | None  # None: there is none like it


Told = tuple[int, str, bytes]  # status, media type, body
Ask = Callable[[Asked], Told]


def requests(document: dict[str, Any], rng: random.Random) -> Iterator[Asked]:
    """Requests without end, by the document and beside it."""
    found = [
        (path, method, operation) for path, some in document["paths"].items() for method, operation in some.items()
    ]
    weights = [RARE.get(operation["operationId"], 1.0) for *_, operation in found]
    while True:
        path, method, operation = rng.choices(found, weights)[0]
        path = path.replace("{id}", str(rng.choice((1, 2, 7, 0, 10**6, 10**30, -1, "x", "%00"))))
        asked = [pair for one in operation["parameters"] if one["in"] == "query" for pair in _parameter(one, rng)]
        if rng.random() < 0.05:
            asked.append((rng.choice(("odd", "", "confirm", "__proto__")), str(rng.choice(ODD))))
        headers, body = _body(operation, rng)
        odd = rng.random()
        known: dict[str, Any] | None = operation
        if odd < 0.03:
            method, known = rng.choice(("DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD", "BREW")), None
        elif odd < 0.06:
            known = None
            path = rng.choice(("/../../etc/passwd", path + "/", path + "%2f..%2f..", "//x", "/api/v1/%ff", "/%00"))
        elif odd < 0.09:
            headers["Host"] = rng.choice(("evil.example", "", "127.0.0.1:99999999", "[::", "a" * 5000))
        elif odd < 0.12:
            headers["Origin"] = rng.choice(("http://evil.example", "null", "http://[", "file://", "x" * 3000))
        elif odd < 0.15:
            name = rng.choice(("Authorization", "Cookie", "Sec-Fetch-Site", "Accept", "Range", "Content-Encoding"))
            headers[name] = rng.choice(("Bearer x", "ffedge_8080=\\", "cross-site", "gzip", "a" * 4000, "\x7f=;,"))
        yield Asked(method.upper(), f"{path}?{urlencode(asked)}", headers, body, known)


def _parameter(one: dict[str, Any], rng: random.Random) -> list[tuple[str, str]]:
    """A parameter of the query: left out, right, wrong, or twice."""
    kind = rng.random()
    if kind < (0.05 if one["required"] else 0.4):
        return []
    if kind > 0.85:
        value = str(rng.choice(ODD))
        return [(one["name"], value)] * rng.choice((1, 1, 2))
    schema = one["schema"]
    if schema.get("type") == "array":
        return [(one["name"], str(_right(schema["items"], rng))) for _ in range(rng.randrange(3))]
    return [(one["name"], str(_right(schema, rng)))]


def _right(schema: dict[str, Any], rng: random.Random) -> object:
    """A value that a schema allows."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    low, high = schema.get("minimum", 0), schema.get("maximum", 9)
    if schema["type"] == "integer":
        return rng.choice((low, high if high < 1000 else low + 9, rng.randint(low, low + 130)))
    if schema["type"] == "number":
        return rng.uniform(low, high)
    if schema["type"] == "boolean":
        return rng.choice(("true", "false"))
    return rng.choice(("thing", "disc", "Ω ß <b>", "'\"\\", "x" * schema.get("maxLength", 9), "🦊", "a/b", " é "))


def _body(operation: dict[str, Any], rng: random.Random) -> tuple[dict[str, str], bytes]:
    """Headers and a body: a picture or what is none, as it is or as a form."""
    if "requestBody" not in operation and rng.random() < 0.9:
        return {}, b""
    whole = drawing(rng) if rng.random() < 0.4 else picture_bytes(rng.choice(FORMATS))
    kind = rng.random()
    if kind < 0.3:
        whole = flipped(whole, rng)
    elif kind < 0.4:
        whole = rng.choice((b"", b"{}", b"\0" * 1000, rng.randbytes(500), json.dumps(str(ODD)).encode()))
    if rng.random() < 0.6:
        types = ("application/octet-stream", "image/png", "application/json", "", "text/plain; charset=x")
        return {"Content-Type": rng.choice(types)}, whole
    parts = [
        b'--edge\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n'
        % (rng.choice((b"a.png", b"../../x", b'"', "ü\u202e".encode(), b"a" * 5000)), whole)
        for _ in range(rng.choice((1, 1, 1, 2, 25)))
    ]
    form = b"".join(parts) + b"--edge--\r\n"
    kind = "multipart/form-data" + rng.choice(
        ("; boundary=edge", "; boundary=edge", "", "; boundary=", "; charset=x")
    )
    return {"Content-Type": kind}, flipped(form, rng) if rng.random() < 0.3 else form


def drawing(rng: random.Random) -> bytes:
    """A picture that shows something: a stroke on paper."""
    pixels = np.full((32, 32), 255, np.uint8)
    for _ in range(rng.randint(1, 3)):
        x, y = rng.randint(4, 20), rng.randint(4, 20)
        pixels[y : y + rng.randint(3, 10), x : x + rng.randint(2, 8)] = rng.randint(0, 90)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def hostile(rng: random.Random) -> bytes:
    """A picture's file that is damaged, or says that it is huge."""
    kind = rng.random()
    if kind < 0.8:
        return flipped(picture_bytes(rng.choice(FORMATS)), rng)
    width, height = rng.choice(((16_000, 4000), (65_000, 1), (8000, 8000), (1, 16_384), (100_000, 100_000)))
    if kind < 0.9:
        return b"P5 %d %d 255\n" % (width, height) + bytes(1000)
    file = io.BytesIO()
    Image.new("1", (min(width, 9000), min(height, 9000))).save(file, rng.choice(("PNG", "GIF", "TIFF")))
    return file.getvalue()


class Judge:
    """What answers have to be, by the document."""

    def __init__(self, document: dict[str, Any], private: tuple[str, ...]) -> None:
        self.document, self.private = document, private
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []

    def __call__(self, asked: Asked, told: Told) -> None:
        """Note what an answer is, and what is wrong with it."""
        status, kind, body = told
        self.statuses[status] += 1
        if fault := self._fault(asked, status, kind, body):
            self.faults.append(f"{asked.method} {asked.path[:200]}: {status}: {fault}")

    def _fault(self, asked: Asked, status: int, kind: str, body: bytes) -> str:
        if status >= 500 and status not in (503, 507):
            return f"a fault: {body[:200]!r}"
        if any(path.encode() in body for path in self.private):
            return "a path of the device"
        responses = asked.operation["responses"] if asked.operation else {}
        if asked.operation and str(status) not in responses:
            return "a status that the document does not have"
        if kind != "application/json" or asked.method == "HEAD":
            return ""
        try:
            answer = json.loads(body)
        except ValueError:
            return f"no JSON: {body[:200]!r}"
        if status >= 400:
            schema: dict[str, Any] = {"$ref": "#/components/schemas/ErrorBody"}
        else:
            schema = responses.get(str(status), {}).get("content", {}).get(kind, {}).get("schema", {})
        try:
            whole = {**schema, "components": self.document["components"]}
            jsonschema.Draft202012Validator(whole).validate(answer)
        except jsonschema.ValidationError as error:
            return f"not as in the document: {error.message[:200]}"
        return ""


def ask_at(address: str) -> Ask:
    """What asks a server at an address. Raises `OSError` for one that does not answer."""
    place = address.removeprefix("http://").rstrip("/")

    def ask(asked: Asked) -> Told:
        with contextlib.closing(http.client.HTTPConnection(place, timeout=PATIENCE)) as connection:
            host = asked.headers.get("Host")
            connection.putrequest(asked.method, quote(asked.path, "/?&=%+"), skip_host=host is not None)
            for name, value in asked.headers.items():
                connection.putheader(name, value)
            if asked.body or asked.method == "POST":
                connection.putheader("Content-Length", str(len(asked.body)))
            connection.endheaders()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it has answered before
                connection.send(asked.body)
            answer = connection.getresponse()
            endless = asked.path.partition("?")[0].endswith(OPEN) and answer.status == 200
            body = answer.read(16) if endless else answer.read()
            return answer.status, answer.getheader("content-type", ""), body

    return ask


def campaign(ask: Ask, judge: Judge, tries: Iterator[Asked], count: int) -> float:
    """So many requests, one after the other; the longest time that one took, in seconds."""
    longest = 0.0
    for asked, _ in zip(tries, range(count), strict=False):
        start = time.perf_counter()
        try:
            judge(asked, ask(asked))
        except (OSError, http.client.HTTPException) as error:
            judge.faults.append(f"{asked.method} {asked.path[:200]}: {type(error).__name__}: {error}")
        longest = max(longest, time.perf_counter() - start)
    return longest


def peak_mib(process: int) -> float:
    """The highest point of a process' memory."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+)", status)
    assert found
    return int(found[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--pictures", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="write results/attack_serve.json")
    o = parser.parse_args()
    rng = random.Random(o.seed)
    with tempfile.TemporaryDirectory() as folder:
        options = ["serve", "--json", "--port", "0", "--threads", "1", "--rate", "100000", "--memory", str(LIMIT)]
        places = ["--model", str(BUNDLE), "--state", f"{folder}/model.state"]
        command = [sys.executable, "-c", CHILD, *options, *places]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout
        ask = ask_at(json.loads(process.stdout.readline())["address"])
        document = json.loads(ask(Asked("GET", "/api/v1/openapi.json", {}, b"", None))[2])
        judge, start = Judge(document, (folder, str(ROOT))), time.perf_counter()
        longest = campaign(ask, judge, requests(document, rng), o.requests)
        statuses = {str(status): count for status, count in sorted(judge.statuses.items())}
        judge.statuses.clear()
        operation = document["paths"]["/api/v1/classify"]["post"]
        pictures = (Asked("POST", "/api/v1/classify", {}, hostile(rng), operation) for _ in iter(int, 1))
        longest_picture = campaign(ask, judge, pictures, o.pictures)
        peak, seconds = peak_mib(process.pid), time.perf_counter() - start
        process.terminate()
        _, said = process.communicate(timeout=30)
    result = {
        "requests": o.requests,
        "statuses": statuses,
        "pictures": o.pictures,
        "picture_statuses": {str(status): count for status, count in sorted(judge.statuses.items())},
        "faults": judge.faults,
        "longest_s": {"request": round(longest, 2), "picture": round(longest_picture, 2)},
        "peak_mib": round(peak, 1),
        "limit_mib": LIMIT,
        "stderr": said,
        "exit_code": process.returncode,
        "seconds": round(seconds),
    }
    if o.write:
        record("attack_serve", result)
    else:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
