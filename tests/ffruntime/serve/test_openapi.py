"""The OpenAPI document is what the code does: paths, queries, answers; and a hundred requests made to break it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
from msgspec import Struct, convert, structs
from serving import API, Client, png
from starlette.applications import Starlette
from starlette.routing import Route

from ffruntime.serve.api import ENDPOINTS, PREFIX
from ffruntime.serve.app import PAGE

ROOT = Path(__file__).parents[3]


def test_the_document_has_every_request_that_is_served(client: Client) -> None:
    document = client.get(f"{API}/openapi.json").json()
    app = client.app
    assert isinstance(app, Starlette)
    served = {
        (method, route.path.replace(":int}", "}"))
        for route in app.routes
        if isinstance(route, Route) and route.path not in PAGE
        for method in (route.methods or set()) - {"HEAD"}
    }
    told = {(method.upper(), path) for path, some in document["paths"].items() for method in some}
    assert told == served == {(one.method, f"{PREFIX}{one.path}") for one in ENDPOINTS}


def test_the_page_of_the_documentation_has_them_too() -> None:
    text = (ROOT / "docs" / "serve.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(GET|POST) (/[\w./{}]+)` \| (.*?) \|", text, re.MULTILINE)
    assert {(method, path) for method, path, _ in rows} == {(one.method, one.path) for one in ENDPOINTS}
    for method, path, said in rows:
        (endpoint,) = (one for one in ENDPOINTS if (one.method, one.path) == (method, path))
        names = {field.name for field in structs.fields(endpoint.query)} if endpoint.query else set()
        assert set(re.findall(r"`(\w+)`", said)) == names, path


def test_queries_of_the_document_are_those_that_are_read(client: Client) -> None:
    document = client.get(f"{API}/openapi.json").json()
    for endpoint in ENDPOINTS:
        operation = document["paths"][f"{PREFIX}{endpoint.path}"][endpoint.method.lower()]
        told = {one["name"]: one["required"] for one in operation["parameters"] if one["in"] == "query"}
        fields = structs.fields(endpoint.query) if endpoint.query else ()
        assert told == {field.name: field.required for field in fields}
        if endpoint.query and endpoint.free is False:
            odd = client.request(endpoint.method, f"{PREFIX}{endpoint.path}", params={"no_such_field": "1"})
            assert odd.status_code == 400, endpoint.path


def test_answers_are_those_of_the_document(client: Client, images: np.ndarray) -> None:
    client.post(f"{API}/learn", params={"label": "thing", "yes": True}, content=png(images[0]))
    queries = {"/learn": {"label": "thing", "yes": "true"}, "/forget": {"label": "thing"}}
    queries["/rehearse"] = {"steps": "1"}
    for endpoint in ENDPOINTS:
        if not (isinstance(endpoint.answer, type) and issubclass(endpoint.answer, Struct)) or "{" in endpoint.path:
            continue
        content = png(images[0]) if endpoint.body in ("picture", "pictures") else b""
        answer = client.request(
            endpoint.method, f"{PREFIX}{endpoint.path}", params=queries.get(endpoint.path), content=content
        )
        if answer.status_code in endpoint.statuses:
            convert(answer.json(), endpoint.answer)
        else:
            assert answer.status_code in endpoint.errors, (endpoint.path, answer.text)


def test_a_hundred_requests_made_to_break_it(client: Client, tmp_path: Path) -> None:
    from attack_serve import OPEN, Asked, Judge, Told, campaign, requests

    document = client.get(f"{API}/openapi.json").json()

    def ask(asked: Asked) -> Told:
        headers = {name: value.encode("latin-1", "ignore") for name, value in asked.headers.items()}
        answer = client.request(asked.method, asked.path, headers=headers, content=asked.body)  # type: ignore[arg-type]
        return answer.status_code, answer.headers.get("content-type", ""), answer.content

    judge, rng = Judge(document, (str(tmp_path), str(ROOT))), random.Random(7)
    tries = (one for one in requests(document, rng) if not one.path.partition("?")[0].endswith(OPEN))
    campaign(ask, judge, tries, 100)
    assert judge.faults == []
    assert len(judge.statuses) > 4
