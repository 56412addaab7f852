"""One peer over a fake link and a fake clock: what it answers, what it refuses and why, what it never does."""

from __future__ import annotations

import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from slipstream.core.errors import LinkLost, ProtocolError, Refused, SkillFailed, SlipError, UsageError, from_wire
from slipstream.core.link import Receiver
from slipstream.core.peer import FLOOD_LIMIT, KEY_LIMIT, WAITING_LIMIT, Peer
from slipstream.core.session import CALLS_LIMIT, WINDOW
from slipstream.core.timers import Timers
from slipstream.core.wire import CHUNK, FIRST_LIMIT, LARGE_LIMIT, VERSION, Kind, Splitter, frame, pack, unpack

HELLO = [Kind.HELLO, {"version": list(VERSION), "name": "them"}]


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class FakeLink:
    """A link that keeps what is written to it."""

    def __init__(self, peer: str = "them", dialled: bool = False) -> None:
        self.peer, self.dialled = peer, dialled
        self.address = f"fake://{peer}"
        self.written = b""
        self.closed = self.aborted = False
        self.room = 1 << 40
        self.receiver: Receiver | None = None

    def start(self, receiver: Receiver) -> None:
        self.receiver = receiver

    def write(self, data: bytes, *, now: bool = False) -> None:
        if not self.closed:
            self.written += data
            self.room -= len(data)

    def full(self) -> bool:
        return self.room <= 0

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True


class Bench:
    """A peer, its owner and its keeper, with everything that they are told."""

    def __init__(self, *, up: bool = True) -> None:
        self.now = 1000.0
        self.told: list[tuple[Any, ...]] = []
        self.lost: list[SlipError | None] = []
        self.refusal: SlipError | None = None
        self.timers = Timers()
        self.link = FakeLink()
        self._splitter = Splitter(1 << 30)
        self.peer = Peer(self, self, self.link, {"name": "us"}, self.timers, lambda: self.now)
        if up:
            self.hear(HELLO)
            self.said()
            self.told.clear()

    def hear(self, *messages: list[Any]) -> None:
        """Let messages of the other side arrive, all in one piece."""
        self.peer.data_received(b"".join(frame(pack(message)) for message in messages))

    def said(self) -> list[list[Any]]:
        """What the peer has said since this was last asked."""
        data, self.link.written = self.link.written, b""
        return [unpack(body) for body in self._splitter.feed(data)]

    def refused(self) -> SlipError:
        """Why the peer closed the link, which it also said."""
        *_, (kind, told) = self.said()
        assert kind == Kind.BYE
        assert self.link.closed
        assert not self.link.aborted
        error = self.peer.why
        assert error is not None
        assert from_wire(told).what == error.what
        return error

    def peer_call(
        self, peer: Peer, stream: int, target: str, args: dict[str, Any], key: str, left: float, origin: str
    ) -> None:
        self.told.append(("call", stream, target, args, key, left))

    def peer_cancel(self, peer: Peer, stream: int, why: str) -> None:
        self.told.append(("cancel", stream, why))

    def peer_credit(self, peer: Peer, stream: int) -> None:
        self.told.append(("credit", stream))

    def peer_note(self, peer: Peer, target: str, content: dict[str, Any]) -> None:
        self.told.append(("note", target, content))

    def peer_news(self, peer: Peer, announcements: list[Any]) -> None:
        self.told.append(("news", announcements))

    ponders = False

    def peer_heard(self, peer: Peer, now: float) -> None:
        pass

    def peer_measured(self, peer: Peer, rtt: float | None, transfer: tuple[int, float] | None) -> None:
        self.told.append(("measured", rtt, transfer))

    def peer_hello(self, peer: Peer, hello: dict[str, Any]) -> bool:
        self.told.append(("hello", hello["name"]))
        if self.refusal is not None:
            raise self.refusal
        return not self.ponders

    def peer_lost(self, peer: Peer, why: SlipError | None) -> None:
        self.lost.append(why)


def call(stream: int, target: str = "a.b", key: str = "", *more: Any) -> list[Any]:
    """A call as the other side sends it."""
    return [Kind.CALL, stream, target, {}, key, -1.0, "", *more]


# -- hello and goodbye -------------------------------------------------------------------------------------------------


def test_a_peer_says_hello_at_once_and_is_up_when_the_other_side_did() -> None:
    b = Bench(up=False)
    assert [m[0] for m in b.said()] == [Kind.HELLO]
    assert not b.peer.up
    b.hear(HELLO)
    assert b.peer.up
    assert b.peer.settled.is_set()
    assert b.told == [("hello", "them")]


def test_a_hello_that_the_keeper_refuses_is_answered_with_the_reason() -> None:
    b = Bench(up=False)
    b.refusal = Refused("this device is leaving the mesh")
    b.hear(HELLO)
    assert b.refused() is b.refusal
    assert not b.peer.up


def test_what_comes_along_with_the_hello_may_be_larger_than_a_hello() -> None:
    b = Bench(up=False)
    digest = {"digest": {f"device {i}": [1, i] for i in range(2000)}}
    assert len(pack([Kind.NOTE, "slip.digest", digest])) > FIRST_LIMIT
    b.hear(HELLO, [Kind.NOTE, "slip.digest", digest])
    assert b.peer.up
    assert b.told[1] == ("note", "slip.digest", digest)


def test_a_goodbye_with_a_reason_is_why_the_link_ended() -> None:
    b = Bench()
    b.hear([Kind.BYE, ProtocolError("you speak too fast").to_wire()], call(1))
    assert b.link.closed
    assert b.told == []
    b.peer.link_lost(None)
    (why,) = b.lost
    assert isinstance(why, ProtocolError)
    assert why.what == "you speak too fast"


def test_a_goodbye_without_a_reason_is_an_orderly_end() -> None:
    b = Bench()
    b.hear([Kind.BYE, {}])
    b.peer.link_lost(None)
    b.peer.link_lost(LinkLost("again"))
    assert b.lost == [None]
    assert b.peer.lost
    assert not b.peer.up


def test_nothing_is_said_or_heard_after_leaving() -> None:
    b = Bench()
    b.peer.leave()
    assert b.said() == [[Kind.BYE, {}]]
    b.peer.note("a", {})
    b.peer.news([])
    b.peer.beat()
    b.hear(call(1), [Kind.NOTE, "a", {}])
    assert b.said() == []
    assert b.told == []


def test_what_the_owner_cannot_read_closes_the_link_with_that_reason() -> None:
    b = Bench()

    def peer_news(peer: Peer, announcements: list[Any]) -> None:
        raise ProtocolError("an announcement cannot be read")

    b.peer_news = peer_news  # type: ignore[method-assign]
    b.hear([Kind.NEWS, [1]], call(1))
    assert b.refused().what == "an announcement cannot be read"
    assert b.told == []


@pytest.mark.parametrize(
    ("message", "what"),
    [
        ([Kind.RESULT, 1, "done", None], "never made"),
        ([Kind.ITEM, 1, None, 1], "never made"),
        (HELLO, "a second HELLO"),
        (call(1, "a.b", "k" * (KEY_LIMIT + 1)), "an idempotency key of 201 characters"),
        ([Kind.BEAT, 1.0, 1.0, -float("inf")], "impossible times"),
        ([Kind.BEAT, 1.0, 1.0, float("nan")], "impossible times"),
        ([Kind.BEAT, float("inf"), -1.0, 0.0], "impossible times"),
        ([99, 1], "unknown kind 99"),
    ],
)
def test_a_peer_that_breaks_the_protocol_is_told_how_and_left(message: list[Any], what: str) -> None:
    b = Bench()
    b.hear(message)
    error = b.refused()
    assert what in error.what
    assert error.fault == "peer"
    b.peer.link_lost(None)
    assert b.lost == [error]


_VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=9),
              st.binary(max_size=9)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
_SMALL = st.integers(-1, 4)
_NUMBERED = st.sampled_from([Kind.RESULT, Kind.PROGRESS, Kind.ITEM, Kind.CREDIT, Kind.LARGE])
_ERRORS = st.dictionaries(st.sampled_from(["code", "what", "where", "fault"]), _VALUES)
_MESSAGES = st.one_of(
    st.tuples(st.integers(-1, 15), _SMALL | _VALUES, _VALUES, _VALUES),
    st.tuples(st.just(Kind.CALL), _SMALL, st.text(max_size=5), st.just({}), st.just(""), st.floats(), st.just("")),
    st.tuples(st.just(Kind.BEAT), st.floats(), st.floats(), st.floats()),
    st.tuples(_NUMBERED, _SMALL, _SMALL, _SMALL),
    st.tuples(st.just(Kind.CHUNK), _SMALL, st.binary(max_size=5)),
    st.tuples(st.just(Kind.PROGRESS), _SMALL, st.floats(), st.text(max_size=5)),
    st.tuples(st.just(Kind.ERROR), _SMALL, _ERRORS),
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(st.lists(_MESSAGES.map(list), max_size=12))
def test_no_messages_at_all_do_more_than_close_the_link_with_a_reason(messages: list[list[Any]]) -> None:
    b = Bench()
    for message in messages:
        b.hear(message)
    left = any(message[0] == Kind.BYE and not message[1] for message in messages)
    assert not b.link.closed or b.peer.why is not None or left


# -- floods ------------------------------------------------------------------------------------------------------------

UNASKED = {
    "notes": [Kind.NOTE, "slip.nothing", {}],
    "news": [Kind.NEWS, []],
    "heartbeats": [Kind.BEAT, 1.0, -1.0, 0.0],
}


@pytest.mark.parametrize("name", UNASKED)
def test_a_peer_that_floods_is_left_with_that_reason(name: str) -> None:
    b = Bench()
    b.hear(*[UNASKED[name]] * FLOOD_LIMIT)
    assert not b.link.closed
    b.hear(UNASKED[name])
    assert "floods" in b.refused().what


def test_as_much_in_every_second_is_no_flood() -> None:
    b = Bench()
    for _ in range(5):
        b.hear(*[UNASKED["notes"]] * FLOOD_LIMIT)
        b.now += 1.01
    assert not b.link.closed


def test_a_flood_of_calls_above_the_limit_is_first_answered_and_then_left() -> None:
    b = Bench()
    b.hear(*[call(i) for i in range(1, 2 * CALLS_LIMIT + 1)])
    assert len(b.told) == CALLS_LIMIT
    errors = [m for m in b.said() if m[0] == Kind.ERROR]
    assert [m[1] for m in errors] == list(range(CALLS_LIMIT + 1, 2 * CALLS_LIMIT + 1))
    assert not b.link.closed
    b.hear(call(2 * CALLS_LIMIT + 1))
    assert "floods" in b.refused().what


# -- what is measured in passing ---------------------------------------------------------------------------------------


def test_heartbeats_measure_the_round_trip_without_the_time_that_the_other_side_held_them() -> None:
    b = Bench()
    b.peer.beat()
    assert b.said() == [[Kind.BEAT, 1000.0, -1.0, 0.0]]
    b.now += 0.75
    b.hear([Kind.BEAT, 5.0, 1000.0, 0.5])
    assert b.told == [("measured", 0.25, None)]
    b.now += 0.125
    b.peer.beat()
    assert b.said() == [[Kind.BEAT, 1000.875, 5.0, 0.125]]


def test_a_large_body_measures_the_bandwidth() -> None:
    b = Bench()
    body = pack([Kind.NOTE, "a", {"x": b"x" * (3 * CHUNK)}])
    b.hear([Kind.LARGE, 1, len(body)], [Kind.CHUNK, 1, body[:CHUNK]])
    b.now += 0.5
    b.hear([Kind.CHUNK, 1, body[CHUNK:]])
    assert b.told[-1] == ("measured", None, (len(body), 0.5))


# -- we answer ---------------------------------------------------------------------------------------------------------


def test_a_result_that_cannot_be_sent_is_the_fault_of_the_skill() -> None:
    b = Bench()
    b.hear(call(1), call(2), call(3))
    b.peer.answer(1, "done", object())
    b.peer.answer(2, "done", bytes(LARGE_LIMIT + 1))
    b.peer.answer(3, "done", 3)
    (_, one, why_one), (_, two, why_two), three = b.said()
    assert (one, two) == (1, 2)
    assert from_wire(why_one).fault == from_wire(why_two).fault == "skill"
    assert str(LARGE_LIMIT) in from_wire(why_two).why
    assert three == [Kind.RESULT, 3, "done", 3]
    assert not b.peer.busy


def test_an_item_that_cannot_be_sent_is_the_fault_of_the_skill() -> None:
    b = Bench()
    b.hear(call(1, "a.b", "", True))
    with pytest.raises(SkillFailed, match="cannot be sent"):
        b.peer.item(1, object())
    assert b.peer.may_send(1)


@pytest.mark.parametrize(
    "error",
    [
        SkillFailed("x" * 10_000_000, "y" * 10_000_000, "z" * 10_000_000),
        SkillFailed("a path", device=object()),
        SkillFailed(ValueError("not text")),  # type: ignore[arg-type]
        SkillFailed("\x1b[2J\x00\ud800", why_="\u202e\udfff"),
        SkillFailed("many", **{f"field {i}": i for i in range(100)}),
    ],
)
def test_whatever_a_skill_puts_into_an_error_arrives_as_a_short_error_of_the_same_kind(error: SkillFailed) -> None:
    b = Bench()
    b.hear(call(1))
    b.peer.fail(1, error)
    ((kind, stream, told),) = b.said()
    assert (kind, stream) == (Kind.ERROR, 1)
    assert from_wire(told).code == "skill_failed"
    assert str(from_wire(told)).isprintable()
    assert len(pack([told])) < 4000
    assert not b.link.closed


def test_only_a_caller_that_reads_items_is_sent_any() -> None:
    b = Bench()
    b.hear(call(1), call(2, "a.b", "", True))
    assert not b.peer.reads(1)
    assert b.peer.reads(2)
    b.peer.answer(2, "done", None)
    assert not b.peer.reads(2)


def test_a_large_answer_goes_out_as_the_link_has_room() -> None:
    b = Bench()
    b.hear(call(1))
    b.link.room = 1
    b.peer.answer(1, "done", b"x" * (4 * CHUNK))
    sizes = []
    while b.link.written:
        sizes.append(len(b.link.written))
        b.said()
        b.link.room = 1
        b.peer.writable()
    assert len(sizes) == 5
    assert max(sizes) < CHUNK + 100


BODY = bytes(LARGE_LIMIT - CHUNK)
TOO_MANY = WAITING_LIMIT // len(BODY) + 1
"""Answers of that size of which the last is one too many."""


def test_a_peer_that_does_not_read_its_answers_is_left_once_too_much_waits_for_it() -> None:
    b, other = Bench(), Bench()
    b.hear(*[call(i) for i in range(1, TOO_MANY + 1)])
    b.link.room = 0
    for i in range(1, TOO_MANY):
        b.peer.answer(i, "done", BODY)
    assert not b.link.closed
    b.peer.answer(TOO_MANY, "done", BODY)
    assert b.link.aborted
    assert isinstance(b.peer.why, LinkLost)
    assert "does not read" in b.peer.why.what
    b.peer.link_lost(None)
    assert b.lost == [b.peer.why]
    assert not other.link.closed


def test_as_much_that_is_read_meanwhile_is_no_reason_to_leave() -> None:
    b = Bench()
    b.hear(*[call(i) for i in range(1, TOO_MANY + 1)])
    b.link.write = lambda *data, **now: None  # type: ignore[method-assign]
    for i in range(1, TOO_MANY + 1):
        b.peer.answer(i, "done", BODY)
    assert not b.link.closed


@pytest.mark.parametrize("late", [False, True])
def test_nothing_waits_for_a_peer_that_is_gone(late: bool) -> None:
    """Whoever still works for it may hold the peer for long, and must not hold what was made for it as well."""
    b = Bench()
    b.hear(call(1), call(2), call(3))
    b.link.room = 0
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        if not late:
            b.peer.answer(1, "done", BODY)
        b.peer.link_lost(None)
        for i in range(2, 4):
            b.peer.answer(i, "done", BODY)
            b.peer.note("slip.digest", {"digest": BODY})
        assert tracemalloc.get_traced_memory()[0] - before < len(BODY) // 8
    finally:
        tracemalloc.stop()
    b.link.room = 1 << 40
    b.peer.writable()
    assert b.link.written == b""


# -- we call (these wait, so they run on a loop) -----------------------------------------------------------------------


@asynccontextmanager
async def calling(b: Bench, target: str = "a.b", **more: Any) -> AsyncIterator[list[Any]]:
    """A call under way; what becomes of it ends in the list."""
    ends: list[Any] = []

    async def run() -> None:
        try:
            ends.append(await b.peer.call(target, {}, **more))
        except SlipError as error:
            ends.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(run)
        await anyio.wait_all_tasks_blocked()
        yield ends
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_a_call_gets_its_answer_and_what_comes_after_it_is_dropped() -> None:
    b = Bench()
    async with calling(b) as ends:
        assert b.said() == [[Kind.CALL, 1, "a.b", {}, "", -1.0, ""]]
        b.hear([Kind.RESULT, 1, "done", 7], [Kind.RESULT, 1, "done", 8], [Kind.PROGRESS, 1, 0.5, ""])
        b.hear([Kind.ERROR, 1, {}], [Kind.ITEM, 1, 1, 2])
    assert ends == [("done", 7)]
    assert not b.link.closed


@pytest.mark.anyio
async def test_a_late_answer_to_a_call_that_was_cancelled_is_dropped_and_the_other_side_was_told() -> None:
    b = Bench()
    async with calling(b) as ends:
        b.said()
    assert ends == []
    assert b.said() == [[Kind.CANCEL, 1, "cancelled"]]
    b.hear([Kind.ITEM, 1, 1, 2], [Kind.RESULT, 1, "done", 7])
    assert not b.link.closed
    assert not b.peer.busy


@pytest.mark.anyio
async def test_progress_is_kept_within_its_range_and_cleaned() -> None:
    b = Bench()
    told: list[tuple[float, str]] = []
    async with calling(b, on_progress=lambda fraction, note: told.append((fraction, note))):
        b.hear([Kind.PROGRESS, 1, 5.0, "\x1b[2Jloading\u202e" + "x" * 500], [Kind.PROGRESS, 1, float("nan"), ""])
    assert told[0] == (1.0, "[2Jloading" + "x" * 190)
    assert 0 <= told[1][0] <= 1


@pytest.mark.anyio
async def test_an_item_of_a_call_that_streams_nothing_is_a_broken_peer() -> None:
    b = Bench()
    async with calling(b) as ends:
        b.hear([Kind.ITEM, 1, 1, 2])
        assert b.refused().what == "an item of a call that streams nothing"
        b.peer.link_lost(None)
    (error,) = ends
    assert isinstance(error, LinkLost)
    assert "streams nothing" in error.why


@pytest.mark.anyio
async def test_a_sender_that_ignores_the_credit_of_its_reader_is_left_before_it_fills_the_memory() -> None:
    b = Bench()
    stream = b.peer.stream("a.b", {})
    async with anyio.create_task_group() as group:
        group.start_soon(anext, stream)
        await anyio.wait_all_tasks_blocked()
        fits = 2 * WINDOW // 10_004
        b.hear(*[[Kind.ITEM, 1, b"x" * 10_000, 10_004]] * fits)
        assert not b.link.closed
        b.hear([Kind.ITEM, 1, b"x" * 10_000, 10_004])
        assert "beyond their credit" in b.refused().what
        group.cancel_scope.cancel()
    await stream.aclose()


@pytest.mark.anyio
@pytest.mark.parametrize("cost", [0, -5, 9_000, WINDOW + 1, 2**64 - 1])
async def test_an_item_that_costs_less_than_it_weighs_is_a_broken_peer(cost: int) -> None:
    b = Bench()
    stream = b.peer.stream("a.b", {})
    async with anyio.create_task_group() as group:
        group.start_soon(anext, stream)
        await anyio.wait_all_tasks_blocked()
        b.hear([Kind.ITEM, 1, b"x" * 10_000, cost])
        assert f"that costs {cost}" in b.refused().what
        group.cancel_scope.cancel()
    await stream.aclose()


@pytest.mark.anyio
async def test_a_lost_link_fails_every_open_call_at_once_with_the_reason() -> None:
    b = Bench()
    async with calling(b) as one, calling(b) as two:
        b.peer.link_lost(LinkLost("the other side reset the connection"))
    for (error,) in (one, two):
        assert isinstance(error, LinkLost)
        assert "reset the connection" in error.why
    with pytest.raises(LinkLost, match="no link"):
        await b.peer.call("a.b", {})


@pytest.mark.anyio
async def test_more_calls_than_the_other_side_takes_are_refused_here_and_the_link_stays() -> None:
    b = Bench()
    async with anyio.create_task_group() as group:
        for _ in range(CALLS_LIMIT):
            group.start_soon(b.peer.call, "a.b", {})
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(Refused, match="too many calls") as refused:
            await b.peer.call("a.b", {})
        assert refused.value.retry
        assert len(b.said()) == CALLS_LIMIT
        group.cancel_scope.cancel()


@pytest.mark.anyio
async def test_arguments_that_cannot_be_sent_are_the_fault_of_the_caller_and_use_no_number() -> None:
    b = Bench()
    with pytest.raises(UsageError):
        await b.peer.call("a.b", {"x": object()})
    with pytest.raises(UsageError, match="too large"):
        await b.peer.call("a.b", {"x": bytes(LARGE_LIMIT + 1)})
    assert not b.peer.busy
    async with calling(b):
        assert b.said()[0][1] == 1
