"""A hundred devices for an hour: links are cut and healed, devices crash and come back, and all agree on who is there.

Real nodes without skills, on the memory transport and on virtual time (trio's MockClock), each with links to about
eight others. Again and again a fifth of the links is silently cut, at times exactly those around a group, while devices
crash; then all heal, and devices return. Ten seconds after the last change each time, every device must see exactly
those that a path leads to. Cuts are short, for a device that was long out of reach is dialled once a minute only.
`python tests/bench/mesh.py [--nodes N] [--seconds S] [--seed S] [--json]`, or `slip bench mesh`.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus
from trio.testing import MockClock

from slipstream import testing
from slipstream.core.events import Event
from slipstream.core.journal import Journal
from slipstream.core.node import Node
from slipstream.transports.discovery import Candidates, Found
from slipstream.transports.memory import Conditions, MemoryLink, MemoryTransport, Network

NAME = "mesh"
NODES, SECONDS, LINKS = 100, 240.0, 8
CUT = 0.2
"""The share of links that is cut at any time."""
BURST, QUIET = 4.0, 10.0
"""Seconds in which the links are cut or healed, and after which all must agree."""
HELD, REST = 15.0, 250.0
"""At most so many seconds more until what was cut is healed, and until the next cut."""
TICK = 0.005
"""What arrives within so many seconds arrives together; a hundred devices would wake one another all the time."""


class CountingNetwork(Network):
    """Counts what arrives."""

    messages = 0

    def schedule(self, link: MemoryLink, due: float) -> None:
        self.messages += 1
        super().schedule(link, due)


def edges_of(draw: random.Random, names: list[str]) -> list[tuple[str, str]]:
    """A random graph in one piece in which every node has about LINKS neighbours: rings in random orders."""
    edges: set[tuple[str, str]] = set()
    for _ in range(LINKS // 2):
        ring = draw.sample(names, len(names))
        edges |= {(min(a, b), max(a, b)) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)}
    return sorted(edges)


@dataclass
class Mesh:
    """The devices, what lies between them, and when each of them last saw somebody come or go."""

    network: CountingNetwork
    group: TaskGroup
    draw: random.Random
    names: list[str]
    nodes: dict[str, Node] = field(default_factory=dict)
    changes: int = 0

    def __post_init__(self) -> None:
        self.edges = edges_of(self.draw, self.names)
        self.friends = testing.Friends(*self.names)
        self.cut: set[tuple[str, str]] = set()
        self.seen: dict[str, float] = {}
        self._journals = {name: Journal(":memory:", anyio.current_time) for name in self.names}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._down: dict[str, anyio.Event] = {}

    async def start(self, name: str) -> None:
        """Start a device (again), with what it remembers; it dials its neighbours, as they dial it."""
        candidates = Candidates(name)
        for edge in self.edges:
            if name in edge:
                other = edge[edge[0] == name]
                candidates.add(Found(other, (f"memory://{other}",), "static"), anyio.current_time())
        self.nodes[name] = node = Node(
            name, name, "hub", transports=[MemoryTransport(self.network, name)], journal=self._journals[name],
            candidates=candidates, wall=anyio.current_time, trust=self.friends, policy=testing.Rules(),
        )  # fmt: skip

        def look(event: Event) -> None:
            if event.kind in ("device.joined", "device.left"):
                self.seen[name] = anyio.current_time()

        node.events.listen(look)
        self._down[name] = anyio.Event()
        await self.group.start(self._keep, name, node)

    async def _keep(self, name: str, node: Node, *, task_status: TaskStatus[None]) -> None:
        with anyio.CancelScope() as self._scopes[name]:
            await node.run(task_status=task_status)
        self._down[name].set()

    async def crash(self, name: str) -> None:
        """End a device without a goodbye."""
        self.network.kill(name)
        self._scopes.pop(name).cancel()
        del self.nodes[name], self.seen[name]
        await self._down[name].wait()

    async def change(self) -> None:
        """Cut some links and crash some devices, or heal all links and return some devices, within BURST seconds."""
        acts: list[tuple[float, str, tuple[str, ...]]]
        if self.cut:
            acts = [(self.draw.uniform(0, BURST), "heal", edge) for edge in sorted(self.cut)]
            down = [name for name in self.names if name not in self.nodes and self.draw.random() < 0.7]
            acts += [(self.draw.uniform(0, BURST), "start", (name,)) for name in down]
            cut = set()
        else:
            cut = self._around_a_group() if self.draw.random() < 0.3 else set(self.draw.sample(self.edges, self._many))
            acts = [(self.draw.uniform(0, BURST), "cut", edge) for edge in sorted(cut)]
            dying = self.draw.sample(sorted(self.nodes), self.draw.choice((0, 1, 2)))
            acts += [(self.draw.uniform(0, BURST), "crash", (name,)) for name in dying]
        began = anyio.current_time()
        for at, act, what in sorted(acts):
            await anyio.sleep_until(began + at)
            if act == "cut":
                self.network.cut(*what)
            elif act == "heal":
                self.network.heal(*what)
            else:
                await (self.start if act == "start" else self.crash)(what[0])
        self.cut = cut
        self.changes += len(acts)

    @property
    def _many(self) -> int:
        return round(CUT * len(self.edges))

    def _around_a_group(self) -> set[tuple[str, str]]:
        """The links around as many devices as CUT of all links allow."""
        group: set[str] = set()
        around: set[tuple[str, str]] = set()
        for name in self.draw.sample(self.names, len(self.names)):
            wider = {edge for edge in self.edges if len({*edge} & (group | {name})) == 1}
            if len(wider) > self._many:
                break
            group.add(name)
            around = wider
        return around

    def components(self) -> Iterator[set[str]]:
        """The sets of devices that the network lets reach each other now."""
        neighbours: dict[str, list[str]] = {name: [] for name in self.nodes}
        for a, b in self.edges:
            if (a, b) not in self.cut and a in neighbours and b in neighbours:
                neighbours[a].append(b)
                neighbours[b].append(a)
        left = set(neighbours)
        while left:
            found, queue = set(), [min(left)]
            while queue:
                if (name := queue.pop()) not in found:
                    found.add(name)
                    queue += neighbours[name]
            left -= found
            yield found

    def disagree(self) -> list[str]:
        """Who sees others than those that a path leads to."""
        return [name for part in self.components() for name in sorted(part)
                if {device.id for device in self.nodes[name].members.present()} != part]  # fmt: skip


async def live(nodes: int, seconds: float, seed: int, rest: float = REST) -> dict[str, float]:
    """The figures of a mesh that lives that long; `disagreed` counts the rounds after which not all saw the truth."""
    draw = random.Random(seed)
    names = [f"device-{i:03}" for i in range(nodes)]
    began, agreed, disagreed = time.perf_counter(), [], 0
    weather = Conditions(delay=0.002, jitter=0.004)
    async with CountingNetwork(seed, weather, TICK) as network, anyio.create_task_group() as group:
        mesh = Mesh(network, group, draw, names)
        for name in names:
            await mesh.start(name)
        await anyio.sleep(QUIET)
        while not agreed or anyio.current_time() < seconds:
            await mesh.change()
            changed = anyio.current_time()
            await anyio.sleep(QUIET)
            if wrong := mesh.disagree():
                disagreed += 1
                print(f"at {changed + QUIET:.1f} s {len(wrong)} disagree: {', '.join(wrong[:9])}", file=sys.stderr)
            agreed.append(QUIET if wrong else max(0.0, max(mesh.seen.values()) - changed))
            await anyio.sleep(draw.uniform(0, HELD if mesh.cut else rest))
        lived = anyio.current_time()
        group.cancel_scope.cancel()
    return {
        "nodes": nodes, "virtual_s": lived, "real_s": time.perf_counter() - began, "rounds": len(agreed),
        "changes": mesh.changes, "disagreed": disagreed, "agree_after_s_p50": median(agreed),
        "agree_after_s_max": max(agreed), "messages": network.messages,
    }  # fmt: skip


def figures(args: Any = None) -> dict[str, float]:
    """All figures of one bench."""
    given = [getattr(args, name, None) for name in ("nodes", "seconds", "seed")]
    values = [default if value is None else value for value, default in zip(given, (NODES, SECONDS, 0), strict=True)]
    options = {"clock": MockClock(autojump_threshold=0)}
    return anyio.run(live, *values, backend="trio", backend_options=options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int)
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = figures(args)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": {k: round(v, 3) for k, v in found.items()}}))
    else:
        for key, value in found.items():
            print(f"{key:22} {value:12,.2f}")


if __name__ == "__main__":
    main()
