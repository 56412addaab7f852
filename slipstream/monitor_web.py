"""`slip monitor --web`: a terminal UI in a browser on this computer, through textual-serve's page script (extra `web`).

Laws:
- Loopback only. Nothing is served without the cookie, and only the first request that shows the token gets it.
- The Host of every request is ours (no name of others that resolves to us), and so is the Origin of the WebSocket.
- The page loads nothing from elsewhere; the Content-Security-Policy forbids it.
- A process for each client, a few clients at most; it ends when its socket closes. What it may do, its command decides:
  a read-only monitor has the daemon's read-only socket, whatever the browser sends.
"""

from __future__ import annotations

import asyncio
import ctypes
import json
import os
import secrets
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from html import escape
from importlib.resources import files
from ipaddress import ip_address
from string import Template
from typing import Final

from .core.errors import SlipError, UsageError

try:
    import textual_serve as _textual_serve  # noqa: F401  (its files are served below)
    from aiohttp import WSMsgType, web
except ImportError as error:
    raise SlipError(
        f"the monitor in a browser needs the package {error.name}", "", "pip install 'slipstream-mesh[web]'"
    ) from None

CLIENTS: Final = 4
"""Browsers' tabs at a time; each costs a process."""
GRACE: Final = 3.0
"""Seconds that a process has to end once it is told to."""
_MESSAGE: Final = 64 * 1024
_PR_SET_PDEATHSIG: Final = 1
_FILES: Final = {
    "textual.js": ("js/textual.js", "text/javascript"),
    "xterm.css": ("css/xterm.css", "text/css"),
    "mono.ttf": ("fonts/RobotoMono-VariableFont_wght.ttf", "font/ttf"),
}
"""Name in a URL → what of textual-serve it is."""
_NO: Final = "Only the link that `slip monitor --web` printed lets a browser in, once; start it again for another.\n"

# Styles are inline because the script makes its own. The text in the terminal's font has it loaded before the script
# measures a cell.
_PAGE: Final = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>$title</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="xterm.css">
<style>
@font-face { font-family: "Roboto Mono"; src: url("mono.ttf"); }
html, body { margin: 0; height: 100%; overflow: hidden; background: #000; color: #ccc; }
p { position: absolute; top: 40%; width: 100%; text-align: center; font-family: "Roboto Mono", monospace; }
.textual-terminal { height: 100%; opacity: 0; }
.-first-byte .textual-terminal { opacity: 1; }
.ended, .-first-byte .opening, .-closed .opening { display: none; }
.-closed .ended { display: block; }
.-closed .textual-terminal { opacity: 0.3; }
</style>
<script src="textual.js"></script>
</head>
<body>
<div class="textual-terminal" data-session-websocket-url="$socket" data-font-size="16"></div>
<p class="opening">$title: opening …</p>
<p class="ended">$title: ended. Reload the page to open it again.</p>
<script src="focus.js"></script>
</body>
</html>
""")
_FOCUS: Final = """new MutationObserver((_, observer) => {
  if (!document.body.classList.contains("-first-byte")) return;
  observer.disconnect();
  document.querySelector(".xterm-helper-textarea").focus();
}).observe(document.body, {attributes: true});
"""
"""Keys go to the terminal without a click. Not before the app paints: until then it cannot be told that it has them."""


def serve(command: Sequence[str], host: str = "127.0.0.1", port: int = 0, title: str = "Slipstream monitor") -> int:
    """Serve a Textual app, until SIGINT or SIGTERM: `command` is run for each client; the link goes to stderr.
    The exit code: 0.

    `host` is a loopback address (not a name), `port` 0 takes a free one. Behind `ssh -L PORT:127.0.0.1:PORT` it is
    reached under the same port only.

    Raises:
        UsageError: `host` is no loopback address, or the port cannot be had.
    """
    try:
        address = ip_address(host)
    except ValueError:
        raise UsageError(f"{host} is not an address", "the monitor is served on loopback only", "127.0.0.1") from None
    if not address.is_loopback:
        raise UsageError(f"the monitor is not served on {host}", "others could reach it there", "127.0.0.1")
    asyncio.run(_serve(Door(title), command, host, port))
    return 0


async def _serve(door: Door, command: Sequence[str], host: str, port: int) -> None:
    runner = web.AppRunner(application(door, command), access_log=None, shutdown_timeout=3 * GRACE)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UsageError(f"port {port} cannot be had", error.strerror or str(error), "--port 0") from None
        door.authority = f"[{host}]" if ":" in host else host
        if (number := runner.addresses[0][1]) != 80:
            door.authority += f":{number}"
        ended = asyncio.Event()
        for signal_number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(signal_number, ended.set)
        print(f"The monitor is at {door.link()}", file=sys.stderr)
        print("Only the first browser that opens this link is let in; Ctrl-C ends it.", file=sys.stderr, flush=True)
        await ended.wait()
    finally:
        await runner.cleanup()


class Door:
    """Who is let in: the first who shows the token gets a cookie, and from then on whoever shows that."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.authority = ""
        """Our Host, with the port; empty until it is bound, and then nobody is let in."""
        self.path = f"/{secrets.token_urlsafe(9)}/"
        """Where everything is. Browsers send cookies to all ports of a host, so ours has a path that others lack."""
        self._token = secrets.token_urlsafe(24)
        self._cookie = secrets.token_urlsafe(24)

    @property
    def origin(self) -> str:
        """Our pages' Origin (RFC 6454)."""
        return f"http://{self.authority}"

    def link(self) -> str:
        """The link that lets one browser in."""
        return f"{self.origin}{self.path}?token={self._token}"

    async def guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """The middleware before every handler."""
        if not self.authority or request.headers.getall("Host", []) != [self.authority]:
            raise web.HTTPForbidden(text=_NO)
        if any(origin != self.origin for origin in request.headers.getall("Origin", [])):
            raise web.HTTPForbidden(text=_NO)
        if _same(request.cookies.get("monitor", ""), self._cookie):
            return await handler(request)
        if not (request.path == self.path and self._token and _same(request.query.get("token", ""), self._token)):
            raise web.HTTPForbidden(text=_NO)
        self._token = ""
        response = await handler(request)
        response.set_cookie("monitor", self._cookie, path=self.path, httponly=True, samesite="Strict")
        return response

    async def seal(self, request: web.Request, response: web.StreamResponse) -> None:
        """The headers of every response."""
        response.headers["Content-Security-Policy"] = (
            "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; font-src 'self'; img-src data:; "
            f"connect-src 'self' ws://{self.authority}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"

    async def page(self, request: web.Request) -> web.Response:
        """The one page."""
        socket = f"ws://{self.authority}{self.path}ws"
        text = _PAGE.substitute(title=escape(self.title), socket=escape(socket))
        return web.Response(text=text, content_type="text/html")


def _same(given: str, ours: str) -> bool:
    return secrets.compare_digest(given.encode("utf-8", "surrogateescape"), ours.encode())


def application(door: Door, command: Sequence[str]) -> web.Application:
    """What is served behind the door."""
    app = web.Application(middlewares=[web.middleware(partial(door.guard))])
    app.on_response_prepare.append(door.seal)
    app.router.add_get(door.path, door.page, allow_head=False)
    given = {name: (_read(inside), kind) for name, (inside, kind) in _FILES.items()}
    for name, (body, kind) in {**given, "focus.js": (_FOCUS.encode(), "text/javascript")}.items():
        app.router.add_get(door.path + name, _file(body, kind), allow_head=False)
    clients = Clients(command)
    app.router.add_get(f"{door.path}ws", clients.one, allow_head=False)
    app.on_shutdown.append(clients.close)
    return app


def _read(inside: str) -> bytes:
    return files("textual_serve").joinpath("static", inside).read_bytes()


def _file(body: bytes, content_type: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def give(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    return give


class Clients:
    """The clients, each a socket and a process."""

    def __init__(self, command: Sequence[str]) -> None:
        self._command = tuple(command)
        self._open: set[web.WebSocketResponse] = set()
        self._with_us = _ends_with(os.getpid())

    async def one(self, request: web.Request) -> web.WebSocketResponse:
        """Show the app to one client, until either ends."""
        if "Origin" not in request.headers:
            raise web.HTTPForbidden(text=_NO)
        if len(self._open) == CLIENTS:
            raise web.HTTPServiceUnavailable(text=f"{CLIENTS} tabs are open, and no more are served.\n")
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=_MESSAGE)
        self._open.add(socket)
        try:
            await socket.prepare(request)
            process = await asyncio.create_subprocess_exec(
                *self._command, stdin=PIPE, stdout=PIPE, env=_environment(request.query), preexec_fn=self._with_us
            )
            try:
                async with asyncio.TaskGroup() as group:
                    painting = group.create_task(_paint(process, socket))
                    await _listen(process, socket)
                    painting.cancel()
            finally:
                await _end(process)
        finally:
            self._open.discard(socket)
        return socket

    async def close(self, app: web.Application) -> None:
        """Close every socket, so that every process ends."""
        for socket in list(self._open):
            await socket.close(code=1001)


def _ends_with(server: int) -> Callable[[], None]:
    """What has a new process get SIGTERM when the server is gone, `kill -9` included (prctl(2)); on Linux."""
    if sys.platform != "linux":
        return lambda: None
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != server:
            os._exit(0)

    return ask


def _environment(query: Mapping[str, str]) -> dict[str, str]:
    """What makes a Textual app speak with us rather than with a terminal (`textual/drivers/web_driver.py`)."""
    sizes = {}
    for name, parameter, usual in (("COLUMNS", "width", 80), ("ROWS", "height", 24)):
        text = query.get(parameter, "")
        sizes[name] = str(_cells(int(text)) if text.isdecimal() and len(text) < 5 else usual)
    driver = {"TEXTUAL_DRIVER": "textual.drivers.web_driver:WebDriver", "TEXTUAL_COLOR_SYSTEM": "truecolor"}
    return {**os.environ, **driver, **sizes}


def _cells(number: int) -> int:
    return max(1, min(500, number))


def packet(text: str) -> bytes | None:
    """What a browser says, as what the app reads: `D` with keys or `M` with JSON, each after its length.

    Raises:
        ValueError: it is nothing that the page script says.
    """
    try:
        said = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    match said:
        case ["stdin", str(keys)]:
            return _packed(b"D", keys.encode())
        case ["resize", {"width": int(width), "height": int(height)}]:
            return _meta({"type": "resize", "width": _cells(width), "height": _cells(height)})
        case ["focus" | "blur" as kind]:
            return _meta({"type": kind})
        case ["ping", str()]:
            return None
    raise ValueError(f"no message of the page script: {text[:40]}")


def _meta(values: dict[str, object]) -> bytes:
    return _packed(b"M", json.dumps(values).encode())


def _packed(kind: bytes, payload: bytes) -> bytes:
    return kind + len(payload).to_bytes(4, "big") + payload


async def _listen(process: Process, socket: web.WebSocketResponse) -> None:
    """Hand on what the browser says, until it leaves or talks nonsense."""
    assert process.stdin is not None
    async for message in socket:
        try:
            if message.type != WSMsgType.TEXT:
                raise ValueError("no text")
            said = packet(message.data)
        except ValueError:
            await socket.close(code=1003)
            return
        if said is not None:
            process.stdin.write(said)
            with suppress(ConnectionError):  # the process is gone: _paint sees it, and closes the socket
                await process.stdin.drain()


async def _paint(process: Process, socket: web.WebSocketResponse) -> None:
    """Hand on what the app paints, until it ends; what else it asks of a browser (links, files) is not done."""
    stdout = process.stdout
    assert stdout is not None
    with suppress(asyncio.IncompleteReadError, ConnectionResetError):  # the process, or the browser, is gone
        await stdout.readuntil(b"__GANGLION__\n")
        while True:
            head = await stdout.readexactly(5)
            payload = await stdout.readexactly(int.from_bytes(head[1:], "big"))
            if head[:1] == b"D":
                await socket.send_bytes(payload)
            elif head[:1] == b"M" and json.loads(payload)["type"] == "exit":
                break
    await socket.close()


async def _end(process: Process) -> None:
    """End the process: asked first, then not asked."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(GRACE):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
