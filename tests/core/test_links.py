"""The links of a device over fake cables: which of two stays, when a replaced one closes, what a person is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import LinkLost, ProtocolError, Refused, SlipError, from_wire
from slipstream.core.events import Events
from slipstream.core.link import Link, Receiver
from slipstream.core.links import HELLO_SECONDS, OUT_LIMIT, OUT_SECONDS, RETIRE_SECONDS, TELL_EVERY, TELL_LIMIT, Links
from slipstream.core.peer import Peer
from slipstream.core.timers import Timer, Timers
from slipstream.core.wire import VERSION, Kind, Splitter, frame, pack, unpack
from slipstream.transports.discovery import Candidates, Found


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class End:
    """One end of a cable between two devices: bytes arrive when the test lets them."""

    def __init__(self, peer: str, dialled: bool) -> None:
        self.peer, self.dialled, self.address = peer, dialled, f"fake://{peer}"
        self.other: End
        self.receiver: Receiver | None = None
        self.coming: list[bytes | None] = []  # None: the end
        self.over = self.reset = False

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def write(self, data: bytes, *, now: bool = False) -> None:
        if not self.over:
            self.other.coming.append(data)

    def full(self) -> bool:
        return False

    def close(self) -> None:
        if not self.over:
            self.over = True
            self.other.coming.append(None)

    def abort(self) -> None:
        self.reset = True
        self.close()

    def arrive(self) -> None:
        """Let the next bytes, or the end, come in here."""
        data = self.coming.pop(0)
        assert self.receiver is not None
        if data is None:
            self.over = True
            self.receiver.link_lost(None)
        elif not self.over:
            self.receiver.data_received(data)


class FakeTimers(Timers):
    """Timers that happen when the test moves its clock."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock
        clock.timers.append(self)
        self.waiting: list[Timer] = []

    def at(self, when: float, act: Callable[[], None]) -> Timer:
        timer = Timer(self, when, act)
        self.waiting.append(timer)
        return timer


class Clock:
    """The time of all devices of a test."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[FakeTimers] = []

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass, and happen what is due meanwhile."""
        until = self.now + seconds
        while due := [(t.when, i, t, timers) for timers in self.timers for i, t in enumerate(timers.waiting)
                      if t.when <= until]:  # fmt: skip
            when, _, timer, timers = min(due, key=lambda entry: entry[:2])
            timers.waiting.remove(timer)
            self.now = max(self.now, when)
            timer.act()
        self.now = until


class Tasks:
    """Runs each job in a task of its own."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def do(self, job: Callable[[], Any]) -> None:
        self._group.start_soon(job)


class Device:
    """The links of a device, and what their owner is told; its calls are answered when the test says so."""

    def __init__(
        self, me: str, clock: Clock, group: Any = None, transports: Any = None, candidates: Candidates | None = None
    ) -> None:
        self.me = me
        self.events = Events(clock)
        self.ups: list[Peer] = []
        self.downs: list[tuple[Peer, SlipError | None]] = []
        self.calls: list[tuple[Peer, int]] = []
        self.timers = FakeTimers(clock)
        tasks: Any = Tasks(group)
        self.links = Links(me, {"name": me}, transports or {}, candidates, self.timers, clock, self, group, self, tasks)
        self.strangers: set[str] = set()
        self.waiting: dict[str, anyio.Event] = {}

    def check(self, device: str) -> None:
        if device in self.strangers:
            raise Refused(f"{device} is not of this mesh")

    async def hear_out(self, device: str, hello: Mapping[str, Any]) -> None:
        await self.waiting[device].wait()
        self.check(device)

    def link_up(self, peer: Peer, hello: dict[str, Any]) -> None:
        self.ups.append(peer)

    def link_down(self, peer: Peer, why: SlipError | None) -> None:
        self.downs.append((peer, why))

    def addresses_of(self, device: str) -> tuple[str, ...]:
        return ()

    def peer_call(
        self, peer: Peer, stream: int, target: str, args: dict[str, Any], key: str, left: float, origin: str
    ) -> None:
        self.calls.append((peer, stream))

    def peer_cancel(self, peer: Peer, stream: int, why: str) -> None: ...
    def peer_credit(self, peer: Peer, stream: int) -> None: ...
    def peer_note(self, peer: Peer, target: str, content: dict[str, Any]) -> None: ...
    def peer_news(self, peer: Peer, announcements: list[Any]) -> None: ...
    def peer_heard(self, peer: Peer, now: float) -> None: ...
    def peer_measured(self, peer: Peer, rtt: float | None, transfer: tuple[int, float] | None) -> None: ...

    @property
    def warnings(self) -> list[dict[str, Any]]:
        return [event.fields for event in self.events.recent if event.kind == "warning"]


def cable(a: str, b: str) -> tuple[End, End]:
    """A link that `a` dialled; the ends are those of `a` and of `b`."""
    one, other = End(b, True), End(a, False)
    one.other, other.other = other, one
    return one, other


def connect(dialler: Device, listener: Device) -> tuple[End, End]:
    """Two devices with one more link between them, over which nothing has come yet."""
    one, other = cable(dialler.me, listener.me)
    listener.links.accept(other)
    dialler.links.accept(one)
    return one, other


def settle(*ends: End) -> None:
    """Let everything arrive."""
    while any(end.coming for end in ends):
        for end in ends:
            if end.coming:
                end.arrive()


class Stranger:
    """A device that speaks the protocol as it likes."""

    def __init__(self, device: Device, me: str = "stranger") -> None:
        self.end, self.their_end = cable(me, device.me)
        device.links.accept(self.their_end)

    def say(self, *messages: list[Any]) -> None:
        self.end.write(b"".join(frame(pack(message)) for message in messages))
        settle(self.their_end)

    def heard(self) -> list[list[Any]]:
        data = b"".join(piece for piece in self.end.coming if piece is not None)
        return [unpack(body) for body in Splitter(1 << 30).feed(data)]

    def refusal(self) -> SlipError:
        """Why it was refused."""
        (bye,) = [message for message in self.heard() if message[0] == Kind.BYE]
        return from_wire(bye[1])


HELLO = [Kind.HELLO, {"version": list(VERSION), "name": "stranger"}]


# -- which link stays --------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 3), max_size=20))
def test_two_devices_that_dial_each_other_at_once_agree_on_one_link_in_whatever_order_things_arrive(
    order: list[int],
) -> None:
    clock = Clock()
    a, b = Device("a", clock), Device("b", clock)
    of_a, of_b = connect(a, b), connect(b, a)
    ends = [*of_a, *of_b]
    for i in order:
        if ends[i].coming:
            ends[i].arrive()
    settle(*ends)
    assert a.links.up["b"].link is of_a[0]
    assert b.links.up["a"].link is of_a[1]
    for _ in range(3):
        clock.advance(RETIRE_SECONDS)
        settle(*ends)
    assert a.links.up["b"].link is of_a[0]
    assert b.links.up["a"].link is of_a[1]
    assert [end.over for end in ends] == [False, False, True, True]
    assert a.downs == b.downs == []
    assert a.warnings == b.warnings == []


def test_a_link_that_is_dead_is_replaced_by_a_new_one_from_the_side_that_made_it() -> None:
    clock = Clock()
    a, b = Device("a", clock), Device("b", clock)
    old = connect(b, a)
    settle(*old)
    dead = a.links.up["b"]
    old[0].coming.clear()
    new = connect(b, a)
    settle(*new)
    assert a.links.up["b"].link is new[1]
    assert b.links.up["a"].link is new[0]
    clock.advance(RETIRE_SECONDS)
    assert old[1].over
    assert a.downs == []
    dead.link_lost(None)
    assert a.links.up["b"].link is new[1]
    assert len(a.ups) == 2  # what the old link may have lost is sent again


def test_a_replaced_link_closes_only_when_its_calls_have_their_answers() -> None:
    clock = Clock()
    a, b = Device("a", clock), Device("b", clock)
    one = Stranger(b, "a")
    one.say(HELLO, [Kind.CALL, 1, "nav.route", {}, "", -1.0, ""])
    new = connect(a, b)
    settle(*new)
    clock.advance(10 * RETIRE_SECONDS)
    assert not one.their_end.over
    ((peer, stream),) = b.calls
    peer.answer(stream, "done", 42)
    clock.advance(RETIRE_SECONDS)
    assert one.their_end.over
    assert one.heard()[-2:] == [[Kind.RESULT, 1, "done", 42], [Kind.BYE, {}]]
    assert b.downs == []


def test_a_replaced_link_that_dies_with_calls_open_costs_nothing_more() -> None:
    clock = Clock()
    a, b = Device("a", clock), Device("b", clock)
    one = Stranger(b, "a")
    one.say(HELLO, [Kind.CALL, 1, "nav.route", {}, "", -1.0, ""])
    settle(*connect(a, b))
    one.end.close()
    settle(one.their_end)
    clock.advance(HELLO_SECONDS + 10 * RETIRE_SECONDS)
    assert b.timers.waiting == []


def test_a_device_keeps_no_link_with_itself() -> None:
    clock = Clock()
    a = Device("a", clock)
    me = Stranger(a, "a")
    me.say(HELLO)
    assert me.refusal().what == "this is the same device"
    assert not a.links.up


def test_a_device_that_leaves_takes_no_new_links_and_says_so() -> None:
    clock = Clock()
    a = Device("a", clock)
    a.links.stopping = True
    late = Stranger(a)
    late.say(HELLO)
    assert "leaving" in late.refusal().what
    assert late.refusal().retry
    assert a.warnings == []


# -- who never came up -------------------------------------------------------------------------------------------------


def test_who_says_nothing_is_told_why_it_is_left_and_so_is_a_person() -> None:
    clock = Clock()
    a = Device("a", clock)
    silent = Stranger(a)
    clock.advance(HELLO_SECONDS - 0.01)
    assert not silent.their_end.over
    clock.advance(0.02)
    assert silent.their_end.over
    assert not silent.their_end.reset
    assert silent.refusal().what == "no HELLO came in time"
    a_peer_lost(silent)
    (warning,) = a.warnings
    assert "strange" in warning["what"]
    assert "no HELLO came in time" in warning["why"]
    assert a.downs == []


def a_peer_lost(stranger: Stranger) -> None:
    """The transport tells that the link is over, as it does after every close."""
    assert stranger.their_end.receiver is not None
    stranger.their_end.receiver.link_lost(None)


def test_a_person_is_not_flooded_with_those_who_never_came_up() -> None:
    clock = Clock()
    a = Device("a", clock)
    for _ in range(50):
        broken = Stranger(a)
        broken.say([Kind.BEAT, 1.0, 1.0, 1.0])
        assert "came before HELLO" in broken.refusal().what
        a_peer_lost(broken)
    assert len(a.warnings) == 1
    clock.advance(TELL_EVERY)
    other = Stranger(a)
    other.say([Kind.HELLO, {"version": [VERSION[0] + 1, 0]}])
    a_peer_lost(other)
    assert len(a.warnings) == 2
    assert "(and 49 more)" in a.warnings[1]["why"]
    assert "speaks protocol 2.0" in a.warnings[1]["why"]
    assert "update" in a.warnings[1]["hint"]


def test_each_device_that_never_came_up_is_told_of_once_in_a_while_and_a_crowd_of_them_is_counted() -> None:
    clock = Clock()
    a = Device("a", clock)
    for n in range(4 * TELL_LIMIT):
        for _ in range(3):
            a.strangers.add(f"dev{n}")
            out = Stranger(a, f"dev{n}")
            out.say(HELLO)
            assert not out.refusal().retry
            a_peer_lost(out)
    assert [w["what"][-5:].split()[-1] for w in a.warnings] == [f"dev{n}" for n in range(TELL_LIMIT)]
    assert len(a.links._out) == OUT_LIMIT
    clock.advance(TELL_EVERY)
    out = Stranger(a, "dev0")
    out.say(HELLO)
    a_peer_lost(out)
    assert len(a.warnings) == TELL_LIMIT + 1
    told = sum(int(w["why"].partition("(and ")[2].partition(" ")[0] or 0) for w in a.warnings)
    assert told + len(a.warnings) == 12 * TELL_LIMIT + 1
    assert len(a.links._told) == 1


def test_a_link_that_came_up_is_told_as_lost_with_the_reason_and_warns_of_nothing() -> None:
    clock = Clock()
    a = Device("a", clock)
    one = Stranger(a)
    one.say(HELLO)
    one.say([Kind.BYE, ProtocolError("you speak too fast").to_wire()])
    a_peer_lost(one)
    ((_, why),) = a.downs
    assert why is not None
    assert why.what == "you speak too fast"
    assert a.warnings == []
    assert not a.links.up


# -- dialling (it waits, so it runs on a loop) -------------------------------------------------------------------------


class Dialled:
    """A transport whose dials the test answers."""

    scheme = "fake"

    def __init__(self, answer: Callable[[str, str], Link]) -> None:
        self.answer = answer
        self.dials: list[str] = []
        self.go = anyio.Event()
        self.go.set()

    async def dial(self, address: str, peer: str) -> Link:
        self.dials.append(address)
        await anyio.lowlevel.checkpoint()
        await self.go.wait()
        return self.answer(address, peer)


@pytest.mark.anyio
async def test_the_first_address_that_answers_is_taken_and_the_reason_of_the_last_is_told_if_none_does() -> None:
    clock = Clock()
    b = Device("b", clock)

    def answer(address: str, peer: str) -> Link:
        if address != "fake://good":
            raise LinkLost("no link", f"nobody listens at {address}")
        one, other = cable("a", "b")
        b.links.accept(other)
        group.start_soon(deliver, one, other)
        return one

    async def deliver(*ends: End) -> None:
        settle(*ends)

    transport = Dialled(answer)
    async with anyio.create_task_group() as group:
        a = Device("a", clock, group, {"fake": transport})
        peer = await a.links.to("b", ("other://x", "fake://bad", "fake://good", "fake://never"))
        assert a.links.up["b"] is peer
        assert transport.dials == ["fake://bad", "fake://good"]
        assert await a.links.to("b") is peer
        with pytest.raises(LinkLost, match="nobody listens at fake://worse"):
            await a.links.to("c", ("fake://bad", "fake://worse"))
        with pytest.raises(LinkLost, match="no address of it is known"):
            await a.links.to("c")


@pytest.mark.anyio
async def test_a_dial_that_is_refused_says_why_and_what_to_do() -> None:
    clock = Clock()

    def answer(address: str, peer: str) -> Link:
        one, _ = cable("a", "b")
        one.coming.append(frame(pack([Kind.HELLO, {"version": [9, 0]}])))
        group.start_soon(deliver, one)
        return one

    async def deliver(end: End) -> None:
        settle(end)
        assert end.receiver is not None
        end.receiver.link_lost(None)

    async with anyio.create_task_group() as group:
        a = Device("a", clock, group, {"fake": Dialled(answer)})
        with pytest.raises(LinkLost, match=r"speaks protocol 9\.0") as refused:
            await a.links.to("b", ("fake://b",))
        assert "update" in refused.value.hint
        assert not a.links.dialling("b")


@pytest.mark.anyio
async def test_callers_of_one_device_share_a_dial() -> None:
    clock = Clock()

    found: list[Peer] = []
    ends: list[End] = []

    def answer(address: str, peer: str) -> Link:
        one, other = cable("a", "b")
        Device("b", clock).links.accept(other)
        ends.extend((one, other))
        return one

    transport = Dialled(answer)
    async with anyio.create_task_group() as group:
        a = Device("a", clock, group, {"fake": transport})

        async def want() -> None:
            found.append(await a.links.to("b", ("fake://b",)))

        for _ in range(5):
            group.start_soon(want)
        await anyio.wait_all_tasks_blocked()

        settle(*ends)
    assert len(transport.dials) == 1
    assert found == [a.links.up["b"]] * 5


@pytest.mark.anyio
async def test_callers_of_one_device_share_a_dial_that_comes_to_nothing_unless_they_know_more() -> None:
    failed: list[LinkLost] = []

    def answer(address: str, peer: str) -> Link:
        raise LinkLost("no link", f"nobody listens at {address}")

    transport = Dialled(answer)
    async with anyio.create_task_group() as group:
        a = Device("a", Clock(), group, {"fake": transport})

        async def want(*addresses: str) -> None:
            try:
                await a.links.to("b", addresses)
            except LinkLost as error:
                failed.append(error)

        transport.go = anyio.Event()
        for _ in range(100):
            group.start_soon(want, "fake://old")
        await anyio.wait_all_tasks_blocked()
        for _ in range(100):
            group.start_soon(want, "fake://old", "fake://new")
        await anyio.wait_all_tasks_blocked()
        transport.go.set()
    assert transport.dials == ["fake://old", "fake://old", "fake://new"]
    assert sorted(error.why[-3:] for error in failed) == ["new"] * 100 + ["old"] * 100


class LoopClock(Clock):
    """The time of the loop, which stands still while anything can happen."""

    def __call__(self) -> float:
        return anyio.current_time()


class TwoDevices:
    """`a` finds `b` and dials it as often as it likes; all that is said arrives at once."""

    def __init__(self, group: Any) -> None:
        self.candidates = Candidates("a")
        self.dialled: list[float] = []
        self.a = Device("a", LoopClock(), group, {"fake": self}, self.candidates)
        self.b = Device("b", LoopClock(), group)
        self.ends: list[End] = []
        self.candidates.add(Found("b", ("fake://b",), "static"), anyio.current_time())
        self._group = group
        group.start_soon(self.a.links.dial_candidates)

    async def dial(self, address: str, peer: str) -> Link:
        self.dialled.append(anyio.current_time())
        one, other = cable("a", "b")
        self.b.links.accept(other)
        self._group.start_soon(self.deliver, one, other)
        return one

    async def deliver(self, *ends: End) -> None:
        self.ends = list(ends)
        settle(*ends)
        for end in ends:
            if end.over and end.receiver is not None:
                end.receiver.link_lost(None)

    @property
    def linked(self) -> bool:
        return "b" in self.a.links.up and "a" in self.b.links.up

    async def roster_changed(self, device: Device) -> None:
        device.links.recheck()
        await self.deliver(*self.ends)
        await anyio.sleep(0.001)


@pytest.mark.anyio
@pytest.mark.parametrize("refuses", ["a", "b"])
async def test_who_is_out_is_dialled_seldom_and_told_of_seldom_whichever_side_knows(refuses: str) -> None:
    async with anyio.create_task_group() as group:
        two = TwoDevices(group)
        await anyio.sleep(1.0)
        assert two.linked
        knows = two.a if refuses == "a" else two.b
        knows.strangers |= {"a", "b"} - {refuses}
        await two.roster_changed(knows)
        assert not two.linked
        before, cut = len(two.dialled), anyio.current_time()
        await anyio.sleep(3600.0)
        again = [at - cut for at in two.dialled[before:]]
        assert again[0] >= OUT_SECONDS
        assert 3600 / 150 <= len(again) <= 3600 / OUT_SECONDS  # now and then, all the same
        assert len(two.a.ups) + len(two.a.downs) <= 2 * len(two.dialled)
        assert 3600 / 180 <= len(knows.warnings) <= 3600 / TELL_EVERY
        group.cancel_scope.cancel()


@pytest.mark.anyio
@pytest.mark.parametrize("refuses", ["a", "b"])
async def test_once_the_roster_changed_a_device_that_was_refused_is_dialled_at_once(refuses: str) -> None:
    async with anyio.create_task_group() as group:
        two = TwoDevices(group)
        knows = two.a if refuses == "a" else two.b
        knows.strangers |= {"a", "b"} - {refuses}
        await anyio.sleep(20.0)
        assert len(two.dialled) == 1
        await two.roster_changed(two.a)
        assert not two.linked
        assert len(two.dialled) == (1 if refuses == "a" else 2)  # whom our own roster does not know is let be
        knows.strangers.clear()
        await two.roster_changed(two.a)
        assert two.linked
        assert len(two.dialled) == (2 if refuses == "a" else 3)
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_link_that_came_up_after_all_is_dialled_again_soon_when_it_is_lost() -> None:
    async with anyio.create_task_group() as group:
        two = TwoDevices(group)
        two.b.strangers.add("a")
        await anyio.sleep(2.0)
        two.b.strangers.clear()
        await two.a.links.to("b")
        assert two.linked
        for end in two.ends:
            end.close()
        await two.deliver(*two.ends)
        assert not two.linked
        await anyio.sleep(5.0)
        assert two.linked
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_device_that_was_about_to_leave_is_dialled_again_soon() -> None:
    async with anyio.create_task_group() as group:
        two = TwoDevices(group)
        two.b.links.stopping = True
        await anyio.sleep(3.0)
        assert len(two.dialled) >= 3
        two.b.links.stopping = False
        await anyio.sleep(5.0)
        assert two.linked
        group.cancel_scope.cancel()
