"""Every request of the API: its query, its body, its answer, and who does the work."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TypeAlias

from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from . import metrics, shapes
from .access import TOKEN, cookie_name
from .camera import Camera
from .jobs import Task
from .openapi import Endpoint, document
from .refusals import Refused
from .requests import Uploads, bodies, body, query
from .work import Work

PREFIX = "/api/v1"
SOON = 10.0  # seconds after which a job is answered as far as it is
YEAR = 365 * 86_400  # seconds
AT_ONCE = 1.0  # seconds that are left to it when it is durable
JPEGS, FRAME = "multipart/x-mixed-replace; boundary=frame", "image/jpeg"
PART = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"
STATE, TEXT, EVENTS = "application/octet-stream", "text/plain; version=0.0.4; charset=utf-8", "text/event-stream"


class Context(Struct, frozen=True):
    """What a request is answered with."""

    work: Work
    uploads: Uploads
    counts: metrics.Counts
    camera: Camera | None = None


Answer: TypeAlias = Struct | Response | tuple[int, Struct]


async def health(_context: Context, _request: Request) -> Answer:
    return shapes.Health("ok")


async def openapi(_context: Context, _request: Request) -> Answer:
    return Response(document(ENDPOINTS, PREFIX), media_type="application/json")


async def session(_context: Context, request: Request) -> Answer:
    response, token = Response(status_code=204), request.scope.get(TOKEN)
    if token is not None:
        secure = request.scope["scheme"] == "https"
        name = cookie_name(request.scope)
        response.set_cookie(name, token, YEAR, httponly=True, samesite="strict", secure=secure)
    return response


async def status(context: Context, _request: Request) -> Answer:
    return context.work.status()


async def classify(context: Context, request: Request) -> Answer:
    asked = query(request, shapes.ClassifyQuery)
    with context.uploads.share() as share:
        data = await body(request, share, context.work.settings.limits.picture)
        began = time.perf_counter()
        found = await context.work.classify(data, asked.unsure, asked.figures == "all", began)
    context.counts.answered([answer.sure for answer in found.answers], found.took)
    return found


async def explain(context: Context, request: Request) -> Answer:
    asked = query(request, shapes.ExplainQuery)
    with context.uploads.share() as share:
        data = await body(request, share, context.work.settings.limits.picture)
        return await context.work.explain(data, asked.label)


async def learn(context: Context, request: Request) -> Answer:
    asked, limits = query(request, shapes.LearnQuery), context.work.settings.limits
    with context.uploads.share() as share:
        files = await bodies(request, share, limits.picture, limits.pictures)
        task, images = await context.work.learn(files, asked.label, asked.update, asked.yes, asked.new)
    code, job = await _soon(task)
    return code, shapes.Learned(job, tuple(images))


async def rehearse(context: Context, request: Request) -> Answer:
    return await _soon(context.work.rehearse(query(request, shapes.RehearseQuery).steps))


async def forget(context: Context, request: Request) -> Answer:
    asked = query(request, shapes.ForgetQuery)
    return await _soon(context.work.forget(asked.id, asked.label))


async def rollback(context: Context, request: Request) -> Answer:
    return await _soon(context.work.rollback(query(request, shapes.RollbackQuery).version))


async def reset(context: Context, request: Request) -> Answer:
    found = context.work.reset(query(request, shapes.ResetQuery).confirm)
    return await _soon(found) if isinstance(found, Task) else found


async def export_state(context: Context, _request: Request) -> Answer:
    data = await context.work.export()
    return Response(data, media_type=STATE, headers={"Content-Disposition": 'attachment; filename="learned.state"'})


async def import_state(context: Context, request: Request) -> Answer:
    force = query(request, shapes.ImportQuery).force
    with context.uploads.share() as share:
        data = await body(request, share, context.work.settings.limits.state)
        return await _soon(context.work.apply(data, force))


async def jobs(context: Context, _request: Request) -> Answer:
    return shapes.Jobs(tuple(context.work.jobs.all()))


async def job(context: Context, request: Request) -> Answer:
    return context.work.jobs.job(request.path_params["id"])


async def examples(context: Context, request: Request) -> Answer:
    asked = query(request, shapes.ExamplesQuery)
    return await context.work.examples(asked.before, asked.most)


async def versions(context: Context, _request: Request) -> Answer:
    return await context.work.versions()


async def events(context: Context, _request: Request) -> Answer:
    status = context.work.status()
    return StreamingResponse(context.work.events.listen(status, "status", status.job), media_type=EVENTS)


async def numbers(context: Context, _request: Request) -> Answer:
    return Response(metrics.text(context.counts, context.work), media_type=TEXT)


async def camera(context: Context, _request: Request) -> Answer:
    frames = _camera(context).frames()
    return StreamingResponse((PART % len(jpeg) + jpeg + b"\r\n" async for jpeg in frames), media_type=JPEGS)


async def frame(context: Context, _request: Request) -> Answer:
    return Response(await _camera(context).frame(), media_type=FRAME)


def _camera(context: Context) -> Camera:
    """Raises `Refused` where the device has none."""
    if context.camera is None:
        raise Refused(404, "unknown", "there is no camera: ffruntime serve --camera")
    return context.camera


async def _soon(task: Task) -> tuple[int, shapes.Job]:
    """A job, as soon as what it was asked for is durable. Raises `Refused` where it failed."""
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(task.acknowledged.wait(), SOON)
        await asyncio.wait_for(task.ended.wait(), AT_ONCE)
    if task.refused and not task.job.examples:
        raise task.refused
    return 202 if task.job.state in ("queued", "running") else 200, task.job


CHANGES = (200, 202)
BODY = (408, 413, 503)
ENDPOINTS = (
    Endpoint("GET", "/health", health, "That the server answers.", answer=shapes.Health, free=True),
    Endpoint("GET", "/openapi.json", openapi, "This document.", answer="application/json", free=True),
    Endpoint("POST", "/session", session, "Make a cookie of the token.", statuses=(204,)),
    Endpoint("GET", "/status", status, "Classes, version, limits, and the job that runs.", answer=shapes.Status),
    Endpoint(
        "POST",
        "/classify",
        classify,
        "What a picture shows, and how sure that is.",
        shapes.ClassifyQuery,
        "picture",
        shapes.Classified,
        errors=(*BODY, 422),
    ),
    Endpoint(
        "POST",
        "/explain",
        explain,
        "Which pixels an answer rests on.",
        shapes.ExplainQuery,
        "picture",
        shapes.Explained,
        errors=(*BODY, 422),
    ),
    Endpoint(
        "POST",
        "/learn",
        learn,
        "Learn what pictures show.",
        shapes.LearnQuery,
        "pictures",
        shapes.Learned,
        CHANGES,
        (*BODY, 409, 422, 507),
    ),
    Endpoint(
        "POST",
        "/rehearse",
        rehearse,
        "Learn from what is pending, and rehearse what is stored.",
        shapes.RehearseQuery,
        None,
        shapes.Job,
        CHANGES,
        (409, 422, 503, 507),
    ),
    Endpoint("GET", "/jobs", jobs, "The last jobs, newest first.", answer=shapes.Jobs),
    Endpoint("GET", "/jobs/{id}", job, "A job.", answer=shapes.Job, errors=(404,)),
    Endpoint("GET", "/events", events, "What happens, as it happens.", answer=EVENTS, errors=(503,)),
    Endpoint(
        "GET",
        "/examples",
        examples,
        "Stored examples, newest first.",
        shapes.ExamplesQuery,
        None,
        shapes.Examples,
        errors=(409, 422, 503),
    ),
    Endpoint(
        "POST",
        "/forget",
        forget,
        "Take back examples, or all of a class.",
        shapes.ForgetQuery,
        None,
        shapes.Job,
        CHANGES,
        (409, 422, 503, 507),
    ),
    Endpoint(
        "GET", "/versions", versions, "All versions of the weights.", answer=shapes.Versions, errors=(409, 503)
    ),
    Endpoint(
        "POST",
        "/rollback",
        rollback,
        "Go back to a version.",
        shapes.RollbackQuery,
        None,
        shapes.Job,
        CHANGES,
        (409, 422, 503, 507),
    ),
    Endpoint(
        "POST",
        "/reset",
        reset,
        "Forget everything; asked twice.",
        shapes.ResetQuery,
        None,
        (shapes.Confirm, shapes.Job),
        CHANGES,
        (409, 422, 503, 507),
    ),
    Endpoint(
        "GET",
        "/state",
        export_state,
        "What was learned, as a state file.",
        answer=STATE,
        errors=(409, 422, 503, 507),
    ),
    Endpoint(
        "POST",
        "/state",
        import_state,
        "Take what another device has learned.",
        shapes.ImportQuery,
        "state",
        shapes.Job,
        CHANGES,
        (*BODY, 409, 422, 507),
    ),
    Endpoint("GET", "/metrics", numbers, "Figures for Prometheus.", answer=TEXT),
    Endpoint("GET", "/camera", camera, "The device's own camera.", answer=JPEGS, errors=(404, 503)),
    Endpoint("GET", "/camera/frame", frame, "A frame of it.", answer=FRAME, errors=(404, 503)),
)
