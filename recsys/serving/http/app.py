"""The HTTP interface: routes, status codes and error messages.

Takes a `Service` and returns a FastAPI app. A client's mistake is answered with 422 (a missing or wrong key with 401),
a missing dependency of the server with 503; every error carries `{"error": sentence}`. It does not know how a feed is
made.

A feed takes a few milliseconds of CPU and one wait for Redis. Feeds run in a small pool of threads: the event loop
stays free for health checks, and many simultaneous clients wait in a queue instead of competing for the interpreter.
Erasing a user takes seconds to minutes, so erasures have their own queue.
"""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, TypeVar

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.errors import RecsysError, RequestError
from recsys.serving.erasing import Receipt
from recsys.serving.http.metrics import Metrics
from recsys.serving.http.wire import MAX_BODY_BYTES, Feed, encode
from recsys.serving.service import Service

log = logging.getLogger(__name__)

N_THREADS = 2
"""Threads per worker that compute feeds and take events."""

T = TypeVar("T")


def create_app(service: Service) -> FastAPI:
    """The app that serves feeds and takes events. It closes the service on shutdown."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(title="recsys", redoc_url=None, lifespan=lifespan)
    metrics = service.metrics
    app.add_middleware(_TimingMiddleware, metrics=metrics)
    limiters: dict[str, CapacityLimiter] = {}

    async def in_thread(work: Callable[[], T], queue: str = "feeds", n_threads: int = N_THREADS) -> T:
        if queue not in limiters:
            limiters[queue] = CapacityLimiter(n_threads)  # must be created inside the running event loop
        return await to_thread.run_sync(work, limiter=limiters[queue])

    @app.get("/v1/feed", response_class=JsonResponse, responses={200: {"model": Feed}})
    async def feed(
        user_id: str,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        cursor: str = "",
    ) -> Response:
        return JsonResponse(await in_thread(lambda: encode(service.feed(user_id, limit, cursor))))

    @app.post("/v1/events", status_code=202, response_class=JsonResponse)
    async def events(request: Request, x_api_key: Annotated[str, Header()] = "") -> Response:
        _check_key(service.api_key, x_api_key)
        body = await _read(request)
        accepted, rejected = await in_thread(lambda: service.take_events(body))
        return JsonResponse(encode({"accepted": accepted, "rejected": rejected}), 202)

    @app.delete("/v1/users/{user_id:path}", response_class=JsonResponse, responses={200: {"model": Receipt}})
    async def erase(user_id: str, x_api_key: Annotated[str, Header()] = "") -> Response:
        _check_key(service.api_key, x_api_key)
        return JsonResponse(encode(await in_thread(lambda: service.erase(user_id), "erasures", 1)))

    @app.get("/healthz", response_class=JsonResponse)
    async def healthz() -> Response:
        return JsonResponse(encode({"status": "alive"}))

    @app.get("/readyz", response_class=JsonResponse)
    async def readyz() -> Response:
        reasons = await in_thread(service.not_ready)
        status = {"ready": not reasons, "release": service.release_name, "reasons": reasons}
        return JsonResponse(encode(status), 503 if reasons else 200)

    @app.get("/metrics", response_class=Response)
    async def metrics_page() -> Response:
        return Response(await in_thread(service.metrics_page), media_type=CONTENT_TYPE_LATEST)

    def refuse(status: int, kind: str, sentence: str) -> Response:
        metrics.errors.labels(kind).inc()
        return JsonResponse(encode({"error": sentence}), status)

    @app.exception_handler(RecsysError)
    async def on_recsys_error(_: Request, error: RecsysError) -> Response:
        return refuse(422 if isinstance(error, RequestError) else 503, type(error).__name__, str(error))

    @app.exception_handler(RequestValidationError)
    async def on_validation_error(_: Request, error: RequestValidationError) -> Response:
        return refuse(422, "RequestError", "; ".join(_sentence(item) for item in error.errors()))

    @app.exception_handler(HTTPException)
    async def on_http_exception(request: Request, error: HTTPException) -> Response:
        return refuse(error.status_code, "HTTP", f"{request.method} {request.url.path}: {error.detail}")

    @app.exception_handler(Exception)
    async def on_defect(_: Request, error: Exception) -> Response:
        # Starlette raises the error again after this response, so the traceback goes to the server's log only.
        return refuse(500, type(error).__name__, "the server failed on this request; its log says why")

    return app


class JsonResponse(Response):
    """A response whose content is already encoded as JSON."""

    media_type = "application/json"


class _TimingMiddleware:
    """Middleware that measures every request, from its arrival to the last byte of the response."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status = 500

        async def send_and_note_status(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        start = time.perf_counter()
        try:
            await self._app(scope, receive, send_and_note_status)
        finally:
            # Only known routes become labels, so clients cannot create new labels.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).observe(time.perf_counter() - start)


def _check_key(expected: str | None, given: str) -> None:
    # Headers arrive decoded as latin-1; encoding restores the bytes that the client sent.
    if expected is not None and not hmac.compare_digest(expected.encode(), given.encode("latin-1")):
        raise HTTPException(401, "writes need the header X-API-Key with the value of serving.api_key")


async def _read(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise RequestError(f"body must have at most {MAX_BODY_BYTES} bytes; send several batches")
    return bytes(body)


def _sentence(item: dict[str, Any]) -> str:
    """One validation error of a query parameter as text: the name, the rule and the value."""
    name = str(item["loc"][-1])
    if item["type"] == "missing":
        return f"{name} is missing"
    rule = item["msg"].replace("Input should be", "must be", 1)
    rule = rule.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    return f"{name} {rule}, got {item['input']!r}"
