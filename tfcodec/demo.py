"""A web page, served on this machine only, that compares codecs on a photograph.

It shows ours beside JPEG, WebP and AVIF at the same file size. Any page in the browser
could send requests to this server, so only those of our own page are answered: see
`refusal`. Nothing is written to disk. Needs Starlette and Uvicorn.
"""

from __future__ import annotations

import asyncio
import collections
import concurrent.futures
import contextlib
import dataclasses
import errno
import functools
import json
import pathlib
import re
import secrets
import socket
import threading
from collections.abc import Callable, Mapping

import numpy as np
import uvicorn
from starlette.applications import Starlette
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from tfcodec import classical, codec, registry, report
from tfcodec.photographs import OTHERS, OURS, Limits, Photograph

HOST = "127.0.0.1"
PORT = 8642  # by default, if it is free
NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")  # allowed in the Host header
# A header that every POST must have. A browser lets a page of another origin send it
# only if the server agrees (CORS), and ours does not.
HEADER = "X-Tfcodec"
TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".webp": "image/webp",
         ".avif": "image/avif"}  # fmt: skip
SECURITY = {
    "Cache-Control": "no-store",  # a browser's cache is on disk
    "Content-Security-Policy": "default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def warm() -> None:
    """Loads the model, so that the first photograph need not wait for it."""
    codec.decompress(codec.compress(np.zeros([64, 64, 3], np.uint8)))


def in_thread(function: Callable) -> asyncio.Future:
    """Calls a function in a thread of its own; returns a future of its result.

    When the server ends, it does not wait for the thread. It would wait for those in
    the pools of asyncio and Starlette, even if one is loading TensorFlow.
    """
    future: concurrent.futures.Future = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return asyncio.wrap_future(future)


def refusal(method: str, headers: Mapping[str, str]) -> str:
    """Returns why a request is refused, or "".

    `Host` refuses pages whose domain name was made to resolve to this machine (DNS
    rebinding); `Origin` and our header refuse pages that send requests across origins.
    """
    host = headers.get("host", "")
    if not NAMES.fullmatch(host):
        return "the demo answers only at 127.0.0.1 and localhost"
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return "requests from other pages are refused"
    if method not in ("GET", "HEAD") and HEADER.lower() not in headers:
        return f"the request has no header {HEADER}"
    return ""


def number_in(document: object, name: str) -> float | None:
    """Returns the number of a name in a JSON object; None if the name is missing.

    Raises:
        ValueError: the value is no number, or `document` is no object.
    """
    if not isinstance(document, dict):
        raise ValueError("the request is no JSON object")
    value = document.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number")
    return value


def failure(error: Exception) -> tuple[int, str]:
    """Returns (status, text) of the answer to a request that ended in `error`."""
    if isinstance(error, HTTPException):
        status, words = error.status_code, error.detail
    elif isinstance(error, ValueError):
        status, words = 400, str(error)
    else:
        status, words = 500, f"{type(error).__name__}: {error}"
    return status, " ".join(words.split())[:500]


async def body_of(request, largest: int) -> bytes:
    """Returns the body of a Starlette request.

    Raises:
        HTTPException: it has more than `largest` bytes.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise HTTPException(
                413, f"more than {largest / 1e6:g} MB, the largest request accepted"
            )
        parts.append(part)
    return b"".join(parts)


async def one_at_a_time(lock: asyncio.Lock, function: Callable, request=None):
    """Calls a function in a thread, while no other call holds the lock.

    Raises:
        HTTPException: the client of `request` has disconnected while this waited.
    """
    async with lock:
        if request and await request.is_disconnected():
            raise HTTPException(499, "the client has disconnected")
        return await in_thread(function)


class Demo:
    """Answers the page's requests: for the page, photographs, figures and files.

    At most one photograph is read at a time, and one compressed.

    Args:
        limits: on photographs and requests.
        first: a photograph that the page shows when it opens.

    Attributes:
        photographs: those that were opened on the page, by id, oldest first.
        reading, coding: locks, made when the server starts.
    """

    def __init__(self, limits: Limits, first: Photograph | None):
        self.limits, self.first = limits, first
        self.photographs: collections.OrderedDict[str, Photograph]
        self.photographs = collections.OrderedDict()
        self.reading = self.coding = None

    @contextlib.asynccontextmanager
    async def running(self, app):
        """Starlette's lifespan: makes locks, and starts to load the model."""
        # Not in `__init__`, as locks belong to the event loop that is running.
        self.reading, self.coding = asyncio.Lock(), asyncio.Lock()
        warming = asyncio.create_task(one_at_a_time(self.coding, warm))
        yield
        warming.cancel()

    def photograph(self, id_: str) -> Photograph:
        """Returns the photograph of an id.

        Raises:
            HTTPException: there is none, or it was dropped for newer ones.
        """
        if self.first and id_ == self.first.id:
            return self.first
        if id_ not in self.photographs:
            raise HTTPException(404, "the photograph is no longer here; open it again")
        return self.photographs[id_]

    def page(self) -> tuple[str, str]:
        """Returns (the HTML of the page, its Content-Security-Policy)."""
        nonce = secrets.token_urlsafe(16)
        others = [
            {"name": name, "label": label, "missing": classical.CODECS[name].missing()}
            for name, label in OTHERS.items()
        ]
        data = {
            "others": others, "photograph": self.first and self.first.description(),
            "realism": registry.resolve(registry.DEFAULT).realistic,
            "header": HEADER, **dataclasses.asdict(self.limits),
        }  # fmt: skip
        text = report.assembled("demo.html", data).replace("@@NONCE@@", nonce)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; img-src 'self' data:; "
            f"style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; "
            "form-action 'none'; frame-ancestors 'none'"
        )
        return text, policy

    async def upload(self, request) -> dict:
        """Opens the photograph in a request's body; returns its description."""
        data = await body_of(request, self.limits.upload)
        name = request.query_params.get("name", "")[:100] or "photograph"
        photograph = await one_at_a_time(
            self.reading, lambda: Photograph(data, name, self.limits), request
        )
        self.photographs[photograph.id] = photograph
        while len(self.photographs) > self.limits.photographs:
            self.photographs.popitem(last=False)
        return photograph.description()

    async def code(self, request) -> dict:
        """Compresses a photograph by the codec that a request names; returns figures.

        Raises:
            ValueError: it gives not exactly one of quality and size, or one that the
                codec cannot reach.
        """
        photograph = self.photograph(request.path_params["id"])
        name = request.path_params["codec"]
        document = json.loads(await body_of(request, 1000))
        level = number_in(document, "quality")
        max_bytes = number_in(document, "max_bytes")
        if (level is None) == (max_bytes is None):
            raise ValueError("either quality or max_bytes is wanted, and not both")
        if name == OURS:
            realism = number_in(document, "realism")
            work = functools.partial(photograph.ours, level, max_bytes, realism)
        elif name in OTHERS and max_bytes is not None:
            work = functools.partial(photograph.theirs, name, max_bytes)
        else:
            raise ValueError(f"no codec {name!r}, or one that takes only max_bytes")
        return await one_at_a_time(self.coding, work, request)

    def file(self, request) -> tuple[bytes, str]:
        """Returns (a file of a photograph, its media type).

        Raises:
            HTTPException: there is no such file.
        """
        name = request.path_params["file"]
        data = self.photograph(request.path_params["id"]).file(name)
        if data is None:
            raise HTTPException(404, "the file is no longer here")
        return data, TYPES.get(name[name.rfind(".") :], "application/octet-stream")


class Guard:
    """ASGI middleware that answers only our own page: see `refusal`.

    It adds the headers `SECURITY`, by which no other page can use the answers.

    Args:
        app: the ASGI application to protect.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def guarded(message):
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        reason = refusal(scope["method"], Headers(scope=scope))
        app = JSONResponse({"error": reason}, 403) if reason else self.app
        await app(scope, receive, guarded)


def application(limits: Limits, first: Photograph | None = None) -> Starlette:
    """Returns the server, an ASGI application that maps URLs to methods of `Demo`.

    Args:
        limits, first: as for `Demo`.
    """
    demo = Demo(limits, first)

    async def page(request):
        text, policy = demo.page()
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    async def upload(request):
        return JSONResponse(await demo.upload(request))

    async def code(request):
        return JSONResponse(await demo.code(request))

    async def file(request):
        data, kind = demo.file(request)
        return Response(data, media_type=kind)

    async def failed(request, error):
        status, words = failure(error)
        return JSONResponse({"error": words}, status)

    kinds = (HTTPException, ValueError, 500)
    return Starlette(
        routes=[
            Route("/", page),
            Route("/photographs", upload, methods=["POST"]),
            Route("/photographs/{id}/{codec}", code, methods=["POST"]),
            Route("/photographs/{id}/{file}", file),
        ],
        middleware=[Middleware(Guard)],
        exception_handlers=dict.fromkeys(kinds, failed),
        lifespan=demo.running,
    )


def listening(port: int | None) -> socket.socket:
    """Returns a listening socket that only this machine can reach.

    Args:
        port: 0 for any free one; by default `PORT`, or any free one if that is in use.

    Raises:
        OSError: the port cannot be used.
    """
    if port is None:
        try:
            return socket.create_server((HOST, PORT))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
    try:
        return socket.create_server((HOST, port or 0))
    except OSError as error:
        words = error.strerror or str(error)
        raise OSError(error.errno, words, f"{HOST}:{port}") from None


def serve(
    announce: Callable[[str], None],
    path: str | None,
    port: int | None,
    limits: Limits,
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        announce: called with the page's address when it can be opened.
        path: of a photograph to show first, or None.
        port: as for `listening`.
        limits: on photographs and requests.

    Raises:
        OSError: the port cannot be used, or the photograph not be read.
        ValueError: the file is no photograph.
    """
    first = None
    if path is not None:
        path = pathlib.Path(path)
        first = Photograph(path.read_bytes(), path.name, limits)
    app = application(limits, first)
    with listening(port) as sock:
        server = uvicorn.Server(
            uvicorn.Config(
                app, log_level="warning", lifespan="on", timeout_graceful_shutdown=1
            )
        )
        # Connections made before the server has started wait in the socket's queue.
        url = f"http://{HOST}:{sock.getsockname()[1]}/"
        threading.Thread(target=announce, args=[url], daemon=True).start()
        server.run(sockets=[sock])
