"""Statements as bytes: what was written is read again, and anything else is refused, whoever made it up."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.core.errors import ProtocolError
from slipstream.core.trust import STATEMENT_LIMIT, Role, Statement

EXAMPLE = Statement("add", "root", "root", 1, "a", Role.OWNER, "phone", "phone", None, "", 1, b"", 0.0, b"", b"")

texts = st.text("abz é漢", max_size=20)
whole = st.integers(0, 2**53 - 1)
times = st.floats(0, 2.5e11)
readable = st.builds(
    lambda role, seq, subject, name, kind, until, profile, number, keeps, *rest: Statement(
        "revoke" if role is None else "add", "root", "signer", seq, subject, role, name, kind, until, profile, number,
        keeps if role is None else b"", *rest,
    ),
    st.sampled_from([None, *Role]), st.integers(1, 2**53 - 1), st.text("abz", min_size=1, max_size=40),
    texts, texts, st.none() | times, texts, whole, st.sampled_from([b"", b"k" * 16]), times,
    st.binary(max_size=100), st.binary(max_size=100),
)  # fmt: skip


@settings(deadline=None)
@given(readable)
def test_a_statement_is_the_same_after_its_way_over_the_wire(statement: Statement) -> None:
    again = Statement.from_wire(statement.to_wire())
    assert again == statement
    assert again.id == statement.id


def test_who_signed_is_not_part_of_what_a_statement_is_called() -> None:
    assert replace(EXAMPLE, signature=b"another").id == EXAMPLE.id
    changes: dict[str, Any] = {
        "seq": 2, "subject": "b", "role": Role.MEMBER, "name": "x", "mesh": "x", "number": 2, "until": 1.0, "at": 1.0,
    }  # fmt: skip
    ids = {EXAMPLE.id, *(replace(EXAMPLE, **{name: value}).id for name, value in changes.items())}
    assert len(ids) == 1 + len(changes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"seq": 0}, {"seq": 2**53}, {"seq": -1}, {"seq": True}, {"seq": 1.0}, {"number": -1}, {"keeps": b"short"},
        {"keeps": b"k" * 16},
        {"subject": ""}, {"subject": "x" * 65}, {"name": "a\x00b"}, {"name": "\u202eevil"}, {"profile": b"valet"},
        {"at": math.nan}, {"at": math.inf}, {"at": -1.0}, {"at": 1e300}, {"at": 0}, {"until": math.nan},
        {"until": math.inf}, {"until": 1e12}, {"until": -1.0}, {"until": 5}, {"kind": "revoke"}, {"kind": "own"},
        {"mesh": None}, {"spki": b"\x00" * 1000}, {"signature": "text"},
    ],
    ids=str,
)  # fmt: skip
def test_a_statement_with_a_field_that_is_wrong_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="a statement cannot be read"):
        Statement.from_wire(replace(EXAMPLE, **wrong).to_wire())


def test_a_statement_is_refused_that_says_the_same_in_other_bytes() -> None:
    body = EXAMPLE.body.replace(b"\xa1a", b"\xd9\x01a", 1)  # a longer head for a short text
    assert msgpack.unpackb(body) == msgpack.unpackb(EXAMPLE.body)
    with pytest.raises(ProtocolError, match="the one way"):
        Statement.from_wire(msgpack.packb([body, b"", b""]))


@settings(deadline=None)
@given(st.binary(max_size=STATEMENT_LIMIT + 10) | st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(max_size=99),
    lambda inner: st.lists(inner, max_size=14) | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=20,
).map(msgpack.packb))  # fmt: skip
def test_what_is_no_statement_is_refused_as_one(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Statement.from_wire(data)


@settings(deadline=None)
@given(readable, st.data())
def test_a_statement_with_changed_bytes_is_refused_or_another_one(statement: Statement, data: Any) -> None:
    wire = bytearray(statement.to_wire())
    at = data.draw(st.integers(0, len(wire) - 1))
    wire[at] ^= data.draw(st.integers(1, 255))
    try:
        read = Statement.from_wire(bytes(wire))
    except ProtocolError:
        return
    assert read != statement
    assert read.to_wire() == bytes(wire)


@pytest.mark.parametrize(
    "data", [b"\x91" * 1024, b"\xdd\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdf" + b"\xff" * 4, b""]
)
def test_a_bomb_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        Statement.from_wire(data)


@pytest.mark.parametrize("data", [None, 7, 2**70, "text", ["x"], {"a": 1}], ids=str)
def test_a_value_that_is_not_even_bytes_is_refused(data: Any) -> None:
    with pytest.raises(ProtocolError):
        Statement.from_wire(data)
