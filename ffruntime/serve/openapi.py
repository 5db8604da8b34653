"""The OpenAPI document (3.1), made of the table of requests and of the JSON's own types."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from msgspec import Struct, structs
from msgspec.json import encode, schema_components

from ..core import __version__
from . import shapes

ALWAYS = (400, 401, 403, 405, 429)  # what every request may be answered instead
REF = "#/components/schemas/{name}"
BINARY = {"type": "string", "format": "binary"}
MEANS = {
    200: "Done.",
    202: "It waits or runs.",
    204: "Done.",
    400: "It cannot be understood.",
    401: "No token, or none that counts.",
    403: "Another host, or another site's page.",
    404: "There is none.",
    405: "No such method.",
    408: "The body did not come.",
    409: "Not so, or not now.",
    413: "Too large.",
    422: "It cannot be used.",
    429: "Too many requests.",
    503: "Busy; try again.",
    507: "No room.",
}


class Endpoint(Struct, frozen=True):
    """A request of the API."""

    method: str
    path: str  # below the API's prefix
    handler: Callable[..., Awaitable[Any]]  # (context, request) -> answer
    about: str
    query: type[Struct] | None = None
    body: str | None = None  # `picture`, `pictures` or `state`
    answer: type[Struct] | str | tuple[type[Struct], ...] | None = None  # or its media type; None: nothing
    statuses: tuple[int, ...] = (200,)
    errors: tuple[int, ...] = ()  # beside those of every request
    free: bool = False  # whether it needs no token


def document(endpoints: Iterable[Endpoint], prefix: str) -> bytes:
    """The document, as JSON."""
    endpoints = tuple(endpoints)
    kinds = {kind for endpoint in endpoints for kind in _answers(endpoint) if not isinstance(kind, str)}
    queries = {endpoint.query for endpoint in endpoints if endpoint.query}
    everything: list[type] = sorted({*kinds, *queries, shapes.ErrorBody}, key=lambda kind: kind.__name__)
    _, components = schema_components(everything, ref_template=REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        place = paths.setdefault(f"{prefix}{endpoint.path}", {})
        place[endpoint.method.lower()] = _operation(endpoint, components)
    for query in queries:
        components.pop(query.__name__)
    whole = {
        "openapi": "3.1.0",
        "info": {"title": "ffruntime serve", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"token": []}, {}],  # on 127.0.0.1, and with --open, nobody is asked for a token
    }
    return encode(whole)


def _operation(endpoint: Endpoint, components: dict[str, Any]) -> dict[str, Any]:
    parameters = []
    if "{id}" in endpoint.path:
        parameters.append(
            {"name": "id", "in": "path", "required": True, "schema": {"type": "integer", "minimum": 0}}
        )
    if endpoint.query:
        properties = components[endpoint.query.__name__]["properties"]
        for field in structs.fields(endpoint.query):
            parameters.append(
                {
                    "name": field.name,
                    "in": "query",
                    "required": field.required,
                    "schema": _of_query(properties[field.name]),
                }
            )
    responses = {str(code): {"description": MEANS[code], **_content(endpoint)} for code in endpoint.statuses}
    error = {"application/json": {"schema": {"$ref": REF.format(name="ErrorBody")}}}
    for code in sorted({*ALWAYS, *endpoint.errors}):
        responses[str(code)] = {"description": MEANS[code], "content": error}
    found: dict[str, Any] = {
        "operationId": endpoint.handler.__name__,
        "summary": endpoint.about,
        "parameters": parameters,
        "responses": responses,
    }
    if endpoint.body:
        found["requestBody"] = _body(endpoint.body)
    return found


def _of_query(schema: dict[str, Any]) -> dict[str, Any]:
    """A query has no null: what may be left out is left out."""
    schema = {key: value for key, value in schema.items() if key != "default" or value is not None}
    some = [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]
    return {**{key: value for key, value in schema.items() if key != "anyOf"}, **some[0]} if some else schema


def _body(kind: str) -> dict[str, Any]:
    several = kind == "pictures"
    files = {"type": "array", "items": BINARY, "minItems": 1} if several else BINARY
    form = {"type": "object", "properties": {"file": files}, "required": ["file"]}
    return {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": BINARY},
            "multipart/form-data": {"schema": form},
        },
    }


def _answers(endpoint: Endpoint) -> tuple[type[Struct] | str, ...]:
    answer = endpoint.answer
    return () if answer is None else answer if isinstance(answer, tuple) else (answer,)


def _content(endpoint: Endpoint) -> dict[str, Any]:
    answers = _answers(endpoint)
    if not answers:
        return {}
    if isinstance(answers[0], str):
        return {"content": {answers[0].partition(";")[0]: {}}}
    schemas = [{"$ref": REF.format(name=kind.__name__)} for kind in answers if not isinstance(kind, str)]
    return {"content": {"application/json": {"schema": schemas[0] if len(schemas) == 1 else {"anyOf": schemas}}}}
