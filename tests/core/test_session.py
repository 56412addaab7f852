"""Two sessions over a fake wire: calls, streams, chunks, and every way in which a peer can be broken."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from slipstream.core.errors import ProtocolError, SlipError, from_wire
from slipstream.core.session import CALLS_LIMIT, LARGE_AT_ONCE, WINDOW, Session
from slipstream.core.wire import CHUNK, FIRST_LIMIT, FRAME_LIMIT, VERSION, Kind, frame, pack


def pair() -> tuple[Session, Session]:
    """Two sessions that said hello to each other."""
    a, b = Session({"name": "a"}), Session({"name": "b"})
    b.receive(a.outgoing())
    a.receive(b.outgoing())
    return a, b


def everything(session: Session) -> bytes:
    """All that a session has to say, small and large, as on a link that is never full."""
    data = session.outgoing()
    while chunk := session.next_chunk():
        data += chunk + session.outgoing()
    return data


def hello(**fields: Any) -> bytes:
    """The hello of somebody else's making."""
    return frame(pack([Kind.HELLO, {"version": list(VERSION), "name": "x", **fields}]))


def refusal(session: Session, data: bytes) -> ProtocolError:
    """The error with which a session refuses data, and which it also told the peer."""
    with pytest.raises(ProtocolError) as caught:
        session.receive(data)
    other = Session({})
    other.receive(hello())
    (bye,) = [m for m in other.receive(session.outgoing().removeprefix(other_hello(session))) if m[0] == Kind.BYE]
    assert from_wire(bye[1]).what == caught.value.what
    assert session.receive(data) == []
    return caught.value


def other_hello(session: Session) -> bytes:
    """The bytes of the hello that a fresh session still has to send."""
    return frame(pack([Kind.HELLO, {"version": list(VERSION)}])) if session.peer_hello is None else b""


def test_both_sides_learn_who_the_other_is() -> None:
    a, b = pair()
    assert a.peer_hello is not None
    assert a.peer_hello["name"] == "b"
    assert b.peer_hello is not None
    assert b.peer_hello["name"] == "a"


def test_a_call_gets_its_answer_once() -> None:
    a, b = pair()
    stream = a.call("nav.route", {"to": "Innsbruck"}, "k1", 2.5)
    assert b.receive(a.outgoing()) == [[Kind.CALL, stream, "nav.route", {"to": "Innsbruck"}, "k1", 2.5, ""]]
    b.result(stream, "done", {"km": 160})
    b.result(stream, "done", {"km": 1})
    assert a.receive(b.outgoing()) == [[Kind.RESULT, stream, "done", {"km": 160}]]
    assert not a.calls_out
    assert not b.calls_in


def test_a_newer_minor_version_is_understood() -> None:
    session = Session({})
    session.receive(hello(version=[VERSION[0], VERSION[1] + 7], something="new"))
    assert session.peer_hello is not None


def test_another_major_version_is_refused_and_both_sides_say_why() -> None:
    error = refusal(Session({}), hello(version=[VERSION[0] + 1, 0]))
    assert "speaks protocol 2.0" in error.what
    assert "update" in error.hint


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (frame(pack([Kind.CANCEL, 1, ""])), "came before HELLO"),
        (hello(version="1"), "without a version"),
        (b"\xff\xff\xff\xff", "too long"),
        ((FIRST_LIMIT + 1).to_bytes(4, "big"), "too long"),
        (b"\x00\x00\x3f\xff" + b"\x00" * (FIRST_LIMIT + 100), "cannot be read"),
        (hello(padding="x" * FIRST_LIMIT), "too long"),
        (frame(b"\x91" * 10_000), "cannot be read"),
        (frame(pack([77])), "unknown kind"),
    ],
)
def test_what_is_wrong_before_the_hello_is_refused(data: bytes, what: str) -> None:
    assert what in refusal(Session({}), data).what or what in "too long"


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (hello(), "a second HELLO"),
        ((FRAME_LIMIT + 1).to_bytes(4, "big"), "too long"),
        (frame(pack([Kind.RESULT, 9, "done", None])), "never made"),
        (frame(pack([Kind.CHUNK, 1, b"x"])), "a chunk of nothing"),
        (frame(pack([Kind.LARGE, 1, 2**40])), "a body of"),
        (frame(pack([Kind.LARGE, 1, 3])) + frame(pack([Kind.CHUNK, 1, b"four"])), "beyond its body"),
        (b"".join(frame(pack([Kind.LARGE, n, 9])) for n in range(LARGE_AT_ONCE + 1)), "too many large"),
        (2 * frame(pack([Kind.CALL, 1, "a.b", {}, "", -1.0, ""])), "came again"),
        (frame(pack([Kind.CALL, 5000, "a.b", {}, "", -1.0, ""])), "came after"),
    ],
)
def test_what_breaks_a_law_after_the_hello_is_refused(data: bytes, what: str) -> None:
    a, _ = pair()
    assert what in refusal(a, data).what


def test_more_calls_than_allowed_are_answered_with_an_error_and_the_link_goes_on() -> None:
    a, b = pair()
    for _ in range(CALLS_LIMIT + 1):
        last = a.call("a.b", {})
    assert len(b.receive(everything(a))) == CALLS_LIMIT
    (answer,) = a.receive(b.outgoing())
    assert answer[:2] == [Kind.ERROR, last]
    assert from_wire(answer[2]).retry


def test_a_call_that_was_given_up_is_cancelled_there_and_its_late_answer_dropped() -> None:
    a, b = pair()
    stream = a.call("a.b", {})
    b.receive(a.outgoing())
    a.give_up(stream, "deadline")
    b.result(stream, "done", 1)
    assert a.receive(b.outgoing()) == []
    assert b.receive(a.outgoing()) == []


def test_a_large_result_lets_small_calls_pass_after_one_chunk() -> None:
    a, b = pair()
    big, small = a.call("camera.take", {}), a.call("echo.typed", {})
    b.receive(a.outgoing())
    b.result(big, "done", b"x" * (10 * CHUNK))
    first = b.outgoing() + b.next_chunk()
    b.result(small, "done", 1)
    assert len(first) < CHUNK + 100
    assert a.receive(first) == []
    assert a.receive(b.outgoing()) == [[Kind.RESULT, small, "done", 1]]
    assert a.receive(everything(b)) == [[Kind.RESULT, big, "done", b"x" * (10 * CHUNK)]]


def test_a_large_call_may_be_overtaken_by_later_ones() -> None:
    a, b = pair()
    big = a.call("a.b", {"data": b"x" * (5 * CHUNK)})
    small = a.call("a.b", {})
    assert [m[1] for m in b.receive(a.outgoing())] == [small]
    assert [m[1] for m in b.receive(everything(a))] == [big]


@pytest.mark.parametrize("chunks_sent", [0, 1, 2])
def test_a_large_call_that_is_given_up_on_its_way_never_arrives(chunks_sent: int) -> None:
    a, b = pair()
    big = a.call("a.b", {"data": b"x" * (5 * CHUNK)})
    a.call("a.b", {})
    sent = a.outgoing() + b"".join(a.next_chunk() for _ in range(chunks_sent))
    a.give_up(big, "cancelled")
    assert [m[1] for m in b.receive(sent + everything(a))] == [big + 1]
    again = a.call("a.b", {})
    assert [m[1] for m in b.receive(everything(a))] == [again]
    assert a.next_chunk() == b""


def test_more_large_bodies_than_allowed_at_once_wait_for_their_turn() -> None:
    a, b = pair()
    sent = {a.call("a.b", {"data": b"x" * (3 * CHUNK)}) for _ in range(3 * LARGE_AT_ONCE)}
    assert {m[1] for m in b.receive(everything(a))} == sent


def test_items_of_a_stream_stay_in_order_when_some_are_large() -> None:
    a, b = pair()
    stream = a.call("a.b", {})
    b.receive(a.outgoing())
    items = [1, b"x" * (4 * CHUNK), 2, b"y" * (4 * CHUNK), 3]
    for item in items:
        b.item(stream, item)
    b.result(stream, "done", None)
    got = a.receive(everything(b))
    assert [m[2] for m in got[:-1]] == items
    assert got[-1] == [Kind.RESULT, stream, "done", None]


def test_a_sender_stops_when_its_credit_is_used_up_and_goes_on_when_the_reader_took_some() -> None:
    a, b = pair()
    stream = a.call("a.b", {})
    b.receive(a.outgoing())
    sent = 0
    while b.may_send(stream):
        b.item(stream, b"x" * 1000)
        sent += 1
    assert WINDOW <= sent * 1003 < WINDOW + 2000
    items = a.receive(b.outgoing())
    a.took(stream, items[0][3])
    assert b.receive(a.outgoing()) == [[Kind.CREDIT, stream, items[0][3]]]


def test_credit_above_the_window_is_a_broken_peer() -> None:
    a, b = pair()
    stream = a.call("a.b", {})
    b.receive(a.outgoing())
    assert "window" in refusal(b, frame(pack([Kind.CREDIT, stream, 1]))).what


def test_goodbye_says_why_and_ends_everything() -> None:
    a, b = pair()
    a.bye(SlipError("leaving"))
    (bye,) = b.receive(a.outgoing())
    assert from_wire(bye[1]).what == "leaving"
    assert b.closed
    assert b.receive(hello()) == []


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=200), max_size=8))
def test_no_bytes_of_a_stranger_raise_anything_but_a_protocol_error(pieces: list[bytes]) -> None:
    session = Session({})
    for piece in pieces:
        try:
            session.receive(piece)
        except ProtocolError:
            assert session.closed


class Conversation(RuleBasedStateMachine):
    """Two sessions that call, answer, stream, give up and deliver late, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.sides = pair()
        self.wires = [b"", b""]
        self.open: tuple[dict[int, str], dict[int, str]] = ({}, {})
        self.given_up: tuple[set[int], set[int]] = (set(), set())
        self.answered: tuple[set[int], set[int]] = (set(), set())
        self.serving: tuple[set[int], set[int]] = (set(), set())

    @rule(who=st.integers(0, 1), size=st.sampled_from([0, 10, 3 * CHUNK]))
    def call(self, who: int, size: int) -> None:
        stream = self.sides[who].call("a.b", {"data": b"x" * size})
        self.open[who][stream] = "open"

    @rule(who=st.integers(0, 1), data=st.data())
    def give_up(self, who: int, data: st.DataObject) -> None:
        if streams := sorted(set(self.open[who]) - self.given_up[who] - self.answered[who]):
            stream = data.draw(st.sampled_from(streams))
            self.sides[who].give_up(stream, "test")
            self.given_up[who].add(stream)

    @rule(who=st.integers(0, 1), data=st.data(), size=st.sampled_from([0, 10, 3 * CHUNK]))
    def answer(self, who: int, data: st.DataObject, size: int) -> None:
        if self.serving[who]:
            stream = data.draw(st.sampled_from(sorted(self.serving[who])))
            self.sides[who].item(stream, b"i" * size)
            self.sides[who].result(stream, "done", b"y" * size)
            self.serving[who].discard(stream)

    @rule(who=st.integers(0, 1), chunks=st.integers(0, 3))
    def say(self, who: int, chunks: int) -> None:
        self.wires[who] += self.sides[who].outgoing()
        for _ in range(chunks):
            self.wires[who] += self.sides[who].next_chunk()

    @rule(who=st.integers(0, 1), size=st.integers(1, 100_000))
    def hear(self, who: int, size: int) -> None:
        data, self.wires[who] = self.wires[who][:size], self.wires[who][size:]
        self.take(1 - who, data)

    def take(self, who: int, data: bytes) -> None:
        for message in self.sides[who].receive(data):
            if message[0] == Kind.CALL:
                assert message[1] in self.open[1 - who]
                self.serving[who].add(message[1])
            elif message[0] == Kind.RESULT:
                assert message[1] not in self.given_up[who]
                assert message[1] not in self.answered[who]
                self.answered[who].add(message[1])
            elif message[0] == Kind.CANCEL:
                self.serving[who].discard(message[1])
                self.sides[who].error(message[1], SlipError("cancelled"))

    @invariant()
    def neither_side_is_broken(self) -> None:
        assert not self.sides[0].closed
        assert not self.sides[1].closed

    def teardown(self) -> None:
        for _ in range(3):
            for who in (0, 1):
                data = self.wires[who] + everything(self.sides[who])
                self.wires[who] = b""
                self.take(1 - who, data)
            for who in (0, 1):
                for stream in list(self.serving[who]):
                    self.sides[who].result(stream, "done", None)
                self.serving[who].clear()
        for who in (0, 1):
            assert self.answered[who] == set(self.open[who]) - self.given_up[who]
            assert not self.sides[who].calls_out


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
