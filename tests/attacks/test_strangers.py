"""A crowd at the door: half-open connections, slow handshakes, and members that do not read, while others work."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from slipstream.core.identity import Identity, host_of
from slipstream.core.node import Node
from slipstream.core.wire import VERSION, Kind, frame, pack
from slipstream.transports.tls import HANDSHAKE_TIMEOUT

pytestmark = pytest.mark.anyio

OPEN = '[[rule]]\nwho = ["*"]\nskills = ["*"]\nthen = "allow"\n'
HALF_OPEN, SLOW = 160, 40
DEAF, ASKED = 4, 10
"""Members that do not read, and how many answers of a megabyte each asks for."""
CALLS = 3000
MIB = 1024


@pytest.fixture(scope="module")
def house(bare: Any) -> Any:
    bare.add("phone", "phone")
    bare.add("car", "car", "world", policy=OPEN)
    return bare.start()


def memory(car: Any) -> int:
    """The car's resident memory, in KiB."""
    status = Path(f"/proc/{car.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@asynccontextmanager
async def deaf(identity: Identity, car: Any) -> AsyncIterator[None]:
    """A member that asks for much and does not read it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(identity.root)
    context.load_cert_chain(identity.certificate, identity.key)
    _, writer = await asyncio.open_connection(
        "127.0.0.1", car.port, ssl=context, server_hostname=host_of(car.id), limit=1024
    )
    try:
        writer.write(frame(pack([Kind.HELLO, {"version": list(VERSION), "name": "deaf", "kind": "phone"}])))
        for number in range(1, ASKED + 1):
            call = [Kind.CALL, number, "world.much", {"size": 1_000_000}, "", -1.0, ""]
            writer.write(frame(pack(call)))
        await writer.drain()
        yield
    finally:
        writer.transport.abort()


async def look(node: Node) -> float:
    """A call; how long it took, in milliseconds."""
    began = time.perf_counter()
    await node.call("world.look", {}, on="car")
    return 1000 * (time.perf_counter() - began)


async def work(node: Node) -> list[float]:
    """Calls one after another; how long each took."""
    return [await look(node) for _ in range(CALLS)]


async def work_in_a_crowd(node: Node, port: int) -> tuple[list[float], list[float]]:
    """Calls from before the first stranger comes until the last one was closed; how long each call took, and how long
    each stranger was let stay, in seconds.
    """
    command = [sys.executable, str(Path(__file__).with_name("crowd.py")), str(port), str(HALF_OPEN), str(SLOW)]
    took: list[float] = []
    said = ""

    async def listen(lines: TextReceiveStream) -> None:
        nonlocal said
        async for part in lines:
            said += part
            begun.set()
        ended.set()

    begun, ended = anyio.Event(), anyio.Event()
    async with await anyio.open_process(command, stderr=None) as process, anyio.create_task_group() as group:
        assert process.stdout is not None
        group.start_soon(listen, TextReceiveStream(process.stdout))
        await begun.wait()
        while not ended.is_set():
            took.append(await look(node))
    here, _, stayed = said.partition("\n")
    assert here == "here"
    return took, json.loads(stayed)


def times(took: list[float]) -> str:
    took = sorted(took)
    return f"p50 {took[len(took) // 2]:.2f}, p99 {took[len(took) * 99 // 100]:.2f}, worst {took[-1]:.1f} ms"


async def test_a_crowd_at_the_door_is_closed_in_time_and_keeps_nobody_out(
    house: Any, turned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    car = house["car"]
    friend = house.let_in("friend", "tablet")
    identities = [Identity.load(house.let_in(f"deaf{i}", "tablet")) for i in range(DEAF)]
    async with turned(friend, car) as node:
        await work(node)
        before = most = memory(car)
        quiet = await work(node)
        crowded, stayed = await work_in_a_crowd(node, car.port)
        most = max(most, memory(car))
        async with AsyncExitStack() as stack:
            for identity in identities:
                await stack.enter_async_context(deaf(identity, car))
            await house.waits(lambda: all(house.heard("car", "link.up", device=i.id) for i in identities), "all are in")
            beside = await work(node)
            most = max(most, memory(car))
            await house.waits(
                lambda: all(house.heard("car", "link.down", device=i.id) for i in identities), "all are out"
            )
        with capsys.disabled():
            print(
                f"\n  a call: {times(quiet)}; with {HALF_OPEN + SLOW} strangers at the door {times(crowded)}; "
                f"with {DEAF} members that do not read {times(beside)}; "
                f"the last stranger was closed after {max(stayed):.1f} s; "
                f"memory grew by {(most - before) / MIB:.1f} MiB, of {ASKED * DEAF} MB that were asked for"
            )
        assert len(stayed) == HALF_OPEN + SLOW
        assert max(stayed) < 2 * HANDSHAKE_TIMEOUT
        assert most - before < (2 * ASKED * DEAF + 16) * MIB
        assert await node.call("world.look", {}, on="car") == {"result": "seen "}
    assert len(house.heard("car", "ready")) == 1
