"""Admissions over fake links: rosters become one, chaff is waited out, who shows nothing that counts stays outside."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from random import Random
from typing import Any

import anyio
import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.admission import (
    ANSWERS_LIMIT,
    BATCH,
    CHAFF_LIMIT,
    CHAFF_SECONDS,
    CSR_LIMIT,
    HELD_LIMIT,
    PEER_LIMIT,
    Admission,
)
from slipstream.core.errors import ProtocolError, Refused, SlipError
from slipstream.core.events import Events
from slipstream.core.trust import Role, Roster, Statement

pytestmark = pytest.mark.anyio
ROOT = "root"
OWNER, MEMBER, GUEST = Role.OWNER, Role.MEMBER, Role.GUEST


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


def say(signer: str, seq: int, subject: str, role: Role | None = None, **more: Any) -> Statement:
    fields: dict[str, Any] = {
        "name": subject, "device_kind": "car", "until": None, "profile": "", "number": 1, "keeps": b"", "at": 0.0,
        "mesh": ROOT, "spki": b"", "signature": b"right",
    }  # fmt: skip
    kind: Any = "revoke" if role is None else "add"
    return Statement(kind=kind, signer=signer, seq=seq, subject=subject, role=role, **(fields | more))


FIRST = say(ROOT, 1, "a", OWNER)
STORY = [
    FIRST, say("a", 1, "b", OWNER), say("b", 1, "c", MEMBER), say("a", 2, "d", OWNER), say("d", 1, "e", MEMBER),
    say("b", 2, "d"), say("d", 2, "f", MEMBER), say("a", 3, "g", GUEST, until=100.0), say("b", 3, "c"),
]  # fmt: skip


class FakeKeeper:
    """Keeps what is signed right; breaks when it is told to."""

    def __init__(self, *statements: Statement) -> None:
        self.roster = Roster(ROOT)
        self.roster.merge(statements)
        self.taken: list[int] = []
        self.broken: SlipError | None = None
        self.busy: anyio.Event | None = None

    async def take(self, statements: list[bytes]) -> None:
        self.taken.append(len(statements))
        if self.busy is not None:
            await self.busy.wait()
        if self.broken is not None:
            raise self.broken
        self.roster.merge(s for s in map(Statement.from_wire, statements) if s.signature == b"right")

    async def renew(self, device: str, csr: bytes) -> dict[str, Any]:
        return {"renewed": device, "csr": csr}

    async def retire(self, device: str) -> None:
        self.roster.merge([say("a", self.roster.next_seq("a"), device)])


class Net:
    """Some devices, all linked with each other; messages wait here until the test lets them arrive."""

    def __init__(self) -> None:
        self.now = 0.0
        self.sent: list[tuple[str, str, bytes]] = []
        self.devices: dict[str, Admission] = {}
        self.keepers: dict[str, FakeKeeper] = {}
        self.events: dict[str, Events] = {}
        self.changes: list[str] = []

    def add(self, name: str, *statements: Statement) -> Admission:
        self.keepers[name] = FakeKeeper(*statements)
        self.events[name] = Events(self.clock)
        self.devices[name] = Admission(
            name, self.keepers[name], self.events[name], self.clock, self.clock, partial(self._send, name),
            lambda: [other for other in self.devices if other != name], lambda: self.changes.append(name),
        )  # fmt: skip
        return self.devices[name]

    def clock(self) -> float:
        return self.now

    def _send(self, source: str, target: str, content: dict[str, Any]) -> None:
        self.sent.append((source, target, msgpack.packb(content)))

    async def settle(self, arrives: Callable[[], bool] = lambda: True, draw: Random | None = None) -> None:
        """Let everything arrive, or be lost, until there is nothing more to say."""
        while self.sent:
            source, target, content = self.sent.pop(draw.randrange(len(self.sent)) if draw else 0)
            if target in self.devices and arrives():
                self.devices[target].note(source, msgpack.unpackb(content))
                await self.devices[target].settled()

    def greet_all(self) -> None:
        """Every link comes up anew: both ends greet."""
        for name, device in self.devices.items():
            for other in self.devices:
                if other != name:
                    device.greet(other)

    def digests(self) -> set[bytes]:
        return {device.roster.digest for device in self.devices.values()}

    def warnings(self, name: str) -> list[str]:
        return [e.fields["what"] for e in self.events[name].recent if e.kind == "warning"]


@asynccontextmanager
async def running(net: Net) -> AsyncIterator[None]:
    async with anyio.create_task_group() as group:
        for device in net.devices.values():
            group.start_soon(device.run)
        yield
        group.cancel_scope.cancel()


# -- the exchange ----------------------------------------------------------------------------------------------------


async def test_two_rosters_that_differ_become_one() -> None:
    net = Net()
    net.add("a", *STORY[:4])
    net.add("b", STORY[0], STORY[1], STORY[5], *STORY[3:5])
    async with running(net):
        net.greet_all()
        await net.settle()
    assert len(net.digests()) == 1
    assert set(net.devices["a"].roster.statements) == set(STORY[:6])


async def test_rosters_that_are_equal_have_nothing_to_say_but_that() -> None:
    net = Net()
    net.add("a", *STORY)
    net.add("b", *reversed(STORY))
    net.greet_all()
    assert [msgpack.unpackb(content).keys() for *_, content in net.sent] == [{"hash"}, {"hash"}]
    await net.settle()
    assert not net.sent


async def test_what_is_new_goes_on_to_everybody_at_once_and_is_acted_on_once() -> None:
    net = Net()
    for name in "abcde":
        net.add(name, FIRST)
    async with running(net):
        net.devices["a"].note("b", {"statements": [STORY[1].to_wire()]})
        await net.devices["a"].settled()
        assert sorted(target for _, target, _ in net.sent) == ["b", "c", "d", "e"]
        await net.settle()
    assert len(net.digests()) == 1
    assert sorted(net.changes) == ["a", "b", "c", "d", "e"]
    (told,) = [e.fields for e in net.events["c"].recent if e.kind == "trust.changed"]
    assert told == {"joined": ["b"], "revoked": []}


async def test_what_this_device_did_itself_goes_out_as_well() -> None:
    net = Net()
    net.add("a", FIRST)
    net.add("b", FIRST)
    net.keepers["a"].roster.merge(STORY)
    net.devices["a"].changed()
    net.devices["a"].changed()
    async with running(net):
        await net.settle()
    assert len(net.digests()) == 1
    assert net.changes == ["a", "b"]


async def test_a_long_roster_travels_in_messages_of_a_limited_size() -> None:
    net = Net()
    net.add("a", FIRST, *(say("a", n, f"x{n}", MEMBER) for n in range(1, 3 * BATCH)))
    net.add("b", FIRST)
    async with running(net):
        net.greet_all()
        net.devices["a"].note("b", {"have": [FIRST.id]})
        sizes = [len(msgpack.unpackb(c).get("statements", ())) for _, target, c in net.sent if target == "b"]
        assert max(sizes) == BATCH
        await net.settle()
    assert len(net.digests()) == 1


@settings(max_examples=40, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(2, 4), st.floats(0, 0.9))
def test_any_rosters_become_one_over_links_that_lose_and_mix_up_anything_until_they_come_up_once_more(
    draw: Random, count: int, loss: float
) -> None:
    async def exchange() -> None:
        net = Net()
        for n in range(count):
            known = Roster(ROOT)
            known.merge([FIRST, *draw.sample(STORY, draw.randint(0, len(STORY)))])
            net.add(f"d{n}", *known.statements)
        everybody = Roster(ROOT)
        everybody.merge(s for keeper in net.keepers.values() for s in keeper.roster.statements)
        async with running(net):
            for _ in range(3):
                net.greet_all()
                await net.settle(lambda: draw.random() >= loss, draw)
            for _ in range(count):
                net.now += 2 * CHAFF_LIMIT  # what came without its signer's admission was taken for chaff
                net.greet_all()
                await net.settle()
        assert net.digests() == {everybody.digest}

    anyio.run(exchange)


# -- chaff -----------------------------------------------------------------------------------------------------------


async def test_who_sends_chaff_is_ignored_for_twice_as_long_each_time() -> None:
    net = Net()
    device, seq = net.add("a", FIRST), 0
    waited = []
    async with running(net):
        for _ in range(9):
            began = net.now
            while device.hold("bad", [say("z", (seq := seq + 1), "z", OWNER).to_wire()]) == 0:
                net.now += 0.5
            waited.append(net.now - began)
            await device.settled()
    assert waited == [0.0, *(min(CHAFF_SECONDS * 2**n, CHAFF_LIMIT) for n in range(8))]
    assert len(net.warnings("a")) == 9
    assert len(device.roster.statements) == 1


async def test_chaff_of_one_peer_does_not_hold_up_what_another_one_says() -> None:
    net = Net()
    device = net.add("a", FIRST)
    async with running(net):
        device.hold("bad", [say("z", 1, "z", OWNER).to_wire()])
        await device.settled()
        assert device.hold("bad", [STORY[1].to_wire()]) == 0
        assert device.hold("good", [STORY[1].to_wire()]) == 1
        await device.settled()
    assert device.admits("b")


async def test_a_copy_with_a_wrong_signature_does_not_stand_in_the_way_of_the_right_one() -> None:
    net = Net()
    device = net.add("a", *STORY[:3])
    forged = say("a", 5, "c", signature=b"wrong")
    device.hold("bad", [forged.to_wire()])
    device.hold("good", [say("a", 5, "c").to_wire()])
    async with running(net):
        await device.settled()
    assert device.roster.revoked("c")


async def test_a_peer_is_not_taken_for_a_liar_when_signatures_could_not_be_checked_here() -> None:
    net = Net()
    device = net.add("a", FIRST)
    net.keepers["a"].broken = SlipError("the clerk broke off", "no memory", "slip doctor")
    async with running(net):
        device.hold("b", [STORY[1].to_wire()])
        await device.settled()
        assert net.warnings("a") == ["news of the roster could not be taken"]
        net.keepers["a"].broken = None
        assert device.hold("b", [STORY[1].to_wire()]) == 1
        await device.settled()
    assert device.admits("b")


def test_what_is_held_has_an_end() -> None:
    device = Net().add("a", FIRST)
    flood = [say("z", n, "z", MEMBER).to_wire() for n in range(1, HELD_LIMIT + 500)]
    assert device.hold("bad", flood) == PEER_LIMIT
    assert device.hold("bad", [say("y", 1, "y", MEMBER).to_wire()]) == 0
    for n in range(HELD_LIMIT // PEER_LIMIT):
        device.hold(f"bad too {n}", flood)
    assert device.hold("good", [say("y", 1, "y", MEMBER).to_wire()]) == 0


async def test_what_a_stranger_shows_throws_nobody_out_and_who_is_out_is_not_heard() -> None:
    net = Net()
    device = net.add("a", FIRST, say("a", 1, "b", OWNER), say("a", 2, "c", OWNER), say("a", 3, "b"))
    async with running(net):
        with pytest.raises(Refused, match="was revoked"):
            await device.hear_out("b", {"vouch": [say("b", 1, "c").to_wire()]})
        shown = [say("b", 1, "puppet", OWNER), say("b", 2, "c"), say("c", 1, "a")]
        with pytest.raises(Refused, match="not of this mesh"):
            await device.hear_out("puppet", {"vouch": [s.to_wire() for s in shown]})
    assert device.admits("c")
    assert device.admits("a")


def test_who_asks_for_the_roster_again_and_again_is_left() -> None:
    device = Net().add("a", FIRST)
    for _ in range(ANSWERS_LIMIT):
        device.note("bad", {"hash": b"another"})
    with pytest.raises(ProtocolError, match="too often"):
        device.note("bad", {"have": []})


async def test_ten_thousand_liars_are_not_all_remembered() -> None:
    net = Net()
    device = net.add("a", FIRST)
    async with running(net):
        for start in range(0, 10_000, 2000):
            for n in range(start, start + 2000):
                device.hold(f"liar {n}", [say("z", n + 1, "z", MEMBER).to_wire()])
            await device.settled()
    assert len(device._chaff) <= HELD_LIMIT + 1
    assert len(device.roster.statements) == 1


@pytest.mark.parametrize(
    "content",
    [
        {"statements": [b"\x93"]}, {"statements": [2**40]}, {"statements": [7]}, {"statements": [2**64 - 1]},
        {"statements": 5}, {"statements": "text"}, {"statements": [None]}, {"statements": [["x"]]}, {"have": 7},
        {"have": [[1]]}, {"have": [{}]},
    ],
    ids=str,
)  # fmt: skip
def test_a_note_that_cannot_be_read_is_refused(content: dict[str, Any]) -> None:
    device = Net().add("a", FIRST)
    with pytest.raises((ProtocolError, TypeError, ValueError)):
        device.note("b", content)


# -- who may be here -------------------------------------------------------------------------------------------------


def hello(*statements: Statement) -> dict[str, Any]:
    return {"vouch": [s.to_wire() for s in statements]}


async def test_a_device_that_shows_what_let_it_in_is_admitted_though_nobody_had_heard_of_it() -> None:
    net = Net()
    device, newcomer = net.add("a", FIRST), net.add("c", *STORY[:3])
    async with running(net):
        await device.hear_out("c", {"vouch": newcomer.vouch()})
    assert device.check("c").role is MEMBER


@pytest.mark.parametrize(
    ("vouch", "why"),
    [
        ([], "is not of this mesh"),
        ([say("z", 1, "x", MEMBER)], "is not of this mesh"),
        ([say("a", 1, "x", MEMBER, signature=b"wrong")], "is not of this mesh"),
        ([say("a", 1, "x", MEMBER, mesh="another")], "is not of this mesh"),
        ([say("a", 1, "y", MEMBER)], "is not of this mesh"),
        ([say("c", 1, "x", OWNER)], "is not of this mesh"),
        ([say("a", 9, "x", GUEST, until=-0.0)], "the time of x is over"),
    ],
    ids=["nothing", "a stranger's word", "forged", "of another mesh", "of another device", "a member's word",
         "too late"],
)  # fmt: skip
async def test_who_shows_nothing_that_counts_is_refused(vouch: list[Statement], why: str) -> None:
    net = Net()
    device = net.add("a", *STORY[:3])
    async with running(net):
        with pytest.raises(Refused, match=why):
            await device.hear_out("x", hello(*vouch))
    assert not device.admits("x")


@pytest.mark.parametrize(
    "vouch", ["text", 5, {}, [1], [None], [b"x"], [FIRST.to_wire() + b"x"], [FIRST.to_wire()] * (BATCH + 1)],
    ids=["text", "number", "map", "numbers", "nothing", "no statement", "more than one", "too many"],
)  # fmt: skip
async def test_a_vouch_that_cannot_be_read_breaks_the_link(vouch: Any) -> None:
    net = Net()
    device = net.add("a", FIRST)
    async with running(net):
        with pytest.raises(ProtocolError):
            await device.hear_out("x", {"vouch": vouch})


async def test_a_device_is_heard_out_also_while_what_somebody_else_said_is_checked() -> None:
    net = Net()
    device, newcomer = net.add("a", FIRST), net.add("c", *STORY[:3])
    busy = net.keepers["a"].busy = anyio.Event()
    async with running(net):
        device.hold("d", [STORY[3].to_wire()])
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as group:
            group.start_soon(device.hear_out, "c", {"vouch": newcomer.vouch()})
            await anyio.wait_all_tasks_blocked()
            busy.set()
    assert device.admits("c")


async def test_a_device_that_was_thrown_out_does_not_come_in_again_with_its_old_vouch() -> None:
    net = Net()
    device, old = net.add("a", *STORY[:3], say("b", 9, "c")), net.add("c", *STORY[:3])
    async with running(net):
        with pytest.raises(Refused, match="was revoked"):
            await device.hear_out("c", {"vouch": old.vouch()})


def test_a_guest_is_admitted_until_its_time_is_over() -> None:
    net = Net()
    device = net.add("a", FIRST, say("a", 1, "g", GUEST, until=100.0), say("a", 2, "h", GUEST, until=50.0))
    assert device.seconds_left() == 50.0
    net.now = 50.0
    assert (device.admits("g"), device.admits("h"), device.seconds_left()) == (True, False, 50.0)
    net.now = 100.0
    assert (device.admits("g"), device.seconds_left()) == (False, float("inf"))
    with pytest.raises(Refused, match="the time of g is over"):
        device.check("g")


# -- new keys --------------------------------------------------------------------------------------------------------


async def test_a_new_key_is_let_in_before_the_old_one_ends() -> None:
    device = Net().add("a", *STORY[:3])
    assert await device.rotate("c", {"csr": b"request"}) == {"renewed": "c", "csr": b"request"}
    assert device.admits("c")
    assert await device.rotate("c", {"retire": True}) == {}
    assert device.roster.revoked("c")


@pytest.mark.parametrize(
    "csr", [None, "text", 5, b"x" * (CSR_LIMIT + 1), ["x"]], ids=["-", "text", "5", "long", "list"]
)
async def test_a_request_for_a_new_key_that_cannot_be_read_is_refused(csr: Any) -> None:
    with pytest.raises(ProtocolError):
        await Net().add("a", FIRST).rotate("c", {"csr": csr})
