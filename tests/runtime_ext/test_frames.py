"""Texts of a model file, cut in C: what a slow reader of the same bytes finds."""

from __future__ import annotations

from struct import pack, unpack_from

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slipstream.runtime_ext.frames import texts


def slowly(data: bytes, at: int, end: int, count: int) -> tuple[list[str], int]:
    found: list[str] = []
    while len(found) < count and at + 8 <= end:
        after = at + 8 + int(unpack_from("<Q", data, at)[0])
        if after > end:
            break
        found.append(data[at + 8 : after].decode("utf-8", "surrogateescape"))
        at = after
    return found, at


LENGTHS = st.one_of(st.integers(0, 20), st.sampled_from([256, 2**31, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]))
PIECES = st.tuples(LENGTHS, st.binary(max_size=20)).map(lambda piece: pack("<Q", piece[0]) + piece[1])
TEXTS = st.text(max_size=300).map(lambda text: pack("<Q", len(text.encode())) + text.encode())


@given(st.lists(st.one_of(TEXTS, PIECES, st.binary(max_size=9))).map(b"".join), st.data())
def test_texts_are_those_that_lie_whole_in_their_part_of_the_data(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.one_of(st.just(0), st.integers(0, len(data))))
    end = draw.draw(st.one_of(st.just(len(data)), st.integers(at, len(data))))
    count = draw.draw(st.integers(-1, 8))
    assert texts(data, at, end, count) == slowly(data, at, end, count)


@pytest.mark.parametrize(("at", "end"), [(-1, 3), (4, 3), (0, 9), (9, 9)])
def test_a_part_that_the_data_does_not_have_is_an_error(at: int, end: int) -> None:
    with pytest.raises(ValueError, match=f"bytes {at} to {end} of 8"):
        texts(bytes(8), at, end, 1)
