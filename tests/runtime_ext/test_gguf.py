"""Model files: what is in them is read, and what is wrong with them is an error that says where."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from struct import pack
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slipstream.runtime_ext import gguf
from slipstream.runtime_ext.gguf import BLOCKS, TYPES, Gguf, GgufError, Tensor

U8, I8, U16, I16, U32, I32, F32, BOOL, STRING, ARRAY, U64, I64, F64 = range(13)


def text(value: str | bytes) -> bytes:
    raw = value.encode() if isinstance(value, str) else value
    return pack("<Q", len(raw)) + raw


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + pack("<I", kind) + value


def array(kind: int, *items: bytes, count: int | None = None) -> bytes:
    return pack("<IQ", kind, len(items) if count is None else count) + b"".join(items)


def entry(name: str, shape: tuple[int, ...], kind: int, offset: int) -> bytes:
    return text(name) + pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def whole(pairs: list[bytes], entries: list[bytes], data: int = 0, version: int = 3, alignment: int = 32) -> bytes:
    head = b"GGUF" + pack("<IQQ", version, len(entries), len(pairs)) + b"".join(pairs) + b"".join(entries)
    return head + bytes(-len(head) % alignment) + bytes(i % 251 for i in range(data))


VALUES: list[tuple[str, int, bytes, Any]] = [
    ("u8", U8, b"\xff", 255),
    ("i8", I8, b"\xff", -1),
    ("u16", U16, b"\xfe\xff", 65534),
    ("i16", I16, b"\xfe\xff", -2),
    ("u32", U32, pack("<I", 151936), 151936),
    ("i32", I32, pack("<i", -5), -5),
    ("f32", F32, pack("<f", 0.5), 0.5),
    ("yes", BOOL, b"\x01", True),
    ("text", STRING, text("Größe 中 \0 ▁"), "Größe 中 \0 ▁"),
    ("u64", U64, pack("<Q", 2**64 - 1), 2**64 - 1),
    ("i64", I64, pack("<q", -(2**63)), -(2**63)),
    ("f64", F64, pack("<d", 0.1), 0.1),
    ("none", ARRAY, array(F64), []),
    ("flags", ARRAY, array(BOOL, b"\0", b"\1"), [False, True]),
    ("types", ARRAY, array(I32, pack("<3i", 1, -1, 3), count=3), [1, -1, 3]),
    ("tokens", ARRAY, array(STRING, text("a"), text(""), text("Ġthe")), ["a", "", "Ġthe"]),
    ("nested", ARRAY, array(ARRAY, array(U8, b"\7"), array(STRING, text("x"))), [[7], ["x"]]),
]
SMALL = whole(
    [pair(key, kind, raw) for key, kind, raw, _ in VALUES],
    [entry("embd", (4, 2), 0, 0), entry("a.weight", (32, 3), 8, 32), entry("b", (256,), 14, 160)],
    370,
)


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[bytes], Gguf]:
    """A function that writes a file and opens it."""
    path = tmp_path / "m.gguf"

    def write(data: bytes) -> Gguf:
        path.write_bytes(data)
        return Gguf.open(path)

    return write


def test_every_type_of_value_is_read_as_what_it_is(opened: Callable[[bytes], Gguf]) -> None:
    with opened(SMALL) as file:
        assert dict(file.metadata) == {key: value for key, _, _, value in VALUES}
        assert file.metadata["yes"] is True
        assert file.version == 3


def test_tensors_lie_where_the_file_says(opened: Callable[[bytes], Gguf]) -> None:
    first = len(SMALL) - 370
    with opened(SMALL) as file:
        assert file.tensors == {
            "embd": Tensor("embd", (4, 2), "F32", first, 32),
            "a.weight": Tensor("a.weight", (32, 3), "Q8_0", first + 32, 102),
            "b": Tensor("b", (256,), "Q6_K", first + 160, 210),
        }
        assert file.tensor_data("a.weight") == SMALL[first + 32 : first + 134]
        assert file.data == SMALL
        assert file.data.readonly


@pytest.mark.parametrize(("kind", "block"), gguf.BLOCKS.items())
def test_a_tensor_of_every_type_takes_the_bytes_of_its_blocks(
    opened: Callable[[bytes], Gguf], kind: str, block: tuple[int, int]
) -> None:
    number = {name: number for number, name in gguf.TYPES.items()}[kind]
    size = block[1] * 2 * 3
    with opened(whole([], [entry("t", (2 * block[0], 3, 1, 1), number, 0)], size)) as file:
        assert file.tensors["t"].nbytes == size
    with pytest.raises(GgufError, match="beyond the end"):
        opened(whole([], [entry("t", (2 * block[0], 3), number, 0)], size - 1))


def test_the_alignment_is_the_files_own_and_version_2_is_read(opened: Callable[[bytes], Gguf]) -> None:
    data = whole([pair("general.alignment", U32, pack("<I", 256))], [entry("t", (1,), 0, 256)], 260, 2, 256)
    with opened(data) as file:
        assert file.tensors["t"].offset % 256 == 0
        assert file.tensor_data("t") == data[-4:]
        assert file.version == 2


def test_bytes_that_are_no_utf_8_come_back_as_they_were(opened: Callable[[bytes], Gguf]) -> None:
    with opened(whole([pair("t", ARRAY, array(STRING, text(b"\xe4\xb8"), text("中")))], [])) as file:
        assert [token.encode("utf-8", "surrogateescape") for token in file.metadata["t"]] == [
            b"\xe4\xb8",
            "中".encode(),
        ]


def test_views_outlive_the_file_and_a_closed_file_gives_no_new_ones(opened: Callable[[bytes], Gguf]) -> None:
    file = opened(SMALL)
    view = file.tensor_data("a.weight")
    before = bytes(view)
    file.close()
    file.close()
    assert view == before
    with pytest.raises(ValueError, match="closed"):
        file.tensor_data("a.weight")


def one(kind: int, value: bytes, key: str = "some.key") -> bytes:
    return whole([pair(key, kind, value)], [], alignment=1)


def two(first: bytes, second: bytes, data: int = 1024) -> bytes:
    return whole([], [first, second], data)


DEEP = b"".join(array(ARRAY, count=1) for _ in range(4)) + array(U8)
SPLIT = pair("split.count", U16, b"\3\0")


@pytest.mark.parametrize(
    ("data", "why", "about"),
    [
        (b"", "empty", ""),
        (b"GGU", "does not begin with 'GGUF'", ""),
        (b"PK\3\4" + bytes(40), "does not begin with 'GGUF'", ""),
        (b"GGUF\3\0\0\0\0\0", "8 bytes are needed, and 2 are left of the file", "header"),
        (b"GGUF" + pack(">I", 3) + bytes(40), "big-endian", "header"),
        (whole([], [], version=1), "version 1 of GGUF is not supported; supported: 2, 3", "header"),
        (b"GGUF" + pack("<IQQ", 3, 2**63, 0), "at most 65536", "header"),
        (b"GGUF" + pack("<IQQ", 3, 0, 2**64 - 1), "at most 65536", "header"),
        (b"GGUF" + pack("<IQQ", 3, 0, 1), "8 bytes are needed, and 0 are left", "metadata key 1 of 1"),
        (one(STRING, pack("<Q", 2**64 - 1)), "18446744073709551615 bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(STRING, text("a"), pack("<Q", 99))), "99 bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(STRING, text("a"), pack("<Q", 1))), "1 bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(STRING, count=3)), "8 bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(U64, count=2**61)), "at most 4194304", "metadata 'some.key'"),
        (one(ARRAY, array(U64, count=4_000_000)), "32000000 bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(STRING, count=4_000_000)), "bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, array(ARRAY, count=4_000_000)), "bytes are needed", "metadata 'some.key'"),
        (one(ARRAY, DEEP), "nested deeper than 4", "metadata 'some.key'"),
        (one(13, b"\0"), "13 is no type of a value", "metadata 'some.key'"),
        (one(ARRAY, array(99, count=1)), "99 is no type of a value", "metadata 'some.key'"),
        (one(BOOL, b"\2"), "neither 0 nor 1", "metadata 'some.key'"),
        (one(U8, b"\0", ""), "a name of 0 bytes", "metadata key 1 of 1"),
        (one(U8, b"\0", "k" * 65_536), "a name of 65536 bytes", "metadata key 1 of 1"),
        (whole([text(b"\xff") + pack("<IB", U8, 0)], []), "no UTF-8", "metadata key 1 of 1"),
        (whole([pair("k", U8, b"\0")] * 2, []), "there twice", "metadata 'k'"),
        (one(STRING, text("32"), "general.alignment"), "'32' is no power of two", "metadata 'general.alignment'"),
        (one(U32, pack("<I", 48), "general.alignment"), "48 is no power of two", "metadata 'general.alignment'"),
        (one(U32, pack("<I", 0), "general.alignment"), "0 is no power of two", "metadata 'general.alignment'"),
        (whole([SPLIT], []), "one of 3 parts of a model; merge them", "metadata 'split.count'"),
        (two(entry("t", (1,), 0, 0), entry("t", (1,), 0, 32)), "there twice", "tensor 't'"),
        (two(entry("a", (9,), 0, 0), entry("b", (1,), 0, 32)), "inside tensor 'a'", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (1,), 0, 0)), "begins inside tensor", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (255,), 0, 32)), "beyond the end", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (1,), 0, 2**64 - 32)), "beyond the end", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (2**63,) * 4, 0, 32)), "beyond the end", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (1,), 0, 33)), "no multiple of 32, the alignment", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (33,), 8, 32)), "no multiple of 32, the block of Q8_0", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (0, 4), 0, 32)), "holds nothing", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (), 0, 32)), "0 dimensions", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (1,) * 5, 0, 32)), "5 dimensions; 1 to 4", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (256,), 17, 32)), "IQ2_XS is not supported; supported:", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b", (1,), 999, 32)), "type 999 is not supported", "tensor 'b'"),
        (two(entry("a", (1,), 0, 0), entry("b" * 65, (1,), 0, 32)), "a name of 65 bytes", "tensor 2 of 2"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_place(
    opened: Callable[[bytes], Gguf], data: bytes, why: str, about: str
) -> None:
    with pytest.raises(GgufError) as caught:
        opened(data)
    assert why in caught.value.what
    assert caught.value.about == about
    assert (caught.value.at is not None) or "metadata" in about
    assert str(caught.value).isascii()


@pytest.mark.parametrize(("number", "kind"), [(n, kind) for n, kind in TYPES.items() if kind not in BLOCKS])
def test_a_type_that_does_not_run_is_refused_by_its_name_with_those_that_do(
    opened: Callable[[bytes], Gguf], number: int, kind: str
) -> None:
    with pytest.raises(GgufError) as caught:
        opened(two(entry("a", (1,), 0, 0), entry("b", (256,), number, 32)))
    runs = "F32, F16, BF16, Q8_0, Q4_0, Q5_0, Q4_K, Q5_K, Q6_K"
    assert (caught.value.what, caught.value.about) == (f"{kind} is not supported; supported: {runs}", "tensor 'b'")


def test_a_file_that_is_cut_anywhere_is_refused(opened: Callable[[bytes], Gguf]) -> None:
    for end in range(len(SMALL)):
        with pytest.raises(GgufError):
            opened(SMALL[:end])


def test_a_header_beyond_the_limit_is_refused(opened: Callable[[bytes], Gguf], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf, "HEADER_LIMIT", 100)
    with pytest.raises(GgufError, match="left of the 100 that a header may take"):
        opened(one(STRING, text("x" * 100)))
    with pytest.raises(GgufError, match="left of the 100 that a header may take"):
        opened(one(ARRAY, array(STRING, *[text("x")] * 20)))


def test_arrays_together_hold_no_more_than_one_may(
    opened: Callable[[bytes], Gguf], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "VALUES_LIMIT", 9)
    flat = [pair(f"k{i}", ARRAY, array(U8, bytes(5), count=5)) for i in range(2)]
    for pairs in (flat, [pair("k", ARRAY, array(ARRAY, *[array(U8)] * 10))]):
        with pytest.raises(GgufError, match="at most 9 are read of a file"):
            opened(whole(pairs, []))


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(GgufError, match="not a regular file"):
            Gguf.open(path)
    with pytest.raises(FileNotFoundError):
        Gguf.open(tmp_path / "absent")


changes = st.lists(
    st.tuples(
        st.integers(0, len(SMALL)), st.integers(0, 12),
        st.binary(max_size=12) | st.integers(0, 2**64 - 1).map(lambda number: pack("<Q", number)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes)
def test_a_changed_file_is_read_or_refused_and_never_read_outside(
    opened: Callable[[bytes], Gguf], changes: list[tuple[int, int, bytes]]
) -> None:
    data = SMALL
    for at, gone, new in changes:
        data = data[:at] + new + data[at + gone :]
    try:
        file = opened(data)
    except GgufError as error:
        assert str(error).isascii()
        assert len(str(error)) < 400
        return
    sizes = [len(file.tensor_data(name)) for name in file.tensors]
    assert sizes == [tensor.nbytes for tensor in file.tensors.values()]
    assert sum(sizes) <= len(data)


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=300) | st.sampled_from(["", "\0" * 9, "a", "▁"]), max_size=40))
def test_strings_of_any_kind_are_read_as_written(opened: Callable[[bytes], Gguf], strings: list[str]) -> None:
    with opened(one(ARRAY, array(STRING, *map(text, strings)))) as file:
        assert file.metadata["some.key"] == strings


@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 40), min_size=1, max_size=12), st.randoms())
def test_tensors_may_be_listed_in_any_order(opened: Callable[[bytes], Gguf], rows: list[int], draw: Any) -> None:
    starts = [0, *accumulate(-(-rows_ * 4 // 32) * 32 for rows_ in rows)]
    listed = [entry(f"t{i}", (count,), 0, starts[i]) for i, count in enumerate(rows)]
    draw.shuffle(listed)
    with opened(whole([], listed, starts[-1])) as file:
        assert {name: tensor.shape for name, tensor in file.tensors.items()} == {
            f"t{i}": (count,) for i, count in enumerate(rows)
        }


def test_reading_headers_imports_no_numpy_and_nothing_else_but_what_cuts_texts() -> None:
    listed = "sorted(m for m in sys.modules if m.startswith(('numpy', 'slipstream')))"
    show = f"import sys, slipstream.runtime_ext.gguf; print({listed})"
    done = subprocess.run([sys.executable, "-c", show], capture_output=True, text=True, check=True)
    found = ["slipstream", *(f"slipstream.runtime_ext{module}" for module in ("", ".frames", ".gguf"))]
    assert done.stdout.strip() == str(found)
