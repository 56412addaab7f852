"""The control socket: its lines, what garbage and floods do to it, and who waits for whom."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest

from slipstream import control, places
from slipstream.control_server import CLIENTS, ControlServer, Outbox, Talk
from slipstream.core.errors import NotRunning, SlipError, UsageError

Raw = Callable[[bytes], list[dict[str, Any]]]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# -- lines -------------------------------------------------------------------------------------------------------------


def test_a_line_carries_what_json_lacks() -> None:
    line = {"bytes": b"\x00\xff", "nan": float("nan"), "far": [float("inf"), 1.5], "set": {2, 1}, 7: "seven"}
    assert json.loads(control.encode(line)) == {
        "bytes": {"$bytes": "AP8="}, "nan": None, "far": [None, 1.5], "set": [1, 2], "7": "seven",
    }  # fmt: skip


def test_a_line_stays_one_line_whatever_is_in_it() -> None:
    line = {"text": "a\nb\r\u2028\ud800c"}
    encoded = control.encode(line)
    assert encoded.count(b"\n") == 1
    assert encoded.endswith(b"\n")


@pytest.mark.anyio
async def test_a_full_outbox_drops_the_oldest_and_says_how_many() -> None:
    box = Outbox(limit=3)
    for i in range(8):
        box.tell(n=i)
    await box.wait()
    assert [box.take() for _ in range(5)] == [{"gap": 5}, {"n": 5}, {"n": 6}, {"n": 7}, None]


# -- the server by itself ----------------------------------------------------------------------------------------------


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def ask(self, verb: str) -> Client:
        self._writer.write(control.encode({"v": 1, "verb": verb}))
        await self._writer.drain()
        return self

    async def line(self) -> Any:
        return json.loads(await self._reader.readline())

    async def rest(self) -> list[Any]:
        return [json.loads(line) for line in (await self._reader.read()).splitlines()]


async def connected(path: Path) -> Client:
    return Client(*await asyncio.open_unix_connection(path, limit=1000))


@pytest.mark.anyio
async def test_a_slow_client_loses_lines_and_holds_up_nobody(tmp_path: Path) -> None:
    told = anyio.Event()

    async def flood(args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        for i in range(5000):
            talk.tell(n=i, fill="x" * 1000)
            await anyio.lowlevel.checkpoint()
        told.set()
        return {"sum": 5000}

    async def quick(args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return {"pong": True}

    path = tmp_path / "s" / "rw.sock"
    async with ControlServer({"flood": flood, "quick": quick}, _never).serve(path):
        async with await connected(path) as slow:
            await slow.ask("flood")
            await told.wait()  # it was told everything, although nobody reads
            async with await connected(path) as other:
                assert (await (await other.ask("quick")).line())["pong"] is True
            lines = await slow.rest()
    assert lines[-1] == {"v": 1, "end": True, "sum": 5000}
    missed = sum(line["gap"] for line in lines if "gap" in line)
    numbers = [line["n"] for line in lines if "n" in line]
    assert missed > 0
    assert missed + len(numbers) == 5000
    assert numbers == sorted(numbers)
    assert numbers[-1] == 4999


@pytest.mark.anyio
async def test_closing_the_connection_takes_the_request_back(tmp_path: Path) -> None:
    begun, gone = anyio.Event(), anyio.Event()

    async def wait(args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            gone.set()
        raise AssertionError("it slept for ever")

    async with ControlServer({"wait": wait}, _never).serve(tmp_path / "rw.sock"):
        async with await connected(tmp_path / "rw.sock") as client:
            await client.ask("wait")
            await begun.wait()
        await gone.wait()


@pytest.mark.anyio
async def test_a_fault_in_a_verb_costs_the_answer_and_not_the_daemon(tmp_path: Path) -> None:
    faults: list[Exception] = []

    async def broken(args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        raise KeyError("oops")

    async with ControlServer({"broken": broken}, faults.append).serve(tmp_path / "rw.sock"):
        for _ in range(2):
            async with await connected(tmp_path / "rw.sock") as client:
                (line,) = await (await client.ask("broken")).rest()
                assert line["error"]["what"] == "the daemon failed: KeyError"
    assert [type(fault) for fault in faults] == [KeyError, KeyError]


@pytest.mark.anyio
async def test_the_socket_is_the_owners_alone_and_is_gone_afterwards(tmp_path: Path) -> None:
    path = tmp_path / ("long" * 30) / "rw.sock"  # longer than the kernel takes
    async with ControlServer({}, _never).serve(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        name, folder = places.short_path(path)
        assert folder is not None
        async with await connected(Path(name)) as client:
            os.close(folder)
            (line,) = await (await client.ask("nothing")).rest()
            assert line["error"]["what"] == "unknown verb 'nothing'"
    assert not path.exists()


@pytest.mark.anyio
async def test_more_clients_than_are_served_at_once_are_told_so(tmp_path: Path) -> None:
    async def wait(args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        await talk.send(begun=True)
        await anyio.sleep_forever()
        raise AssertionError("it slept for ever")

    path = tmp_path / "rw.sock"
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(ControlServer({"wait": wait}, _never).serve(path))
        for _ in range(CLIENTS):
            client = await stack.enter_async_context(await connected(path))
            assert await (await client.ask("wait")).line() == {"v": 1, "begun": True}
        async with await connected(path) as late:
            (line,) = await (await late.ask("wait")).rest()
            assert line["error"]["code"] == "refused"


def _never(error: Exception) -> None:
    raise AssertionError("no verb was to fail") from error


# -- a real daemon -----------------------------------------------------------------------------------------------------


@pytest.fixture
def raw(alone: Any) -> Raw:
    """Send bytes to the daemon's socket and close our end of it; the lines that come back."""

    def send(data: bytes) -> list[dict[str, Any]]:
        with control.connect(alone.state, 60.0) as connection:
            try:
                connection.sendall(data)
            except (BrokenPipeError, ConnectionResetError):
                pass  # it had enough
            answer = b""
            while True:
                try:
                    piece = connection.recv(65536)
                except ConnectionResetError:
                    piece = b""
                if not piece:
                    return [json.loads(line) for line in answer.splitlines()]
                answer += piece

    return send


GARBAGE = [
    b"\n", b"hello\n", b"{}\n", b"[]\n", b"null\n", b"1\n", b'"status"\n', b'{"v":1}\n', b"\xff\xfe\n",
    b'{"v":2,"verb":"status"}\n', b'{"v":1,"verb":"nothing"}\n', b'{"v":1,"verb":["status"]}\n',
    b'{"v":1,"verb":"status","args":3}\n', b"[" * 100_000 + b"\n", b'{"v":1,"verb":"devices.show"}\n',
    b'{"v":1,"verb":"devices.show","args":{"device":7}}\n', b'{"v":1,"verb":"run","args":{"plan":[]}}\n',
    b'{"v":1,"verb":"plan","args":{"plan":{"goal":"x","steps":[{"id":1}]}}}\n', b'{"v":1,"verb":"call"}\n',
    b'{"v":1,"verb":"call","args":{"skill":"test.echo","args":[1]}}\n',
    b'{"v":1,"verb":"call","args":{"skill":"test.echo","text":"x"}}\n',
    b'{"v":1,"verb":"call","args":{"skill":"test.echo","seconds":"x"}}\n',
    b'{"v":1,"verb":"call","args":{"skill":"test.echo","on":5}}\n',
    b'{"v":1,"verb":"run","args":{"plan":{"goal":"x","steps":[{"id":"a","skill":"test.echo"}]},"inputs":3}}\n',
    b'{"v":1,"verb":"events","args":{"kinds":7}}\n', b'{"v":1,"verb":"events","args":{"since":"x"}}\n',
    b"x" * (control.REQUEST_LIMIT + 70_000),
]  # fmt: skip


@pytest.mark.parametrize("data", GARBAGE, ids=lambda data: repr(data[:60]))
def test_garbage_is_answered_with_one_usage_error_and_nothing_else(alone: Any, raw: Raw, data: bytes) -> None:
    faults = len([e for e in alone.logged("warning") if e["what"].startswith("a verb failed")])
    (line,) = raw(data)
    assert line["v"] == 1
    assert line["end"] is True
    assert line["error"]["code"] == "usage", line
    assert line["error"]["what"]
    assert faults == len([e for e in alone.logged("warning") if e["what"].startswith("a verb failed")])
    assert control.ask(alone.state, "status")["pid"] == alone.process.pid


def test_many_at_once_are_all_answered(alone: Any) -> None:
    connections = [control.connect(alone.state, 60.0) for _ in range(CLIENTS)]
    for connection in connections:
        connection.sendall(control.encode({"v": 1, "verb": "status"}))
    for connection in connections:
        with connection, connection.makefile("rb") as answer:
            assert json.loads(answer.readline())["pid"] == alone.process.pid


def test_connections_that_come_and_go_without_a_word_leave_nothing_behind(alone: Any) -> None:
    control.ask(alone.state, "status")
    before = len(os.listdir(f"/proc/{alone.process.pid}/fd"))
    for i in range(300):
        with control.connect(alone.state) as connection:
            connection.sendall(b'{"v":1,' if i % 2 else b"")
    control.ask(alone.state, "status")
    with control.talk(alone.state, "events") as lines:
        next(lines)
    control.ask(alone.state, "status")
    assert len(os.listdir(f"/proc/{alone.process.pid}/fd")) <= before + 1


def test_a_request_that_is_too_long_is_refused_before_it_is_sent(alone: Any) -> None:
    with pytest.raises(UsageError, match="too much for one request"):
        control.ask(alone.state, "plan", {"plan": "x" * control.REQUEST_LIMIT})


def test_nobody_there_is_not_running_and_says_how_to_start_it(tmp_path: Path) -> None:
    with pytest.raises(NotRunning, match="no daemon is running") as caught:
        control.ask(tmp_path, "status")
    assert caught.value.exit_code == 3
    assert caught.value.hint == "slip up"


def test_a_socket_that_a_killed_daemon_left_behind_is_nobody_either(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "rw.sock"))
    with pytest.raises(NotRunning):
        control.ask(tmp_path, "status")


def test_an_error_of_the_daemon_is_raised_as_it_was(alone: Any) -> None:
    with pytest.raises(UsageError, match="no device is called nobody"):
        control.ask(alone.state, "devices.show", {"device": "nobody"})
    with pytest.raises(SlipError, match="no run nothing"):
        control.ask(alone.state, "runs.show", {"run": "nothing"})


def test_the_client_is_blocking_stdlib(slip: Any) -> None:
    code = "import sys, slipstream.control; print(*sorted(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"asyncio", "anyio", "pydantic", "textual", "msgpack", "sqlite3", "ssl"} & set(found)
