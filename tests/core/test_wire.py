"""Bytes to messages and back, and everything that must be refused before it costs memory."""

import struct

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core import wire
from slipstream.core.errors import ProtocolError, UsageError
from slipstream.core.wire import Kind, Splitter, frame, pack, unpack

plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=8), inner, max_size=5),
    max_leaves=30,
)


@given(plain)
def test_whatever_is_packed_is_unpacked_the_same(value: object) -> None:
    message = [int(Kind.RESULT), 7, "done", value]
    assert unpack(pack(message)) == message


@given(st.lists(st.binary(max_size=50), max_size=20), st.lists(st.integers(1, 60), min_size=1))
def test_frames_come_out_whole_however_the_stream_is_cut(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, bodies))
    splitter, found, at, i = Splitter(100), [], 0, 0
    while at < len(stream):
        size = cuts[i % len(cuts)]
        found += splitter.feed(stream[at : at + size])
        at, i = at + size, i + 1
    assert found == bodies
    assert splitter.waiting == 0


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"\x91" * 10_000, "nested too deep"),
        (b"\x91" * 33 + b"\x00", "nested too deep"),
        (b"\xdd\x00\x03\x00\x00" + b"\x80" * 196_608, "too many values"),
        (b"\x96\x05\x01", "in the middle of a value"),
        (b"\xd9\xff", "in the middle of a value"),
        (b"\xdf\xff\xff\xff\xff", "in the middle of a value"),
        (b"\xc6\xff\xff\xff\xff", "in the middle of a value"),
        (b"", "in the middle of a value"),
        (b"\x91\x02\x00", "bytes follow its end"),
        (b"\xc1", "a type that is not spoken here"),
        (b"\xd4\x01\x00", "a type that is not spoken here"),
        (b"\x92\x06\xa1\xff", "utf-8"),
        (b"\x92\x01\x81\x01\x02", "not allowed for map key"),
    ],
)
def test_a_body_that_is_no_sound_msgpack_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        unpack(body)
    assert why in caught.value.why


@pytest.mark.parametrize(
    "message",
    [[], [99], ["x"], 5, {}, [Kind.CALL], [Kind.CALL, "1", "a.b", {}, "", -1.0, ""], [Kind.CHUNK, 1, "text"],
     [Kind.BEAT, 1, 2, 3]],
)  # fmt: skip
def test_a_message_of_the_wrong_form_is_refused(message: object) -> None:
    with pytest.raises(ProtocolError):
        unpack(msgpack.packb(message))


def test_fields_that_a_newer_minor_version_added_are_not_read() -> None:
    assert unpack(pack([Kind.CANCEL, 1, "why", "something new"]))[:3] == [Kind.CANCEL, 1, "why"]


def test_a_frame_above_the_limit_is_refused_at_its_first_four_bytes() -> None:
    with pytest.raises(ValueError, match="4294967295 bytes"):
        Splitter(wire.FRAME_LIMIT).feed(struct.pack(">I", 2**32 - 1))


@given(st.binary(max_size=300))
def test_random_bytes_are_a_message_or_a_protocol_error(body: bytes) -> None:
    try:
        assert isinstance(unpack(body), list)
    except ProtocolError:
        pass


def test_a_value_that_the_wire_does_not_carry_is_the_callers_fault() -> None:
    with pytest.raises(UsageError):
        pack([Kind.RESULT, 1, "done", object()])
    assert unpack(pack([Kind.CANCEL, 1, "still works"]))
