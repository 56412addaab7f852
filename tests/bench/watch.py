"""What an attached monitor costs the daemon: processor, bytes, and how soon it has all there is.

`python tests/bench/watch.py [--seconds 5] [--rounds 4] [--json]`. A node in a process of its own, with the daemon's
control server on a real socket: 50 devices, a run of 200 steps that all run and tell how far they are, 500 events a
second. The client reads at 4 Hz; with and without it in turns. Beside it, what recording the run costs.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import anyio

from slipstream import testing
from slipstream.control_server import ControlServer
from slipstream.core.device import Device, LinkQuality, Resources
from slipstream.core.node import Node
from slipstream.core.plan import load
from slipstream.core.skill import Context, Cost, Effect, Pack, skill
from slipstream.feed import Feed
from slipstream.trace import Recorder
from slipstream.verbs import Verbs

NAME = "watch"
DEVICES, STEPS, EVENTS, RATE = 50, 200, 500, 4
CHANGES = 25
"""Announcements of devices among the events, a second."""
OPENINGS = 20


# -- a device with much to tell ----------------------------------------------------------------------------------------


@skill("bench.work", effect=Effect.READ, cost=Cost(latency_ms=600_000))
async def work(ctx: Context, number: int) -> int:
    """Tell how far it is, for ever."""
    every = STEPS / (EVENTS - CHANGES)
    await anyio.sleep(every * number / STEPS)
    part = 0
    while True:
        part += 1
        await ctx.progress((part % 100) / 101, f"part {part}")
        await anyio.sleep(every)


async def _others(node: Node, friends: testing.Friends) -> None:
    """Devices that are linked with a node and announce other resources in turns, without processes of their own."""
    here = [
        Device(f"device{i:02d}", f"device-{i}", "car", version=(1, 0), neighbours={node.id: LinkQuality(0.01, 4e6)})
        for i in range(1, DEVICES)
    ]
    for device in here:
        friends.add(device.id)
        node.members.link_up(device.id, node.clock())
    turn = 0
    while True:
        turn += 1
        at = turn % len(here)
        device = here[at]
        now = node.clock()
        here[at] = device = replace(device, version=(1, turn), resources=Resources(load=turn % 97 / 97, battery=0.5))
        for other in here if turn % CHANGES == 0 or turn <= len(here) else (device,):
            node.members.heard(other.id, now)
        node.peer_news(_Peer(device.id), [device.to_wire()])  # type: ignore[arg-type]
        await anyio.sleep(1 / CHANGES if turn > len(here) else 0)


class _Peer:
    def __init__(self, device: str) -> None:
        self.id = device


async def _serve(path: Path, record: bool) -> None:
    async with testing.mesh(wall=time.time) as m:
        node = await m.add("phone", packs=[Pack("bench", (work,))], resources=Resources(slots=STEPS))
        feed = Feed(node)
        async with anyio.create_task_group() as group:
            group.start_soon(_others, node, m.friends)
            await m.until(lambda: len(node.members.present()) == DEVICES)
            if record:
                group.start_soon(Recorder(node, feed, path.parent).run)
                await anyio.sleep(0.1)
            steps = [{"id": f"s{i}", "skill": "bench.work", "args": {"number": i}} for i in range(STEPS)]
            run = await node.start(load({"goal": "much", "steps": steps}))
            await m.until(lambda: all(s.state == "running" for s in run.steps.values()))
            verbs = Verbs(node, {}, feed).table()
            async with ControlServer({"watch": verbs["watch"]}, _fault).serve(path):
                print("ready", flush=True)
                await anyio.sleep_forever()


def _fault(error: Exception) -> None:
    raise error


# -- measuring ---------------------------------------------------------------------------------------------------------


class Daemon:
    """The process with that device."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.path = folder / "rw.sock"
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", str(self.path), *flags], stdout=subprocess.PIPE
        )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise SystemExit("the node did not come up")

    def cpu(self) -> float:
        """Seconds of processor so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def share(self, seconds: float, client: Client | None = None) -> float:
        """Percent of a core, while a client reads."""
        before, began = self.cpu(), time.perf_counter()
        if client is None:
            time.sleep(seconds)
        else:
            client.read(seconds)
        return 100 * (self.cpu() - before) / (time.perf_counter() - began)


@contextmanager
def daemon(*flags: str) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="slip-bench-") as folder:
        made = Daemon(Path(folder), *flags)
        try:
            yield made
        finally:
            made.process.kill()
            made.process.wait()


class Client:
    """A client of `watch` that only reads."""

    def __init__(self, path: Path) -> None:
        began = time.perf_counter()
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._socket.sendall(json.dumps({"v": 1, "verb": "watch", "args": {"rate": RATE}}).encode() + b"\n")
        first = bytearray()
        while not first.endswith(b"\n"):
            first += self._socket.recv(1 << 20)
        self.opened = time.perf_counter() - began
        self.first = len(first)
        self.bytes = self.frames = self.events = 0
        self._rest = b""

    def read(self, seconds: float) -> None:
        """Take what comes, for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            if select.select([self._socket], [], [], left)[0]:
                data = self._socket.recv(1 << 20)
                self.bytes += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    frame = json.loads(line)
                    self.frames += 1
                    self.events += len(frame["events"])

    def close(self) -> None:
        self._socket.close()


def measure(seconds: float, rounds: int) -> dict[str, float]:
    """All figures."""
    alone, watched, opened = [], [], []
    read = events = frames = first = 0
    with daemon() as node, daemon("--record") as recorder:
        time.sleep(4)  # the reasons of a run that began are recorded over its first seconds
        recorded = []
        for _ in range(rounds):
            alone.append(node.share(seconds))
            recorded.append(recorder.share(seconds))
            client = Client(node.path)
            client.read(7)  # reasons come some at a time
            client.bytes = client.frames = client.events = 0
            watched.append(node.share(seconds, client))
            read, events, frames = read + client.bytes, events + client.events, frames + client.frames
            client.close()
        for _ in range(OPENINGS):
            client = Client(node.path)
            opened.append(client.opened)
            first = client.first
            client.close()
    took = seconds * rounds
    return {
        "added_cpu_percent": median(b - a for a, b in zip(alone, watched, strict=True)),
        "trace_cpu_percent": median(b - a for a, b in zip(alone, recorded, strict=True)),
        "daemon_alone_cpu_percent": median(alone),
        "events_per_second": events / took,
        "frames_per_second": frames / took,
        "kilobytes_per_second": read / took / 1000,
        "first_frame_ms": 1000 * median(opened),
        "first_frame_kilobytes": first / 1000,
    }


WANTED = {"added_cpu_percent": 3}


def main() -> None:
    parser = argparse.ArgumentParser(prog="slip bench watch", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="how long it is looked at with and without a client")
    parser.add_argument("--rounds", type=int, default=4, help="how often")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--record", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        anyio.run(_serve, Path(args.serve), args.record)
        return
    found: dict[str, Any] = measure(args.seconds, args.rounds)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": {k: round(v, 3) for k, v in found.items()}}))
        return
    for name, value in found.items():
        print(f"{name:<26}{value:10.2f}" + (f"   at most {WANTED[name]}" if name in WANTED else ""))


if __name__ == "__main__":
    main()
