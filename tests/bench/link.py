"""A remote call beside its floor and its peer: two processes, loopback, mutually authenticated TLS 1.3, interleaved.

The floor is an asyncio Protocol that echoes a msgpack map over asyncio's own TLS: no protocol, no checks, no tasks. The
peer is grpc.aio over TLS with the same messages, if it is installed. Ours is a typed skill, validated at both ends.
`python tests/bench/link.py [--json]`, or `slip bench link`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import anyio
import msgpack
from pydantic import BaseModel

from slipstream.core import authority
from slipstream.core.audit import Audit, audit_key
from slipstream.core.identity import Identity, host_of
from slipstream.core.node import Node
from slipstream.core.plan import load
from slipstream.core.skill import Context, Cost, Effect, Pack, skill
from slipstream.keeper import RosterKeeper
from slipstream.policy_source import PolicyFile
from slipstream.transports.tls import TlsTransport

NAME = "link"
ROUNDS, CALLS, IN_FLIGHT, BURST, HOPS = 9, 250, 64, 2500, 20
MESSAGE = {"origin": "48.137,11.575", "destination": "47.269,11.404", "soc": 63.5, "via": ["Rosenheim", "Kufstein"],
           "options": {"avoid_tolls": True, "elevation": True, "arrive_with": 15.0}, "note": "x" * 60}  # fmt: skip


class Options(BaseModel):
    avoid_tolls: bool
    elevation: bool
    arrive_with: float


class Echo(BaseModel):
    origin: str
    destination: str
    soc: float
    via: list[str]
    options: Options
    note: str


@skill("bench.echo", effect=Effect.READ)
async def echo(
    ctx: Context, origin: str, destination: str, soc: float, via: list[str], options: Options, note: str
) -> Echo:
    """Give back what came."""
    return Echo(origin=origin, destination=destination, soc=soc, via=via, options=options, note=note)


class Hop(BaseModel):
    n: int
    at: list[float]
    """Start and end of the step, on the clock that all processes of this machine share."""


@skill("bench.hop", effect=Effect.READ, cost=Cost(latency_ms=1))
async def hop(ctx: Context, n: int = 0) -> Hop:
    """One step of a chain."""
    return Hop(n=n + 1, at=[time.monotonic(), time.monotonic()])


PACK = Pack("bench", (echo, hop))


# -- the floor -------------------------------------------------------------------------------------------------------


class FloorServer(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.unpacker = transport, msgpack.Unpacker()

    def data_received(self, data: bytes) -> None:
        self.unpacker.feed(data)
        self.transport.write(b"".join(msgpack.packb(m) for m in self.unpacker))  # type: ignore[attr-defined]


class FloorClient(asyncio.Protocol):
    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[Any]] = {}
        self.unpacker, self.number, self.out = msgpack.Unpacker(), 0, []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.unpacker.feed(data)
        for number, message in self.unpacker:
            self.waiting.pop(number).set_result(message)

    async def call(self) -> Any:
        self.number += 1
        future = self.waiting[self.number] = asyncio.get_running_loop().create_future()
        if not self.out:
            asyncio.get_running_loop().call_soon(self.flush)
        self.out.append(msgpack.packb([self.number, MESSAGE]))
        return await future

    def flush(self) -> None:
        self.transport.write(b"".join(self.out))  # type: ignore[attr-defined]
        self.out.clear()


def tls(identity: Identity, side: int) -> ssl.SSLContext:
    context = ssl.SSLContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(identity.root)
    context.load_cert_chain(identity.certificate, identity.key)
    return context


# -- the processes that answer ---------------------------------------------------------------------------------------


async def serve(role: str, folder: Path) -> None:
    """Be the other end until standard input closes; the first line printed says where."""
    identity = Identity.load(folder / "b")
    loop = asyncio.get_running_loop()
    closed = loop.run_in_executor(None, sys.stdin.read)
    if role == "floor":
        server = await loop.create_server(FloorServer, "127.0.0.1", 0, ssl=tls(identity, ssl.PROTOCOL_TLS_SERVER))
        print(server.sockets[0].getsockname()[1], flush=True)
        await closed
        server.close()
    elif role == "node":
        async with node(identity, "b") as b:
            print(b.members.me.addresses[0], flush=True)
            await closed
    else:
        import grpc

        async def answer(request: Any, _: Any) -> Any:
            return request

        server = grpc.aio.server()
        handler = grpc.unary_unary_rpc_method_handler(answer, msgpack.unpackb, msgpack.packb)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bench", {"echo": handler}),))
        pair = ((identity.key.read_bytes(), identity.certificate.read_bytes()),)
        credentials = grpc.ssl_server_credentials(pair, identity.root.read_bytes(), require_client_auth=True)
        print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
        await server.start()
        await closed
        await server.stop(0)


@asynccontextmanager
async def node(identity: Identity, name: str) -> AsyncIterator[Node]:
    made = Node(
        identity.id, name, name, transports=[TlsTransport(identity, ["127.0.0.1"])], packs=[(PACK, {})],
        trust=RosterKeeper(identity.key.parent), policy=PolicyFile(identity.key.parent, time.monotonic, print),
        audit=Audit(identity.key.parent / "audit.log", audit_key(identity.key.parent), time.time),
    )  # fmt: skip
    async with anyio.create_task_group() as group:
        await group.start(made.run)
        yield made
        made.stop()


# -- the process that asks -------------------------------------------------------------------------------------------

Call = Callable[[], Awaitable[Any]]


async def latencies(call: Call) -> list[float]:
    found = []
    for _ in range(CALLS):
        began = time.perf_counter()
        await call()
        found.append(time.perf_counter() - began)
    return found


async def rate(call: Call) -> float:
    left = BURST

    async def lane() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await call()

    began = time.perf_counter()
    await asyncio.gather(*(lane() for _ in range(IN_FLIGHT)))
    return BURST / (time.perf_counter() - began)


async def chain(a: Node, b_id: str) -> list[float]:
    steps = [{"id": "s0", "skill": "bench.hop", "on": a.id}]
    for i in range(1, HOPS):
        steps.append({"id": f"s{i}", "skill": "bench.hop", "on": b_id if i % 2 else a.id,
                      "args": {"n": {"$ref": f"s{i - 1}.n"}}})  # fmt: skip
    run = await a.start(load({"goal": "hop", "steps": steps}))
    await run.ended.wait()
    if run.error is not None:
        raise run.error
    at = [run.steps[f"s{i}"].value["at"] for i in range(HOPS)]
    return [after[0] - before[1] for before, after in pairwise(at[2:])]


async def measure(folder: Path) -> dict[str, float]:
    authority.found(folder / "a", "a", "a")
    authority.admit_here(folder / "a", folder / "b", "b", "b")
    a_id, b_id = (Identity.load(folder / name) for name in "ab")
    roles = ["floor", "node"]
    try:
        import grpc

        roles.append("grpc")
    except ImportError:
        grpc = None
    servers = {
        role: subprocess.Popen([sys.executable, __file__, "--serve", role, "--folder", folder],
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for role in roles
    }  # fmt: skip
    try:
        where = {role: server.stdout.readline().strip() for role, server in servers.items() if server.stdout}
        _, floor = await asyncio.get_running_loop().create_connection(
            FloorClient, "127.0.0.1", int(where["floor"]), ssl=tls(a_id, ssl.PROTOCOL_TLS_CLIENT),
            server_hostname=host_of(b_id.id),
        )  # fmt: skip
        async with node(a_id, "a") as a:
            await a.connect(b_id.id, [where["node"]])
            ready = anyio.Event()
            stop = a.events.listen(lambda e: ready.set() if a.reachable(b_id.id) else None)
            if not a.reachable(b_id.id):
                await ready.wait()
            stop()
            calls: dict[str, Call] = {"floor": floor.call, "call": lambda: a.call(echo, MESSAGE, on="b")}
            channel = None
            if grpc is not None:
                credentials = grpc.ssl_channel_credentials(
                    b_id.root.read_bytes(), a_id.key.read_bytes(), a_id.certificate.read_bytes()
                )
                options = [("grpc.ssl_target_name_override", host_of(b_id.id))]
                channel = grpc.aio.secure_channel(f"127.0.0.1:{where['grpc']}", credentials, options)
                method = channel.unary_unary("/bench/echo", msgpack.packb, msgpack.unpackb)

                async def grpc_call() -> Any:
                    return await method(MESSAGE)

                calls["grpc"] = grpc_call
            for call in calls.values():
                for _ in range(200):
                    await call()
            times: dict[str, list[float]] = {name: [] for name in calls}
            rates: dict[str, list[float]] = {name: [] for name in calls}
            hops: list[float] = []
            await chain(a, b_id.id)
            for _ in range(ROUNDS):
                for name, call in calls.items():
                    times[name] += await latencies(call)
                for name, call in calls.items():
                    rates[name].append(await rate(call))
                hops += await chain(a, b_id.id)
            if channel is not None:
                await channel.close()
        floor.transport.close()
    finally:
        for server in servers.values():
            assert server.stdin is not None
            server.stdin.close()
            server.wait(10)
            assert server.stdout is not None
            server.stdout.close()
    figures: dict[str, float] = {}
    for name in calls:
        ordered = sorted(times[name])
        figures[f"{name}_p50_us"] = median(ordered) * 1e6
        figures[f"{name}_p99_us"] = ordered[int(len(ordered) * 0.99)] * 1e6
        figures[f"{name}_per_s_64"] = median(rates[name])
    figures["hop_p50_us"] = median(hops) * 1e6
    figures["call_to_floor_p50"] = figures["call_p50_us"] / figures["floor_p50_us"]
    if "grpc" in calls:
        figures["call_to_grpc_p50"] = figures["call_p50_us"] / figures["grpc_p50_us"]
        figures["call_to_grpc_rate"] = figures["call_per_s_64"] / figures["grpc_per_s_64"]
    figures["hop_to_call_p50"] = figures["hop_p50_us"] / figures["call_p50_us"]
    return figures


def figures(args: Any = None) -> dict[str, float]:
    """All figures of one interleaved run."""
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as folder:
        return asyncio.run(measure(Path(folder)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve")
    parser.add_argument("--folder", type=Path)
    args = parser.parse_args()
    if args.serve:
        asyncio.run(serve(args.serve, args.folder))
        return
    found = figures(args)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": {k: round(v, 3) for k, v in found.items()}}))
    else:
        for key, value in found.items():
            print(f"{key:22} {value:12,.2f}")


if __name__ == "__main__":
    main()
