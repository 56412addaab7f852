"""A whole mesh in one process, for tests of skills and plans: real nodes over a network in memory.

    async with testing.mesh("phone", "car") as m:
        await m.call("cabin.climate.set", {"celsius": 21.5}, on="car")
        m.drop_link("phone", "car")
        await m.crash("car")

On trio with `MockClock(autojump_threshold=0)` an hour passes in milliseconds; on asyncio in real time.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from .core.device import Resources
from .core.dispatch import Dispatch
from .core.errors import LinkLost, UsageError
from .core.gate import Caller
from .core.journal import Journal
from .core.node import Node
from .core.plan import Plan, load
from .core.policy import Policy, Rule
from .core.skill import Pack, SkillSpec
from .core.trust import Role, Roster, Statement
from .transports.memory import MemoryTransport, Network

Skills = Iterable[Callable[..., Any]]


class Rules:
    """A policy for tests: everything is allowed but what the floor forbids, unless a test has rules of its own."""

    def __init__(self, policy: Policy | None = None) -> None:
        self.policy = policy or Policy([Rule(("*",), ("*",), "allow")], {"personal": ("*",)})

    def current(self) -> Policy:
        """As it is now."""
        return self.policy


class OpenDoor:
    """Stands where a node has its gate, and lets everything through: for tests of what is behind it."""

    def must_ask(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> bool:
        """Nobody is asked."""
        return False

    def again(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """It is still allowed."""

    def undoing(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """It may be undone."""

    async def ask(
        self, spec: SkillSpec, args: Mapping[str, Any], key: str, caller: Caller, on_asking: Callable[[bool], None]
    ) -> None:
        """It is allowed."""


class Friends:
    """A roster whose statements nobody signed, for tests: whoever is added is of the mesh, until revoked."""

    def __init__(self, *owners: str) -> None:
        self._root = "the root of a test"
        self.roster = Roster(self._root)
        for owner in owners:
            self.add(owner)

    def add(self, device: str, role: Role = Role.OWNER, *, until: float | None = None, profile: str = "") -> None:
        """Let a device in, or change what it is."""
        number = 1 + sum(s.kind == "add" and s.subject == device for s in self.roster.statements)
        self._say("add", self._root, device, role=role, until=until, profile=profile, number=number)

    def revoke(self, device: str, by: str = "") -> None:
        """Throw a device out."""
        by = by or next(m.id for m in self.roster.members() if m.id != device)
        self._say("revoke", by, device)

    def _say(self, kind: Any, signer: str, device: str, *, role: Role | None = None, until: float | None = None,
             profile: str = "", number: int = 0) -> None:  # fmt: skip
        self.roster.merge([Statement(
            kind=kind, mesh=self._root, signer=signer, seq=self.roster.next_seq(signer), subject=device, role=role,
            name=device, device_kind=device, until=until, profile=profile, number=number, keeps=b"", at=0.0, spki=b"",
            signature=b"",
        )])  # fmt: skip

    async def take(self, statements: list[bytes]) -> None:
        """Believe what others say of the roster."""
        self.roster.merge([Statement.from_wire(s) for s in statements])

    async def renew(self, device: str, csr: bytes) -> dict[str, Any]:
        """There are no keys here."""
        raise UsageError("there are no keys in this mesh", "its devices are called by their names")

    async def retire(self, device: str) -> None:
        """Throw it out."""
        self.revoke(device)


class Mesh:
    """The nodes of a test, by name; the first one is where calls and runs come from unless told otherwise."""

    def __init__(
        self, network: Network, group: TaskGroup, folder: Path, wall: Callable[[], float], rules: Rules
    ) -> None:
        self.network, self.rules = network, rules
        self.nodes: dict[str, Node] = {}
        self._group, self._folder, self._wall = group, folder, wall
        self._makers: dict[str, Callable[[], Node]] = {}
        self._scopes: dict[str, anyio.CancelScope] = {}
        self._down: dict[str, anyio.Event] = {}
        self._crashed: set[str] = set()
        self.friends = Friends()
        """Who is of this mesh; all devices share it."""

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    async def add(
        self, name: str, kind: str = "", packs: Iterable[Pack] = (), *, resources: Resources = Resources(),
        role: Role = Role.OWNER, profile: str = "",
    ) -> Node:  # fmt: skip
        """Let one more device join; the packs that come with its kind are loaded if none are given."""
        chosen = list(packs)
        (self._folder / name).mkdir(exist_ok=True)
        self.friends.add(name, role, profile=profile)

        def make() -> Node:
            state = {"state": str(self._folder / name)}
            return Node(
                name, name, kind or name, transports=[MemoryTransport(self.network, name)],
                packs=[(pack, state) for pack in chosen], journal=Journal(self._folder / f"{name}.db", self._wall),
                resources=resources, wall=self._wall, trust=self.friends, policy=self.rules,
            )  # fmt: skip

        self._makers[name] = make
        return await self.restart(name)

    async def restart(self, name: str) -> Node:
        """Start a device (again), with the journal that it had, and link it with everybody who is up."""
        if name in self._scopes:
            raise UsageError(f"{name} is running", hint=f"await m.crash({name!r}) first")
        self.nodes[name] = node = self._makers[name]()
        await self._group.start(self._keep, name, node)
        for other in self._scopes:
            if other != name:
                try:
                    await node.connect(other, [f"memory://{other}"])
                except LinkLost:
                    continue  # the test cut them off from each other
                await self.until(partial(_see_each_other, node, self.nodes[other]))
        return node

    async def _keep(self, name: str, node: Node, *, task_status: TaskStatus[None]) -> None:
        self._down[name] = anyio.Event()
        try:
            with anyio.CancelScope() as self._scopes[name]:
                await node.run(task_status=task_status)
        except* Exception:
            if name not in self._crashed:  # the last words of a device that was killed count for nothing
                raise
        finally:
            node.journal.close()
            self._crashed.discard(name)
            self._scopes.pop(name, None)
            self._down[name].set()

    async def call(self, skill: str | Callable[..., Any], args: Mapping[str, Any] | None = None, *,
                   on: str | None = None, of: str | None = None, **more: Any) -> Any:  # fmt: skip
        """Call a skill, from the first device or the one named `of`."""
        return await self._from(of).call(skill, args, on=on, **more)

    async def run(self, plan: Plan | Mapping[str, Any], *, of: str | None = None, inputs: Any = None) -> Dispatch:
        """Run a plan to its end, owned by the first device or the one named `of`."""
        run = await self._from(of).start(plan if isinstance(plan, Plan) else load(plan, inputs))
        await run.ended.wait()
        return run

    def _from(self, name: str | None) -> Node:
        return self.nodes[name or next(iter(self.nodes))]

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something holds; checked whenever anything happens on any device."""
        changed = anyio.Event()
        stops = [node.events.listen(lambda _: changed.set()) for node in self.nodes.values()]
        try:
            while not true():
                await changed.wait()
                changed = anyio.Event()
        finally:
            for stop in stops:
                stop()

    def drop_link(self, a: str, b: str) -> None:
        """Let everything between two devices vanish silently, until `heal`."""
        self.network.cut(a, b)

    def heal(self, a: str, b: str) -> None:
        """Let two devices hear each other again."""
        self.network.heal(a, b)

    async def crash(self, name: str) -> None:
        """End a device as `kill -9` would: no goodbye, only what its journal holds survives."""
        self.network.kill(name)
        self.nodes[name].journal.forbid_writing()
        self._crashed.add(name)
        self._scopes[name].cancel()
        await self._down[name].wait()

    async def leave(self, name: str) -> None:
        """Let a device leave gracefully."""
        self.nodes[name].stop()
        await self._down[name].wait()


def _see_each_other(a: Node, b: Node) -> bool:
    return a.reachable(b.id) and b.reachable(a.id)


def _pack_of(kind: str) -> list[Pack]:
    from .skills import available, load

    return load([kind]) if kind in available() else []


@asynccontextmanager
async def mesh(
    *names: str, skills: Mapping[str, Skills] | None = None, packs: Mapping[str, Iterable[Pack]] | None = None,
    seed: int = 0, wall: Callable[[], float] = lambda: 0.0, policy: Policy | None = None,
    roles: Mapping[str, Role] | None = None,
) -> AsyncIterator[Mesh]:  # fmt: skip
    """A mesh of devices named and kinded `names`, all linked with each other.

    `skills` gives a device the decorated functions that it offers, `packs` whole packs; a device with neither gets the
    pack that comes with its kind. `policy` is that of every device; without one, all may do everything.
    Who is not among `roles` is an owner.
    """
    with tempfile.TemporaryDirectory(prefix="slipstream-") as folder:
        async with Network(seed) as network, anyio.create_task_group() as group:
            made = Mesh(network, group, Path(folder), wall, Rules(policy))
            for name in names:
                own = list((packs or {}).get(name, ()))
                if functions := (skills or {}).get(name):
                    own.append(Pack(f"{name} skills", tuple(functions)))
                await made.add(name, packs=own or _pack_of(name), role=(roles or {}).get(name, Role.OWNER))
            try:
                yield made
            finally:
                group.cancel_scope.cancel()
