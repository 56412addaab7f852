"""A member that turns on the others: over real TLS it is left with a reason, and the others do not notice.

The attacker has a valid certificate and speaks raw bytes. What takes its time (silence, half a frame) runs in memory,
on virtual time.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import msgpack
import pytest
from trio.testing import MockClock

from slipstream import testing
from slipstream.core import authority
from slipstream.core.errors import LinkLost, ProtocolError, SlipError, from_wire
from slipstream.core.events import Event
from slipstream.core.identity import Identity, host_of
from slipstream.core.links import HELLO_SECONDS
from slipstream.core.members import STRANGERS
from slipstream.core.node import Node
from slipstream.core.peer import FLOOD_LIMIT, WAITING_LIMIT
from slipstream.core.session import CALLS_LIMIT
from slipstream.core.skill import Context, Effect, Pack, skill
from slipstream.core.wire import (
    CHUNK,
    FIRST_LIMIT,
    FRAME_LIMIT,
    LARGE_LIMIT,
    VERSION,
    Kind,
    Splitter,
    frame,
    pack,
    unpack,
)
from slipstream.keeper import RosterKeeper
from slipstream.transports.memory import MemoryTransport
from slipstream.transports.tls import TlsTransport

pytestmark = pytest.mark.anyio
MIB = 1024 * 1024


@pytest.fixture
def anyio_backend() -> Any:
    return "asyncio"


virtual_time = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=[""]
)


@pytest.fixture(scope="module")
def identities(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Identity]:
    folder = tmp_path_factory.mktemp("mesh")
    authority.found(folder / "phone", "phone", "phone")
    for name in ("car", "attacker"):
        authority.admit_here(folder / "phone", folder / name, name, name)
    return {name: Identity.load(folder / name) for name in ("phone", "car", "attacker")}


@skill("test.add", effect=Effect.READ)
async def add(ctx: Context, a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


BLOB = 16 * MIB


@skill("test.blob", effect=Effect.READ)
async def blob(ctx: Context) -> str:
    """Give much."""
    return "x" * BLOB


class Honest:
    """A phone and a car with a link between them, over real sockets."""

    def __init__(self, phone: Node, car: Node) -> None:
        self.phone, self.car = phone, car
        self.links = self.linked()

    def linked(self) -> list[Any]:
        return [self.phone.links.up[self.car.id], self.car.links.up[self.phone.id]]

    async def work(self) -> None:
        """They call each other over the link that they had from the start."""
        assert await self.phone.call("test.add", {"a": 2, "b": 3}, on="car") == {"result": 5}
        assert await self.car.call("test.add", {"a": 4, "b": 5}, on="phone") == {"result": 9}
        assert self.linked() == self.links


async def until(true: Callable[[], bool], *nodes: Node) -> None:
    """Wait until something holds; checked whenever anything happens on a node."""
    changed = anyio.Event()
    stops = [node.events.listen(lambda _: changed.set()) for node in nodes]
    while not true():
        await changed.wait()
        changed = anyio.Event()
    for stop in stops:
        stop()


@asynccontextmanager
async def honest(identities: dict[str, Identity]) -> AsyncIterator[Honest]:
    nodes = [
        Node(identities[name].id, name, name, transports=[TlsTransport(identities[name], ["127.0.0.1"])],
             packs=[(Pack("test", (add,)), {})], trust=RosterKeeper(identities[name].key.parent),
             policy=testing.Rules())
        for name in ("phone", "car")
    ]  # fmt: skip
    phone, car = nodes
    async with anyio.create_task_group() as group:
        for node in nodes:
            await group.start(node.run)
        await phone.connect(car.id, car.members.me.addresses)
        await until(lambda: phone.reachable(car.id) and car.reachable(phone.id), *nodes)
        try:
            yield Honest(phone, car)
        finally:
            for node in nodes:
                node.stop()


class Attacker:
    """A raw TLS connection of a member to a node."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._splitter = Splitter(LARGE_LIMIT)
        self.heard: list[list[Any]] = []

    async def say(self, data: bytes) -> None:
        """Send raw bytes; a victim that hangs up meanwhile is no surprise."""
        try:
            self._writer.write(data)
            await self._writer.drain()
        except ConnectionError:
            assert self._writer.is_closing()

    async def hear(self, kind: Kind) -> list[Any]:
        """Wait for a message of a kind."""
        while True:
            for message in self.heard:
                if message[0] == kind:
                    self.heard.remove(message)
                    return message
            data = await self._reader.read(65536)
            assert data, f"the connection ended before any {kind.name}: {self.heard}"
            self.heard += [unpack(body) for body in self._splitter.feed(data)]

    async def refusal(self) -> SlipError:
        """Why the victim said goodbye; nothing comes after that."""
        bye = await self.hear(Kind.BYE)
        assert await self._reader.read() == b""
        return from_wire(bye[1])


def context(identity: Identity, side: int) -> ssl.SSLContext:
    made = ssl.SSLContext(side)
    made.minimum_version = ssl.TLSVersion.TLSv1_3
    made.verify_mode = ssl.CERT_REQUIRED
    made.load_verify_locations(identity.root)
    made.load_cert_chain(identity.certificate, identity.key)
    return made


@asynccontextmanager
async def attack(identity: Identity, victim: Node) -> AsyncIterator[Attacker]:
    """A connection of the attacker to a node."""
    address = victim.members.me.addresses[0].removeprefix("tls://")
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(
        host, int(port), ssl=context(identity, ssl.PROTOCOL_TLS_CLIENT), server_hostname=host_of(victim.id)
    )
    try:
        yield Attacker(reader, writer)
    finally:
        writer.transport.abort()


@contextmanager
def memory_below(limit: int) -> Iterator[None]:
    """What is allocated at any moment stays below `limit` bytes."""
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        yield
        assert tracemalloc.get_traced_memory()[1] - before < limit
    finally:
        tracemalloc.stop()


def message(kind: int, *fields: Any) -> bytes:
    return frame(pack([kind, *fields]))


def hello(version: list[int] | None = None, **more: Any) -> bytes:
    return message(Kind.HELLO, {"version": version or list(VERSION), "name": "attacker", "kind": "phone", **more})


def large(body: bytes, piece: int = CHUNK) -> bytes:
    """A body in chunks."""
    chunks = (message(Kind.CHUNK, 1, body[at : at + piece]) for at in range(0, len(body), piece))
    return message(Kind.LARGE, 1, len(body)) + b"".join(chunks)


def told(node: Node, why: str) -> list[Event]:
    """The events of a node that name this reason for a link that ended, or never came up."""
    return [e for e in node.events.recent if e.kind in ("warning", "link.down") and why in e.fields["why"]]


NESTED = frame(b"\x91" * 10_000 + b"\xc0")
ENDLESS = (2**32 - 1).to_bytes(4, "big")

BEFORE_HELLO = {
    "a frame that is too long": ((FIRST_LIMIT + 1).to_bytes(4, "big") + bytes(FIRST_LIMIT + 1), "too long"),
    "a frame of 4 GiB": (ENDLESS + bytes(1000), "too long"),
    "another protocol": (b"GET / HTTP/1.1\r\nHost: phone\r\n\r\n", "too long"),
    "a frame that is truncated inside": (frame(pack([Kind.HELLO, {"version": [1, 0]}])[:-1]), "in the middle"),
    "an empty frame": (frame(b""), "in the middle"),
    "a frame nested 10,000 deep": (NESTED, "nested too deep"),
    "a message of an unknown type": (message(77), "unknown kind 77"),
    "something before the hello": (message(Kind.BEAT, 1.0, -1.0, 0.0), "came before HELLO"),
    "no version": (message(Kind.HELLO, {}), "without a version"),
    "another version": (hello([VERSION[0] + 1, 0]), f"speaks protocol {VERSION[0] + 1}.0"),
    "a version of nonsense": (hello([2**60, -5]), f"speaks protocol {2**60}.-5"),
}

AFTER_HELLO = {
    "a frame that is too long": ((FRAME_LIMIT + 1).to_bytes(4, "big") + bytes(1000), "too long"),
    "a frame of 4 GiB": (ENDLESS, "too long"),
    "a frame nested 10,000 deep": (NESTED, "nested too deep"),
    "a frame that is truncated inside": (frame(pack([Kind.NEWS, [1, 2, 3]])[:-1]), "in the middle"),
    "a message of an unknown type": (message(200, {}), "unknown kind 200"),
    "an extension type": (frame(msgpack.packb([Kind.NOTE, "x", {"t": msgpack.ExtType(4, b"x")}])), "not spoken here"),
    "a second hello": (hello(), "a second HELLO"),
    "fields of other types": (message(Kind.CALL, "one", "test.add", {}, "", -1.0, ""), "CALL"),
    "an answer to nothing": (message(Kind.RESULT, 9, "done", 1), "never made"),
    "the same call twice": (2 * message(Kind.CALL, 1, "test.add", {"a": 1, "b": 1}, "", -1.0, ""), "came again"),
    "a body above the limit": (message(Kind.LARGE, 1, LARGE_LIMIT + 1), f"{LARGE_LIMIT} is the limit"),
    "a large hello": (large(pack([Kind.HELLO, {"x": bytes(3 * CHUNK)}])), "may not be large"),
    "impossible times": (message(Kind.BEAT, 1.0, 1.0, float("-inf")), "impossible times"),
    "news that is none": (message(Kind.NEWS, [{"id": "x"}]), "an announcement cannot be read"),
    "a digest that is none": (message(Kind.NOTE, "slip.digest", {"digest": 7}), "cannot be read"),
    "a report that is none": (message(Kind.NOTE, "slip.deliver", {}), "cannot be read"),
    "a flood of notes": ((FLOOD_LIMIT + 1) * message(Kind.NOTE, "slip.nothing", {}), "floods this device"),
    "a flood of heartbeats": ((FLOOD_LIMIT + 1) * message(Kind.BEAT, 1.0, -1.0, 0.0), "floods this device"),
}


@pytest.mark.parametrize("name", BEFORE_HELLO)
async def test_who_is_wrong_before_the_hello_is_left_with_the_reason(
    name: str, identities: dict[str, Identity]
) -> None:
    data, why = BEFORE_HELLO[name]
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        await attacker.say(data)
        await mesh.work()
        error = await attacker.refusal()
        assert why in str(error)
        assert isinstance(error, ProtocolError)
        await until(lambda: bool(told(mesh.phone, why)), mesh.phone)
        assert told(mesh.phone, why)[0].kind == "warning"
        await mesh.work()
        assert identities["attacker"].id not in mesh.phone.links.up


@pytest.mark.parametrize("name", AFTER_HELLO)
async def test_who_is_wrong_after_the_hello_is_left_with_the_reason(name: str, identities: dict[str, Identity]) -> None:
    data, why = AFTER_HELLO[name]
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        await attacker.say(hello())
        await attacker.hear(Kind.NOTE)  # the digest: the link is up
        await attacker.say(data)
        await mesh.work()
        error = await attacker.refusal()
        assert why in str(error)
        assert isinstance(error, ProtocolError)
        await until(lambda: bool(told(mesh.phone, why)), mesh.phone)
        (down,) = told(mesh.phone, why)
        assert (down.kind, down.fields["device"]) == ("link.down", identities["attacker"].id)
        await mesh.work()
        assert identities["attacker"].id not in mesh.phone.links.up


BOMBS = {
    "a list of a million maps": (frame(b"\xdd\x00\x03\xff\x00" + b"\x80" * 0x3FF00), "too many values"),
    "a megabyte of maps in chunks": (
        large(pack([Kind.NEWS, []])[:-1] + b"\xdd\x00\x10\x00\x00" + b"\x80" * MIB), "too many values",
    ),
    "maps nested next to each other": (frame(b"\xdc\x40\x00" + b"\x94\x90\x90\x90\x90" * 0x4000 * 3), "end"),
    "a list that claims to be long": (frame(b"\xdd\xff\xff\xff\xff"), "in the middle"),
    "a text that claims to be long": (frame(b"\x92\x04\xdb\xff\xff\xff\xff"), "in the middle"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_costs_little_memory(name: str, identities: dict[str, Identity]) -> None:
    data, why = BOMBS[name]
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        await attacker.say(hello())
        await attacker.hear(Kind.NOTE)
        with memory_below(25 * MIB):
            await attacker.say(data)
            assert why in str(await attacker.refusal())
        await mesh.work()


async def test_a_large_body_in_tiny_pieces_costs_little_more_than_itself(identities: dict[str, Identity]) -> None:
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        await attacker.say(hello())
        await attacker.hear(Kind.NOTE)
        size = 200_000
        pieces = large(b"\xc1" * size, piece=2)
        with memory_below(10 * size + MIB):
            for at in range(0, len(pieces), 65536):
                await attacker.say(pieces[at : at + 65536])
            del pieces
            assert "cannot be read" in str(await attacker.refusal())
        await mesh.work()


async def test_a_frame_that_is_too_long_is_not_waited_for(identities: dict[str, Identity]) -> None:
    async with honest(identities) as mesh:
        with memory_below(4 * MIB):
            for _ in range(20):
                async with attack(identities["attacker"], mesh.phone) as attacker:
                    await attacker.say((64 * MIB).to_bytes(4, "big"))  # and not one byte of it
                    assert "too long" in str(await attacker.refusal())
        await mesh.work()


async def test_a_flood_of_calls_is_answered_up_to_the_limit_and_then_left(identities: dict[str, Identity]) -> None:
    @skill("test.wait", effect=Effect.READ)
    async def wait(ctx: Context) -> None:
        """Wait for ever."""
        await anyio.sleep_forever()

    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        mesh.phone.offer(Pack("wait", (wait,)))
        await attacker.say(hello())
        await attacker.hear(Kind.NOTE)
        calls = (message(Kind.CALL, i, "test.wait", {}, "", -1.0, "") for i in range(1, 2 * CALLS_LIMIT + 2))
        await attacker.say(b"".join(calls))
        first = await attacker.hear(Kind.ERROR)
        assert first[1] == CALLS_LIMIT + 1
        assert from_wire(first[2]).retry
        await mesh.work()
        assert "floods" in str(await attacker.refusal())
        await mesh.work()


async def test_many_at_once_who_say_nothing_do_not_keep_others_out(identities: dict[str, Identity]) -> None:
    async with honest(identities) as mesh, anyio.create_task_group() as group:
        here: list[Attacker] = []
        all_here = anyio.Event()

        async def silent() -> None:
            async with attack(identities["attacker"], mesh.phone) as attacker:
                here.append(attacker)
                if len(here) == 40:
                    all_here.set()
                await anyio.sleep_forever()

        for _ in range(40):
            group.start_soon(silent)
        await all_here.wait()
        await mesh.work()
        async with attack(identities["attacker"], mesh.car) as late:
            await late.say(hello())
            await late.hear(Kind.NOTE)
        group.cancel_scope.cancel()


async def test_who_does_not_read_its_answers_is_left_and_others_are_served_meanwhile(
    identities: dict[str, Identity],
) -> None:
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as attacker:
        mesh.phone.offer(Pack("blob", (blob,)))
        await attacker.say(hello())
        await attacker.hear(Kind.NOTE)
        many = WAITING_LIMIT // BLOB + 3
        pack(["x" * 2 * BLOB])  # the room that packing takes is kept, and is nobody's
        tracemalloc.start()
        try:
            before = tracemalloc.get_traced_memory()[0]
            await attacker.say(b"".join(message(Kind.CALL, i, "test.blob", {}, "", -1.0, "") for i in range(1, many)))
            for _ in range(100):  # and the attacker reads nothing
                await mesh.work()
            gc.collect()
            assert tracemalloc.get_traced_memory()[0] - before < BLOB  # nothing waits for it any more
        finally:
            tracemalloc.stop()
        (down,) = told(mesh.phone, "does not read")
        assert (down.kind, down.fields["device"]) == ("link.down", identities["attacker"].id)


# -- versions ----------------------------------------------------------------------------------------------------------


async def test_a_newer_minor_version_works_with_fields_that_we_do_not_know(identities: dict[str, Identity]) -> None:
    async with honest(identities) as mesh, attack(identities["attacker"], mesh.phone) as newer:
        await newer.say(hello([VERSION[0], VERSION[1] + 9], colour="blue"))
        await newer.hear(Kind.NOTE)
        await newer.say(message(Kind.NOTE, "slip.of_the_future", {}))
        await newer.say(message(Kind.CALL, 1, "test.add", {"a": 1, "b": 2}, "", -1.0, "", False, {"new": "field"}))
        assert await newer.hear(Kind.RESULT) == [Kind.RESULT, 1, "done", {"result": 3}]
        await mesh.work()


async def test_dialling_a_device_of_another_major_version_says_so_on_both_sides(
    identities: dict[str, Identity],
) -> None:
    heard: list[SlipError] = []
    done = anyio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        newer = Attacker(reader, writer)
        await newer.say(hello([VERSION[0] + 1, 4]))
        heard.append(await newer.refusal())
        writer.close()
        done.set()

    tls = context(identities["attacker"], ssl.PROTOCOL_TLS_SERVER)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=tls)
    async with honest(identities) as mesh, server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost) as refused:
            await mesh.phone.connect(identities["attacker"].id, [f"tls://127.0.0.1:{port}"])
        await done.wait()
        ours, theirs = f"{VERSION[0]}.{VERSION[1]}", f"{VERSION[0] + 1}.4"
        for error in (str(refused.value), str(heard[0])):
            assert f"the other device speaks protocol {theirs}, this one {ours}" in error
        assert "update" in refused.value.hint
        assert "update" in heard[0].hint
        await mesh.work()


# -- who takes its time, on virtual time -------------------------------------------------------------------------------


class Raw:
    """A link in memory on which raw bytes are spoken."""

    def __init__(self) -> None:
        self.data = b""
        self.ended: float | None = None
        self.over = anyio.Event()

    def data_received(self, data: bytes) -> None:
        self.data += data

    def writable(self) -> None: ...

    def link_lost(self, reason: SlipError | None) -> None:
        self.ended = anyio.current_time()
        self.over.set()

    @property
    def heard(self) -> list[list[Any]]:
        return [unpack(body) for body in Splitter(LARGE_LIMIT).feed(self.data)]


async def quiet(m: testing.Mesh, first: bytes, drip: bytes = b"", every: float = 1.0) -> tuple[float, Raw]:
    """Say something to the phone, and go on slowly or not at all; the seconds until it hangs up."""
    link = await MemoryTransport(m.network, "attacker").dial("memory://phone", "phone")
    raw = Raw()
    began = anyio.current_time()
    link.start(raw)
    if first:
        link.write(first)
    for i in range(len(drip)):
        with anyio.move_on_after(every):
            await raw.over.wait()
        link.write(drip[i : i + 1])
    await raw.over.wait()
    assert raw.ended is not None
    return raw.ended - began, raw


@virtual_time
@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b""), (hello()[:20], b""), (b"\x00", b""), (b"", hello()[:30])],
    ids=["nothing", "half a hello", "one byte", "a byte now and then"],
)
async def test_who_does_not_say_hello_in_time_is_left_with_the_reason(first: bytes, drip: bytes) -> None:
    async with testing.mesh("phone", "car") as m:
        seconds, raw = await quiet(m, first, drip)
        assert HELLO_SECONDS <= seconds <= HELLO_SECONDS + 0.01
        kinds = [message[0] for message in raw.heard]
        assert kinds == [Kind.HELLO, Kind.BYE]
        assert "no HELLO came in time" in str(from_wire(raw.heard[1][1]))
        assert [e.kind for e in told(m["phone"], "no HELLO came in time")] == ["warning"]
        assert m["phone"].reachable("car")


@virtual_time
@pytest.mark.parametrize("first", [hello(), hello() + hello()[:20], hello() + b"\x00\x03"], ids=["", "half", "length"])
async def test_who_falls_silent_after_the_hello_is_left_as_lost(first: bytes) -> None:
    async with testing.mesh("phone", "car") as m:
        m.friends.add("attacker")
        seconds, raw = await quiet(m, first)
        assert 2.9 <= seconds <= 3.5
        assert Kind.BEAT in [message[0] for message in raw.heard]
        (down,) = [e for e in m["phone"].events.recent if e.kind == "link.down"]
        assert down.fields["device"] == "attacker"
        assert "nothing was heard" in down.fields["why"]
        assert m["phone"].reachable("car")


@virtual_time
async def test_a_hundred_who_say_nothing_are_all_left_and_a_person_is_warned_once() -> None:
    async with testing.mesh("phone", "car") as m:
        took: list[float] = []

        async def one() -> None:
            took.append((await quiet(m, b""))[0])

        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(one)
        assert len(took) == 100
        assert max(took) <= HELLO_SECONDS + 0.01
        assert len(told(m["phone"], "no HELLO")) == 1
        assert m["phone"].reachable("car")


@virtual_time
async def test_ten_thousand_devices_that_a_member_invents_are_few_on_every_device_and_here_on_none() -> None:
    async with testing.mesh("phone", "car", "hub") as m:
        m.friends.add("attacker")
        names = {"phone", "car", "hub"}
        own = m["car"].members.me.to_wire()
        link = await MemoryTransport(m.network, "attacker").dial("memory://phone", "phone")
        link.start(Raw())
        link.write(hello())
        for first in range(0, 10_000, 100):
            news = [{**own, "id": f"i{i}", "neighbours": {"attacker": (None, None)}} for i in range(first, first + 100)]
            link.write(message(Kind.NEWS, news))
        await anyio.sleep(2)
        link.abort()
        await m.until(lambda: "attacker" not in m["phone"].links.up)
        for name in names:
            assert {d.id for d in m[name].members.present()} == names
            assert len(m[name].members.digest()) <= len(names) + 1 + STRANGERS
        assert len(m["phone"].members.digest()) == len(names) + STRANGERS
        assert await m.call("cabin.climate.get", on="car", of="hub")
        assert [e.kind for e in m["car"].events.recent if "left" in e.kind] == []
