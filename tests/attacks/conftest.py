"""Real daemons over TLS on loopback, with fixed ports and static peers, and members in this process that turn on them.

A daemon's log is read as it is written: its lines are its events, and that is what the tests wait for.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any

import anyio
import pytest

from slipstream import control, testing
from slipstream.core import authority
from slipstream.core.audit import audit_key
from slipstream.core.audit_check import verify
from slipstream.core.identity import Identity
from slipstream.core.link import Link
from slipstream.core.node import Node
from slipstream.core.trust import Role
from slipstream.keeper import RosterKeeper
from slipstream.transports.tls import TlsTransport

PATIENCE = 60.0
"""A net below waits that end by themselves; no test depends on it."""
WORLD = '''
from collections.abc import AsyncIterator
from pathlib import Path
import anyio
from pydantic import BaseModel
from slipstream import Consent, Context, Effect, Pack, skill
from slipstream.core.skill import Driving

def did(what: str) -> int:
    with Path("world").open("a") as file:
        file.write(what + "\\n")
    return len(Path("world").read_text().splitlines())

@skill("world.look", effect=Effect.READ)
async def look(ctx: Context, at: str = "") -> str:
    """Look."""
    return f"seen {at}"

@skill("world.send", effect=Effect.ONCE)
async def send(ctx: Context, what: str) -> int:
    """Do what must not happen twice."""
    return did(what)

@skill("world.begin", effect=Effect.ONCE)
async def begin(ctx: Context, what: str) -> int:
    """Begin what must not happen twice, and never end."""
    number = did(what)
    await ctx.progress(0.5, "half-way")
    await anyio.sleep_forever()
    return number

@skill("world.move", effect=Effect.PHYSICAL, consent=Consent.ALWAYS)
async def move(ctx: Context, what: str) -> int:
    """Move something."""
    return did(what)

@skill("world.much", effect=Effect.READ)
async def much(ctx: Context, size: int) -> bytes:
    """Give many bytes."""
    return bytes(size)

@skill("charge.port.open", effect=Effect.PHYSICAL, driving=Driving.MOVING)
async def port(ctx: Context) -> int:
    """Open the charge port."""
    return did("port")

@skill("seat.move", effect=Effect.PHYSICAL, driving=Driving.MOVING)
async def seat(ctx: Context, centimetres: int) -> int:
    """Move the driver's seat."""
    return did("seat")

@skill("media.video", effect=Effect.IDEMPOTENT, driving=Driving.MOVING)
async def video(ctx: Context, title: str) -> int:
    """Show a film on the driver's screen."""
    return did("video")

@skill("keyboard.type", effect=Effect.IDEMPOTENT, driving=Driving.MOVING)
async def keys(ctx: Context, text: str) -> int:
    """Have the driver type."""
    return did("typing")

pack = Pack("world", (look, send, begin, move, much, port, seat, video, keys))
'''


@dataclass(slots=True)
class Heard:
    """A line of a device's log: an event, or what it says at its start."""

    device: str
    said: dict[str, Any]

    @property
    def kind(self) -> Any:
        return self.said["kind"]

    @property
    def at(self) -> float:
        """When, in Unix seconds."""
        return float(self.said["time"])


class Device:
    """`slip up` with a state folder, a port and a log of its own; it can be killed and started again."""

    def __init__(self, house: House, name: str, kind: str, packs: tuple[str, ...], settings: str) -> None:
        self.house, self.name, self.kind, self.packs, self.settings = house, name, kind, packs, settings
        self.folder = house.folder / name
        self.state, self.log, self.world = self.folder / "state", self.folder / "log", self.folder / "world"
        self.id = Identity.load(self.state).id
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"tls://127.0.0.1:{self.port}"

    def start(self) -> Device:
        """Start it and wait until it is ready."""
        self.spawn()
        self.house.until(lambda: self.house.heard(self.name, "ready", pid=self.pid), f"{self.name} is ready")
        return self

    def spawn(self) -> None:
        """Start it."""
        peers = "".join(f'{d.id} = ["{d.address}"]\n' for d in self.house.devices.values() if d is not self)
        (self.folder / "slipstream.toml").write_text(f"{self.settings}\n[peers]\n{peers}", encoding="utf-8")
        command = [
            sys.executable, "-m", "slipstream", "up", "--state", str(self.state), "--name", self.name, "--kind",
            self.kind, "--port", str(self.port), "--host", "127.0.0.1", "--no-mdns", "--log", "json",
            *(word for pack in self.packs for word in ("--pack", pack)),
        ]  # fmt: skip
        self.process = subprocess.Popen(command, cwd=self.folder, env=self.house.env, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # fmt: skip
        Thread(target=self.house.listen, args=(self, self.process), daemon=True).start()

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal, and wait for the end."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(PATIENCE)

    def kill(self) -> None:
        """`kill -9`."""
        self.end(signal.SIGKILL)

    def ask(self, verb: str, **args: Any) -> Any:
        """What the daemon answers on its control socket."""
        return control.ask(self.state, verb, args, timeout=PATIENCE)

    def call(self, skill: str, on: str, **args: Any) -> Any:
        """The value of a call from this device."""
        return self.ask("call", skill=skill, on=on, args=args, seconds=PATIENCE)["value"]

    def did(self) -> list[str]:
        """What the skills of the file above did on this device."""
        return self.world.read_text().splitlines() if self.world.exists() else []

    def holds(self, text: str) -> list[str]:
        """The files of this device, its log among them, that hold a text."""
        files = [path for path in (*self.state.rglob("*"), self.log) if path.is_file()]
        return [str(path.relative_to(self.folder)) for path in files if text.encode() in path.read_bytes()]


class House:
    """The devices of one mesh; the first one is its owner and lets the others in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.devices: dict[str, Device] = {}
        self.told: list[Heard] = []
        self._queue: SimpleQueue[Heard] = SimpleQueue()
        self._pack = folder / "world.py"
        self._pack.write_text(WORLD)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLIPSTREAM_", "XDG_", "NOTIFY_"))}
        self.env = {**kept, "HOME": str(folder), "PYTHONWARNINGS": "error"}

    def __getitem__(self, name: str) -> Device:
        return self.devices[name]

    def let_in(self, name: str, kind: str, role: Role = Role.MEMBER, profile: str = "") -> Path:
        """Make a device of this mesh that no daemon runs for; its state folder."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        state = folder / "state"
        if not any(other != folder and (other / "state").exists() for other in self.folder.iterdir()):
            authority.found(state, name, kind)
        else:
            owner = next(iter(self.devices.values()))
            authority.admit_here(owner.state, state, name, kind, role=role, profile=profile)
        return state

    def add(
        self, name: str, kind: str = "", *packs: str, role: Role = Role.MEMBER, settings: str = "", policy: str = ""
    ) -> Device:  # fmt: skip
        """Make a device, not started yet; `world` among its packs is the file above."""
        state = self.let_in(name, kind or name, role)
        if policy:
            (state / "policy.toml").write_text(policy)
        chosen = tuple(str(self._pack) if pack == "world" else pack for pack in packs)
        self.devices[name] = Device(self, name, kind or name, chosen, settings)
        return self.devices[name]

    def start(self) -> House:
        """Start all devices, and wait until each has a link with each and knows what it offers."""
        for device in self.devices.values():
            device.spawn()
        names = list(self.devices)
        pairs = [(a, b) for a in names for b in names if a != b]
        self.until(lambda: all(self.linked(a, b) and self.knows(a, b) for a, b in pairs), "all are linked")
        return self

    def linked(self, a: str, b: str) -> bool:
        """Whether a device told last that it has a link with another."""
        last = [h for h in self.told if h.device == a and h.kind in ("link.up", "link.down")
                and h.said["device"] == self[b].id]  # fmt: skip
        return bool(last) and last[-1].kind == "link.up"

    def knows(self, a: str, b: str) -> bool:
        """Whether a device has heard what another announces."""
        return bool(self.heard(a, "device.joined", device=self[b].id))

    def heard(self, device: str, kind: str, /, **fields: Any) -> list[Heard]:
        """What a device told of a kind, with those fields."""
        return [
            h for h in self.told
            if (h.device, h.kind) == (device, kind) and all(h.said.get(name) == fields[name] for name in fields)
        ]  # fmt: skip

    def until(self, true: Callable[[], Any], what: str) -> Any:
        """Wait until something holds; checked whenever any device tells anything."""
        until = time.monotonic() + PATIENCE
        while not (found := true()):
            try:
                self.told.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                logs = "\n".join(
                    f"{d.name}: {d.log.read_text()[-3000:]}" for d in self.devices.values() if d.log.exists()
                )
                raise AssertionError(f"{what}: it did not come to that\n{logs}") from None
        return found

    def hear(self) -> None:
        """Take in what was told so far."""
        while not self._queue.empty():
            self.told.append(self._queue.get())

    async def waits(self, true: Callable[[], Any], what: str) -> Any:
        """`until`, for a test that runs a device of its own meanwhile."""
        return await anyio.to_thread.run_sync(partial(self.until, true, what))

    def listen(self, device: Device, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        with process.stderr as lines, device.log.open("ab") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if line.startswith(b"{"):
                    self._queue.put(Heard(device.name, json.loads(line)))

    def close(self) -> None:
        """End all daemons in order; then each has an audit log in which nothing was changed."""
        running = [d for d in self.devices.values() if d.process is not None and d.process.poll() is None]
        for device in running:
            device.end(signal.SIGTERM)
        for device in self.devices.values():
            verdict = verify(device.state, audit_key(device.state))
            assert verdict.ok, f"{device.name}: {verdict}"


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A house without devices yet, for the tests of a module."""
    house = House(tmp_path_factory.mktemp("house"))
    try:
        yield house
        house.close()
    finally:
        for device in house.devices.values():
            if device.process is not None and device.process.poll() is None:
                device.process.kill()
                device.process.wait()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Remembered(TlsTransport):
    """Remembers its links, so that a test leaves nothing open behind it."""

    def __init__(self, identity: Identity) -> None:
        super().__init__(identity, ["127.0.0.1"])
        self.links: list[Link] = []

    def serve(self, accept: Callable[[Link], None]) -> AbstractAsyncContextManager[list[str]]:
        def accepted(link: Link) -> None:
            self.links.append(link)
            accept(link)

        return super().serve(accepted)

    async def dial(self, address: str, peer: str) -> Link:
        self.links.append(await super().dial(address, peer))
        return self.links[-1]


class Turned:
    """Devices of the mesh in this process: each has a key of its own, and does what the test likes."""

    @asynccontextmanager
    async def __call__(self, state: Path, *friends: Device) -> AsyncIterator[Node]:
        identity = Identity.load(state)
        transport = Remembered(identity)
        node = Node(identity.id, state.parent.name, "tablet", transports=[transport], trust=RosterKeeper(state),
                    policy=testing.Rules())  # fmt: skip
        try:
            async with anyio.create_task_group() as group:
                await group.start(node.run)
                try:
                    for friend in friends:
                        await self.meet(node, friend)
                    yield node
                finally:
                    node.stop()
        finally:
            for link in transport.links:
                link.abort()
            for _ in range(3):
                await anyio.lowlevel.checkpoint()

    async def meet(self, node: Node, device: Device) -> None:
        """Have a link with a device and know what it offers."""
        changed = anyio.Event()
        stop = node.events.listen(lambda _: changed.set())
        await node.connect(device.id, [device.address])
        while not node.reachable(device.id):
            await changed.wait()
            changed = anyio.Event()
        stop()


@pytest.fixture(scope="session")
def turned() -> Turned:
    """Makes them: `async with turned(state, *friends) as node`."""
    return Turned()
