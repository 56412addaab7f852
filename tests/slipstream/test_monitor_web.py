"""The monitor in a browser: real servers and real apps on loopback; who is let in, what is served, and what ends."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPResponse
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.errors import SlipError, UsageError

MISSING = [name for name in ("aiohttp", "textual_serve") if find_spec(name) is None]
needs_web = pytest.mark.skipif(bool(MISSING), reason=f"the extra `web` is not installed: no {' and no '.join(MISSING)}")
BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((path for name in BROWSERS if (path := shutil.which(name))), None)
PATIENCE = 60.0
"""A net below waits that end by themselves; no test depends on it."""

APP = """
import os
from pathlib import Path
from textual.app import App, ComposeResult
from textual.widgets import Static

class Small(App[None]):
    CSS = "Static { background: #204060; color: #ffffff; height: 1fr; }"

    def compose(self) -> ComposeResult:
        yield Static(f"process <{os.getpid()}> " + "●✓⇄▶░█╭┊ painted " * 40, markup=False)

    def on_key(self, event) -> None:
        if event.key == "q":
            self.exit()
        self.query_one(Static).update(f"key <{event.key}>")

Small().run()
Path(__file__).with_name(f"{os.getpid()}.ended").touch()
"""
DEAF = """
import os, signal, sys
signal.signal(signal.SIGTERM, signal.SIG_IGN)
said = f"process <{os.getpid()}>".encode()
os.write(1, b"__GANGLION__\\nD" + len(said).to_bytes(4, "big") + said)
signal.pause()
"""


class Served:
    """A server in a process of its own, as `slip monitor --web` is one."""

    def __init__(self, folder: Path, code: str, before: str) -> None:
        app = folder / "app.py"
        app.write_text(code)
        program = f"from slipstream import monitor_web\n{before}\nmonitor_web.serve({[sys.executable, str(app)]!r})"
        self.process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        first = self.process.stderr.readline()
        found = re.search(r"http://\S+", first)
        assert found, first + self.process.stderr.read()
        self.url = found[0]
        parts = urlsplit(self.url)
        self.authority, self.path, self.token = parts.netloc, parts.path, parts.query.removeprefix("token=")
        self.origin = f"http://{self.authority}"

    def get(self, path: str, **headers: str) -> HTTPResponse:
        """One request with exactly these headers (`_` stands for `-`), and Host unless it is among them."""
        host, _, port = self.authority.rpartition(":")
        with closing(HTTPConnection(host, int(port), timeout=PATIENCE)) as connection:
            connection.putrequest("GET", path, skip_host=True, skip_accept_encoding=True)
            for name, value in {"Host": self.authority, **headers}.items():
                connection.putheader(name.replace("_", "-"), value)
            connection.endheaders()
            response = connection.getresponse()
            response.body = response.read()  # type: ignore[attr-defined]
            return response

    def cookie(self) -> str:
        """Use the token up; the cookie for it, as a browser sends it."""
        opened = self.get(f"{self.path}?token={self.token}")
        assert opened.status == 200
        return (opened.getheader("Set-Cookie") or "").partition(";")[0]

    def socket(self, **headers: str) -> HTTPResponse:
        """Ask for the WebSocket; the answer to the handshake."""
        upgrade = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec_WebSocket_Version": "13"}
        key = base64.b64encode(bytes(16)).decode()
        return self.get(f"{self.path}ws?width=80&height=24", **upgrade, Sec_WebSocket_Key=key, **headers)


Serve = Callable[..., Served]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Serve an app; the server is ended after the test."""
    made: list[Served] = []

    def one(code: str = APP, before: str = "") -> Served:
        made.append(Served(tmp_path, code, before))
        return made[-1]

    yield one
    for served in made:
        served.process.terminate()
        served.process.wait(PATIENCE)
        assert served.process.stderr is not None
        served.process.stderr.close()


def has_ended(pid: int) -> bool:
    """Wait until that process has ended."""
    try:
        ended = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([ended], [], [], PATIENCE)[0])
    finally:
        os.close(ended)


class Client:
    """A browser's side of the socket: what a page script says and sees."""

    def __init__(self, socket: Any) -> None:
        self.socket = socket
        self._seen = ""

    async def sees(self, pattern: str) -> str:
        """Wait until it is painted; what its group matched."""
        while not (found := re.search(pattern, self._seen)):
            self._seen += (await self.socket.receive_bytes()).decode()
        return found[1]

    async def pid(self) -> int:
        """The process of its app, which paints its number."""
        return int(await self.sees(r"process <(\d+)>"))


def with_clients(served: Served, act: Callable[..., Any], count: int = 1, cookie: str | None = None) -> None:
    """Run `act` with so many clients."""
    import aiohttp

    headers = {"Origin": served.origin, "Cookie": served.cookie() if cookie is None else cookie}

    async def run() -> None:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            url = f"ws://{served.authority}{served.path}ws?width=80&height=24"
            await act(*[Client(await session.ws_connect(url, headers=headers)) for _ in range(count)])

    asyncio.run(run())


@needs_web
def test_without_the_token_or_the_cookie_nothing_is_served(serve: Serve) -> None:
    served = serve()
    for path in ("/", served.path, f"{served.path}?token=", f"{served.path}?token=wrong",
                 f"{served.path}?token=%ff%ed%a0%80", f"{served.path}textual.js",
                 f"{served.path}textual.js?token={served.token}", f"/?token={served.token}", "/static/"):  # fmt: skip
        assert served.get(path).status == 403, path
        assert served.get(path, Cookie="monitor=wrong").status == 403, path
        assert served.get(path, Cookie="monitor=\xff\xe9").status == 403, path
    assert served.socket(Origin=served.origin).status == 403
    assert served.socket(Origin=served.origin, Cookie="monitor=").status == 403
    assert served.cookie(), "none of these used the token up"


@needs_web
def test_the_token_works_once_and_the_cookie_after_it(serve: Serve) -> None:
    served = serve()
    opened = served.get(f"{served.path}?token={served.token}")
    assert opened.status == 200
    said = opened.getheader("Set-Cookie") or ""
    assert {part.strip() for part in said.split(";")[1:]} == {"HttpOnly", f"Path={served.path}", "SameSite=Strict"}
    cookie = said.partition(";")[0]
    assert served.token not in said
    assert served.get(f"{served.path}?token={served.token}").status == 403
    for path in (served.path, f"{served.path}?token={served.token}", f"{served.path}textual.js"):
        assert served.get(path, Cookie=cookie).status == 200, path
    assert served.get(f"{served.path}nothing", Cookie=cookie).status == 404


@needs_web
def test_a_name_of_others_that_resolves_to_us_is_refused(serve: Serve) -> None:
    served = serve()
    port = served.authority.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", f"localhost:{port}", "127.0.0.1", f"127.0.0.2:{port}", ""):
        assert served.get(f"{served.path}?token={served.token}", Host=host).status == 403, host
    cookie = served.cookie()
    assert served.get(served.path, Host=f"evil.example:{port}", Cookie=cookie).status == 403
    assert served.socket(Host=f"evil.example:{port}", Origin=served.origin, Cookie=cookie).status == 403


@needs_web
def test_a_page_from_elsewhere_gets_no_socket(serve: Serve) -> None:
    served = serve()
    cookie = served.cookie()
    port = served.authority.rpartition(":")[2]
    for origin in ("http://evil.example", f"http://evil.example:{port}", "http://127.0.0.1", f"https://{served.authority}",
                   "http://127.0.0.1:1", f"{served.origin}/", "null", ""):  # fmt: skip
        assert served.socket(Cookie=cookie, Origin=origin).status == 403, origin
    assert served.socket(Cookie=cookie).status == 403, "a browser always says its Origin"
    assert served.socket(Cookie=cookie, Origin=served.origin).status == 101


@needs_web
def test_the_page_names_no_other_host_and_forbids_them_all(serve: Serve) -> None:
    served = serve()
    cookie = served.cookie()
    opened = served.get(served.path, Cookie=cookie)
    page = opened.body.decode()  # type: ignore[attr-defined]
    assert set(re.findall(r"\w+://[^/\"' ]+", page)) == {f"ws://{served.authority}"}
    assert not re.search(r"[\"'(]//", page)
    style = served.get(f"{served.path}xterm.css", Cookie=cookie).body.decode()  # type: ignore[attr-defined]
    assert "url(" not in style
    assert "@import" not in style
    for answer in (opened, served.get("/")):
        assert answer.getheader("Referrer-Policy") == "no-referrer"
        policy = dict(
            part.strip().split(" ", 1) for part in str(answer.getheader("Content-Security-Policy")).split(";")
        )
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'"
        assert policy["connect-src"] == f"'self' ws://{served.authority}"
        assert not any("http" in value or "*" in value for value in policy.values())


@needs_web
def test_a_client_sees_the_app_and_types_into_it_and_its_process_ends_when_it_leaves(
    serve: Serve, tmp_path: Path
) -> None:
    served, pids = serve(), []

    async def act(one: Client, other: Client) -> None:
        pids.extend([await one.pid(), await other.pid()])
        await one.socket.send_json(["resize", {"width": 100, "height": 30}])
        await one.socket.send_json(["stdin", "x"])
        assert await one.sees(r"key <(\w+)>") == "x"
        await one.socket.close()
        assert has_ended(pids[0])
        await other.socket.send_json(["stdin", "y"])
        assert await other.sees(r"key <(\w+)>") == "y"

    with_clients(served, act, 2)
    assert pids[0] != pids[1]
    assert has_ended(pids[1]), "the connection was cut without a goodbye"
    assert {path.name for path in tmp_path.glob("*.ended")} == {f"{pid}.ended" for pid in pids}, "both were asked to"


@needs_web
def test_when_the_app_ends_its_socket_is_closed(serve: Serve) -> None:
    async def act(client: Client) -> None:
        pid = await client.pid()
        await client.socket.send_json(["stdin", "q"])
        async for _ in client.socket:
            pass
        assert has_ended(pid)

    with_clients(serve(), act)


@needs_web
@pytest.mark.parametrize("said", ["[" * 50_000, "no JSON", '["stdin"]', '["resize", {"width": "9"}]', '["other", 1]'])
def test_whoever_talks_nonsense_is_cut_off(serve: Serve, said: str) -> None:
    async def act(client: Client) -> None:
        pid = await client.pid()
        await client.socket.send_str(said)
        async for _ in client.socket:
            pass
        assert client.socket.close_code == 1003
        assert has_ended(pid)

    with_clients(serve(DEAF, "monitor_web.GRACE = 0.01"), act)


@needs_web
def test_a_process_that_does_not_listen_is_ended_all_the_same(serve: Serve) -> None:
    async def act(client: Client) -> None:
        pid = await client.pid()
        await client.socket.close()
        assert has_ended(pid)

    with_clients(serve(DEAF, "monitor_web.GRACE = 0.01"), act)


@needs_web
def test_more_clients_than_are_served_are_told_so(serve: Serve) -> None:
    from slipstream.monitor_web import CLIENTS

    served = serve(DEAF, "monitor_web.GRACE = 0.01")
    cookie = served.cookie()

    async def act(*clients: Client) -> None:
        for client in clients:
            await client.pid()
        refused = await asyncio.to_thread(served.socket, Cookie=cookie, Origin=served.origin)
        assert refused.status == 503

    with_clients(served, act, CLIENTS, cookie)


@needs_web
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_server_and_every_process(serve: Serve, number: int) -> None:
    served = serve()

    async def act(*clients: Client) -> None:
        pids = [await client.pid() for client in clients]
        served.process.send_signal(number)
        for client in clients:
            async for _ in client.socket:
                pass
        assert all(has_ended(pid) for pid in pids)

    with_clients(served, act, 2)
    assert served.process.wait(PATIENCE) == 0
    assert served.process.stderr is not None
    assert "Traceback" not in served.process.stderr.read()


@needs_web
def test_no_process_outlives_a_server_that_is_killed(serve: Serve) -> None:
    served = serve()

    async def act(client: Client) -> None:
        pid = await client.pid()
        served.process.kill()
        assert has_ended(pid)

    with_clients(served, act)


@needs_web
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "localhost", "example.org", "", "127.0.0.1 "])
def test_it_is_served_on_loopback_addresses_only(host: str) -> None:
    from slipstream.monitor_web import serve

    with pytest.raises(UsageError) as refused:
        serve(["true"], host=host)
    assert host in str(refused.value)
    assert refused.value.hint == "127.0.0.1"


@needs_web
def test_a_port_that_is_taken_is_named(serve: Serve) -> None:
    from slipstream.monitor_web import serve as serve_here

    port = serve().authority.rpartition(":")[2]
    with pytest.raises(UsageError, match=port):
        serve_here(["true"], port=int(port))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["width", "height", "a"]), inner),
)
messages = st.tuples(st.sampled_from(["stdin", "resize", "focus", "blur", "ping", "x"]), json_values).map(json.dumps)


@needs_web
@given(st.text() | messages | st.builds(json.dumps, json_values) | st.just('["stdin", "\\ud800"]'))
def test_whatever_a_browser_says_becomes_a_whole_packet_or_an_error(text: str) -> None:
    from slipstream.monitor_web import packet

    try:
        said = packet(text)
    except ValueError:
        return
    if said is not None:
        assert said[:1] in (b"D", b"M")
        assert len(said) == 5 + int.from_bytes(said[1:5], "big")
        if said[:1] == b"M" and (size := json.loads(said[5:])).get("type") == "resize":
            assert 1 <= size["width"] <= 500
            assert 1 <= size["height"] <= 500


@pytest.mark.parametrize("name", ["aiohttp", "textual_serve"])
def test_without_the_extra_the_error_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "slipstream.monitor_web", raising=False)
    if name != "textual_serve" and "textual_serve" in MISSING:
        monkeypatch.setitem(sys.modules, "textual_serve", type(sys)("textual_serve"))
    with pytest.raises(SlipError, match=name) as missing:
        __import__("slipstream.monitor_web")
    assert missing.value.hint == "pip install 'slipstream-mesh[web]'"


class Browser:
    """A headless Chromium, told what to do through its debugging socket (Chrome DevTools Protocol)."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._session, self._count = socket, {}, 0
        self.events: list[dict[str, Any]] = []

    async def do(self, method: str, **params: Any) -> dict[str, Any]:
        """One command; its result. What happens meanwhile is kept."""
        self._count += 1
        await self._socket.send_json({"id": self._count, "method": method, "params": params, **self._session})
        while (told := await self._socket.receive_json()).get("id") != self._count:
            self.events.append(told)
        assert "result" in told, told
        result: dict[str, Any] = told["result"]
        return result

    async def tab(self) -> None:
        """A new tab, which commands go to from now on."""
        target = await self.do("Target.createTarget", url="about:blank", width=1000, height=600)
        attached = await self.do("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}

    async def value(self, script: str) -> Any:
        """What a script in the page comes to."""
        told = await self.do("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def colours(self) -> tuple[bytes, dict[str, int]]:
        """The page as a PNG once it is painted anew, and its pixels by their colours, as the browser reads it."""
        await self.value("new Promise(requestAnimationFrame)")
        picture = (await self.do("Page.captureScreenshot"))["data"]
        counts: dict[str, int] = await self.value(
            f"""(async () => {{
                const image = new Image(); image.src = "data:image/png;base64,{picture}"; await image.decode();
                const pen = new OffscreenCanvas(image.width, image.height).getContext("2d"), counts = {{}};
                pen.drawImage(image, 0, 0);
                const data = pen.getImageData(0, 0, image.width, image.height).data;
                for (let i = 0; i < data.length; i += 4)
                    {{ const key = data.slice(i, i + 3).join(); counts[key] = (counts[key] || 0) + 1; }}
                return counts; }})()"""
        )
        return base64.b64decode(picture), counts


@needs_web
@pytest.mark.skipif(BROWSER is None, reason=f"there is no browser: none of {', '.join(BROWSERS)}")
def test_a_browser_paints_the_app_and_asks_nobody_else(serve: Serve, tmp_path: Path) -> None:
    import aiohttp

    served = serve()
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader",
               "--remote-debugging-port=0", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    chromium = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert chromium.stderr is not None
    address = next(found[0] for line in chromium.stderr if (found := re.search(r"ws://\S+", line)))

    async def look() -> bytes:
        async with (
            asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session,
            session.ws_connect(address, max_msg_size=1 << 26) as socket,
        ):  # fmt: skip
            browser = Browser(socket)
            await browser.tab()
            for domain in ("Page", "Network", "Log", "Runtime"):
                await browser.do(f"{domain}.enable")
            await browser.do("Page.navigate", url=served.url)
            screen, counts = await browser.colours()
            while counts.get("32,64,96", 0) < 300_000:
                screen, counts = await browser.colours()
            text = counts.get("255,255,255", 0)
            assert text > 1000, "the app's background is there, and its text is not"
            await browser.do("Input.dispatchKeyEvent", type="keyDown", key="x", text="x")
            while counts.get("255,255,255", 0) > text / 2:  # `key <x>` is shorter
                _, counts = await browser.colours()
            assert await browser.value("[...document.fonts].map(font => font.status)") == ["loaded"]
            asked = [event["params"]["request"]["url"] for event in browser.events
                     if event.get("method") == "Network.requestWillBeSent"]  # fmt: skip
            assert {urlsplit(url).netloc for url in asked if not url.startswith("data:")} == {served.authority}
            entries = [event["params"]["entry"] for event in browser.events if event.get("method") == "Log.entryAdded"]
            assert [entry for entry in entries if entry["level"] == "error"] == []
            assert not any(event.get("method") == "Runtime.exceptionThrown" for event in browser.events)
            return screen

    try:
        screen = asyncio.run(look())
    finally:
        os.killpg(chromium.pid, signal.SIGKILL)  # it may be a shell script that started the browser
        chromium.stderr.read()  # until none of its processes is left
        chromium.wait()
        chromium.stderr.close()
    (tmp_path / "monitor.png").write_bytes(screen)
