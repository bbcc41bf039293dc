"""A page, served to this machine alone, that shows a photograph as codecs make it.

Ours beside JPEG, WebP and AVIF at the same file size. Any page that the browser shows
could send requests here, so only those of our own page are answered: see `refusal`.
Nothing is written to disk. Needs Starlette and Uvicorn.
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

from tfcodec import classical, codec, registry, report
from tfcodec.photographs import OTHERS, OURS, Limits, Photograph

HOST = "127.0.0.1"
PORT = 8642  # by default, where it is free
NAMES = re.compile(r"(127\.0\.0\.1|localhost)(:\d+)?")
# Of every request that does something. No page of another origin can send it, unless a
# server allows that when the browser asks, and ours does not.
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
    """Starts TensorFlow and loads the model, so that no photograph waits for it."""
    codec.decompress(codec.compress(np.zeros([64, 64, 3], np.uint8)))


def in_thread(function: Callable) -> asyncio.Future:
    """Returns what a call in a thread will return; the end of the loop does not wait.

    The thread pools of asyncio and Starlette do, for all of TensorFlow's start.
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
    """Returns why a request is not answered, or nothing.

    The `Host` keeps out pages whose name was made to lead here (DNS rebinding), the
    `Origin` and our header those that send requests across origins.
    """
    host = headers.get("host", "")
    if not NAMES.fullmatch(host):
        return "only 127.0.0.1 and localhost are served here"
    if headers.get("origin", f"http://{host}") != f"http://{host}":
        return "another page may not ask"
    if method not in ("GET", "HEAD") and HEADER.lower() not in headers:
        return f"a request without {HEADER}"
    return ""


def number_in(document: object, name: str) -> float | None:
    """Returns a number of a JSON object; None if it has none of that name.

    Raises:
        ValueError: it is no number, or there is no object.
    """
    value = document.get(name) if isinstance(document, dict) else document
    if value is None and isinstance(document, dict):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name} must be a number")
    return value


class Refused(Exception):
    """What a request asks for cannot be had.

    Attributes:
        status_code, detail: status and words of the answer, by the names that
            Starlette's own exceptions have for them.
    """

    def __init__(self, status_code: int, detail: str):
        super().__init__(detail)
        self.status_code, self.detail = status_code, detail


def failure(error: Exception) -> tuple[int, str]:
    """Returns status and words of the answer to a request that ended in `error`."""
    if hasattr(error, "status_code"):  # `Refused`, or one of Starlette's own
        status, words = error.status_code, error.detail
    elif isinstance(error, ValueError):
        status, words = 400, str(error)
    else:
        status, words = 500, f"{type(error).__name__}: {error}"
    return status, " ".join(words.split())[:500]


async def body_of(request, largest: int) -> bytes:
    """Returns the body of a Starlette request, of at most so many bytes.

    Raises:
        Refused: it is longer.
    """
    parts, size = [], 0
    async for part in request.stream():
        size += len(part)
        if size > largest:
            raise Refused(
                413, f"more than {largest / 1e6:g} MB, which is the most it takes"
            )
        parts.append(part)
    return b"".join(parts)


async def one_at_a_time(lock: asyncio.Lock, function: Callable, request=None):
    """Calls a function in a thread, while no other call holds the lock.

    Raises:
        Refused: whoever sent the request left before it was its turn.
    """
    async with lock:
        if request and await request.is_disconnected():
            raise Refused(499, "no one waits for it")
        return await in_thread(function)


class Demo:
    """What the page's requests get: itself, photographs, figures and files.

    One photograph is read at a time, and one compressed.

    Args:
        limits: what it takes.
        first: a photograph that the page shows when it opens.

    Attributes:
        photographs: those that were opened on the page, by their id, oldest first.
        reading, coding: locks, from when the server starts.
    """

    def __init__(self, limits: Limits, first: Photograph | None):
        self.limits, self.first = limits, first
        self.photographs: collections.OrderedDict[str, Photograph]
        self.photographs = collections.OrderedDict()
        self.reading = self.coding = None

    @contextlib.asynccontextmanager
    async def running(self, app):
        """Loads the model while the server begins; what Starlette calls a lifespan."""
        # Not before: locks belong to a loop.
        self.reading, self.coding = asyncio.Lock(), asyncio.Lock()
        warming = asyncio.create_task(one_at_a_time(self.coding, warm))
        yield
        warming.cancel()

    def photograph(self, id_: str) -> Photograph:
        """Returns an open photograph.

        Raises:
            Refused: it is not open, or no more.
        """
        if self.first and id_ == self.first.id:
            return self.first
        if id_ not in self.photographs:
            raise Refused(404, "the photograph is no longer here; open it again")
        return self.photographs[id_]

    def page(self) -> tuple[str, str]:
        """Returns the page's HTML, and the Content-Security-Policy it is sent with."""
        nonce = secrets.token_urlsafe(16)
        others = [
            {"name": name, "label": label, "missing": classical.CODECS[name].missing()}
            for name, label in OTHERS.items()
        ]
        data = {
            "others": others, "photograph": self.first and self.first.description(),
            "realism": registry.resolve(codec.DEFAULT_MODEL).realistic,
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
        """Opens the photograph that a request brings; returns its description."""
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
        """Returns figures of what a codec makes of a photograph, as a request asks.

        Raises:
            ValueError: it names no quality or size, or one that the codec cannot do.
        """
        photograph = self.photograph(request.path_params["id"])
        name = request.path_params["codec"]
        document = json.loads(await body_of(request, 1000))
        level = number_in(document, "quality")
        max_bytes = number_in(document, "max_bytes")
        if (level is None) == (max_bytes is None):
            raise ValueError("quality or max_bytes is wanted")
        if name == OURS:
            realism = number_in(document, "realism")
            work = functools.partial(photograph.ours, level, max_bytes, realism)
        elif name in OTHERS and max_bytes is not None:
            work = functools.partial(photograph.theirs, name, max_bytes)
        else:
            raise ValueError(f"no codec {name!r} that takes that")
        return await one_at_a_time(self.coding, work, request)

    def file(self, request) -> tuple[bytes, str]:
        """Returns a file that belongs to a photograph, and its media type."""
        name = request.path_params["file"]
        data = self.photograph(request.path_params["id"]).file(name)
        if data is None:
            raise Refused(404, "the file is no longer here")
        return data, TYPES.get(name[name.rfind(".") :], "application/octet-stream")


class Guard:
    """Answers no one but our own page, and lets no other page use the answers.

    Args:
        app: the ASGI application behind it.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        from starlette.datastructures import Headers, MutableHeaders
        from starlette.responses import JSONResponse

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


def application(limits: Limits = Limits(), first: Photograph | None = None):  # noqa: B008
    """Returns the server, an ASGI application: what `Demo` says, in HTTP.

    Args:
        limits, first: as of `Demo`.

    Raises:
        ValueError: Starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.exceptions import HTTPException
        from starlette.middleware import Middleware
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError as error:
        raise missing(error) from None

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

    kinds = (HTTPException, Refused, ValueError, 500)
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


def missing(error: ImportError) -> ValueError:
    """Returns what to raise where the server's packages are not installed."""
    return ValueError(f"the demo needs {error.name}: pip install 'tfcodec[demo]'")


def listening(port: int | None = None) -> socket.socket:
    """Returns a socket of this machine's own, at `port` or by default any free one.

    Raises:
        OSError, ValueError: that port cannot be had.
    """
    if not 0 <= (port or 0) < 65536:
        raise ValueError(f"a port is from 0 to 65535, not {port}")
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
    path: str | None = None,
    port: int | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> None:
    """Serves the page until the process is interrupted.

    Args:
        announce: called with the page's address when it can be opened.
        path: a photograph to begin with.
        port: see `listening`.
        limits: what it takes.

    Raises:
        OSError, ValueError: no such port or photograph, or no Starlette here.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise missing(error) from None
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
        # What comes before the server has begun waits in the socket's queue.
        url = f"http://{HOST}:{sock.getsockname()[1]}/"
        threading.Thread(target=announce, args=[url], daemon=True).start()
        server.run(sockets=[sock])
