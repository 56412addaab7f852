"""GGUF files, read in place: metadata as Python values, tensors as places in the mapped file.

Laws: nothing of a file is believed. Every length, count, type and offset is checked against the file before it is used,
so a hostile file is a GgufError that says where, and costs at most some multiples of its header, which is bounded too.
Weights are never copied: they are views over one read-only mapping, which lives as long as the last view does. Who
replaces a model file renames a new one over it; one that is cut while it is mapped kills its readers (SIGBUS).

Source: github.com/ggml-org/ggml, docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import mmap
import os
import stat
import struct
from collections.abc import Mapping
from itertools import pairwise
from math import prod
from types import MappingProxyType
from typing import Any, Final, NamedTuple, NoReturn, Self

from .frames import texts

BLOCKS: Final[Mapping[str, tuple[int, int]]] = MappingProxyType({
    "F32": (1, 4), "F16": (1, 2), "BF16": (1, 2), "Q8_0": (32, 34), "Q4_0": (32, 18), "Q5_0": (32, 22),
    "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210),
})  # fmt: skip
"""The tensor types that are read: elements in a block, bytes of a block."""
TYPES: Final[Mapping[int, str]] = MappingProxyType({
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K",
    12: "Q4_K", 13: "Q5_K", 14: "Q6_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S",
    20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
    29: "IQ1_M", 30: "BF16", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0", 42: "Q2_0",
})  # fmt: skip
"""The name of every tensor type that ggml has a number for, also of those that are not read."""
HEADER_LIMIT: Final = 64 * 1024 * 1024
"""Bytes that metadata and the table of tensors may take; a vocabulary of 262,144 tokens takes 15 MB."""
VALUES_LIMIT: Final = 4 * 1024 * 1024
"""Values in all of a file's arrays together."""
ENTRIES_LIMIT: Final = 65_536
"""Keys, and tensors."""
DEPTH_LIMIT: Final = 4
"""Arrays in arrays."""
KEY_LIMIT: Final = 65_535
NAME_LIMIT: Final = 64
"""Bytes of a tensor's name."""
DIMENSIONS_LIMIT: Final = 4
ALIGNMENT: Final = 32
"""Of tensor data, in bytes, where the file says nothing else."""

_MAGIC: Final = b"GGUF"
_BOOL, _STRING, _ARRAY = 7, 8, 9
_NUMBERS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", _BOOL: "B", 10: "Q", 11: "q", 12: "d"}
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from


class GgufError(ValueError):
    """A file that cannot be read as a model: what is wrong, about which key or tensor, at which byte."""

    def __init__(self, what: str, about: str = "", at: int | None = None) -> None:
        place = f" (byte {at})" if at is not None else ""
        super().__init__(f"{about}: {what}{place}" if about else f"{what}{place}")
        self.what, self.about, self.at = what, about, at


class Tensor(NamedTuple):  # a dataclass would cost the import of `inspect`
    """Where a tensor lies: `shape[0]` is the length of a row (ggml's order), `offset` is from the file's first byte."""

    name: str
    shape: tuple[int, ...]
    type: str
    offset: int
    nbytes: int


class Gguf:
    """An open model file: `metadata` by key, `tensors` by name in the file's order, `data` over all of it.

    Integers, floats, booleans, strings and lists of them are plain Python values. Bytes of a string that are no UTF-8
    are kept as surrogates: `text.encode("utf-8", "surrogateescape")` gives what the file has. A vocabulary is some
    30 MB here; who has made something else of it lets this object go and keeps views of the weights.
    """

    __slots__ = ("_map", "metadata", "tensors", "version")

    version: int
    metadata: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    def __init__(self, mapped: mmap.mmap) -> None:
        header = _Header(mapped)
        self._map: mmap.mmap | None = mapped
        self.version, self.metadata, self.tensors = header.version, header.metadata, header.tensors

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Map a file, and read and check its header.

        Raises:
            OSError: it cannot be opened or mapped.
            GgufError: it is no model file that can be read here.
        """
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for a writer
            raise GgufError("this is not a regular file")
        with open(path, "rb") as file:
            if not os.fstat(file.fileno()).st_size:
                raise GgufError("the file is empty", at=0)
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        try:
            return cls(mapped)
        except BaseException:
            mapped.close()
            raise

    @property
    def data(self) -> memoryview:
        """The whole file, read-only.

        Raises:
            ValueError: it was closed.
        """
        if self._map is None:
            raise ValueError("the model file is closed")
        return memoryview(self._map)

    def tensor_data(self, name: str) -> memoryview:
        """The bytes of one tensor, read-only, not copied.

        Raises:
            KeyError: there is no tensor of this name.
            ValueError: the file was closed.
        """
        tensor = self.tensors[name]
        return self.data[tensor.offset : tensor.offset + tensor.nbytes]

    def close(self) -> None:
        """Let go of the file: views that were given out stay valid, and the mapping goes with the last of them."""
        self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Header:
    """What comes before the weights. `at` is the next byte to read, `end` the first that may not be read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.size, self.at, self.about, self.values = data, len(data), 0, "header", 0
        self.end = min(self.size, HEADER_LIMIT)
        tensors, keys = self._begin()
        self.metadata = MappingProxyType(self._metadata(keys))
        if (parts := self.metadata.get("split.count", 1)) != 1:
            raise GgufError(
                f"this is one of {_shown(parts)} parts of a model; merge them into one file first: "
                "llama-gguf-split --merge FIRST-PART.gguf MODEL.gguf",
                "metadata 'split.count'",
            )
        self.tensors = MappingProxyType(self._tensors(tensors))

    def _begin(self) -> tuple[int, int]:
        """How many tensors and keys there are."""
        if self.data[:4] != _MAGIC:
            raise GgufError("this is no GGUF file: it does not begin with 'GGUF'", at=0)
        self.at = 4
        self.version = self._u32()
        if self.version & 0xFFFF == 0:
            self._fail("the file is big-endian; convert the model again, as little-endian", 4)
        if self.version not in (2, 3):
            self._fail(f"version {self.version} of GGUF is not supported; supported: 2, 3", 4)
        tensors, keys = self._u64(), self._u64()
        if max(tensors, keys) > ENTRIES_LIMIT:
            self._fail(f"{tensors} tensors and {keys} keys; at most {ENTRIES_LIMIT} of each are read", 8)
        return tensors, keys

    def _metadata(self, keys: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for number in range(1, keys + 1):
            self.about, start = f"metadata key {number} of {keys}", self.at
            key = self._name(KEY_LIMIT)
            self.about = f"metadata {_shown(key)}"
            if key in found:
                self._fail("the key is there twice", start)
            found[key] = self._value(self._u32(), 0)
        return found

    def _tensors(self, count: int) -> dict[str, Tensor]:
        alignment = self.metadata.get("general.alignment", ALIGNMENT)
        if type(alignment) is not int or alignment < 8 or alignment & (alignment - 1):
            raise GgufError(f"{_shown(alignment)} is no power of two from 8 on", "metadata 'general.alignment'")
        listed: dict[str, Tensor] = {}
        for number in range(1, count + 1):
            self.about, start = f"tensor {number} of {count}", self.at
            name = self._name(NAME_LIMIT)
            self.about = f"tensor {_shown(name)}"
            if name in listed:
                self._fail("the tensor is there twice", start)
            listed[name] = self._tensor(name, alignment)
        first = self.at + -self.at % alignment
        found = {name: tensor._replace(offset=first + tensor.offset) for name, tensor in listed.items()}
        self._apart(sorted(found.values(), key=lambda tensor: tensor.offset))
        return found

    def _tensor(self, name: str, alignment: int) -> Tensor:
        """A tensor whose offset counts from where the weights begin."""
        start = self.at
        dimensions = self._u32()
        if not 1 <= dimensions <= DIMENSIONS_LIMIT:
            self._fail(f"{dimensions} dimensions; 1 to {DIMENSIONS_LIMIT} are supported", start)
        shape = tuple([self._u64() for _ in range(dimensions)])
        number, offset = self._u32(), self._u64()
        kind = TYPES.get(number, f"type {number}")
        if kind not in BLOCKS:
            self._fail(f"{kind} is not supported; supported: {', '.join(BLOCKS)}", self.at - 12)
        if not all(shape):
            self._fail(f"the shape {shape} holds nothing", start)
        elements, size = BLOCKS[kind]
        if shape[0] % elements:
            self._fail(f"rows of {shape[0]} are no multiple of {elements}, the block of {kind}", start)
        if offset % alignment:
            self._fail(f"the offset {offset} is no multiple of {alignment}, the alignment", self.at - 8)
        return Tensor(name, shape, kind, offset, prod(shape) // elements * size)

    def _apart(self, tensors: list[Tensor]) -> None:
        """Check that tensors, by their offsets, lie in the file and not on each other."""
        for tensor in tensors:
            if tensor.offset + tensor.nbytes > self.size:
                self.about = f"tensor {_shown(tensor.name)}"
                self._fail(f"its {tensor.nbytes} bytes go beyond the end of the file, {self.size}", tensor.offset)
        for before, after in pairwise(tensors):
            if before.offset + before.nbytes > after.offset:
                self.about = f"tensor {_shown(after.name)}"
                self._fail(f"it begins inside tensor {_shown(before.name)}", after.offset)

    def _value(self, kind: int, depth: int) -> Any:
        if kind == _STRING:
            return self._strings(1)[0]
        if kind != _ARRAY:
            return self._numbers(kind, 1)[0]
        if depth == DEPTH_LIMIT:
            self._fail(f"arrays are nested deeper than {DEPTH_LIMIT}", self.at)
        inner, start, count = self._u32(), self.at, self._u64()
        self.values += count
        if self.values > VALUES_LIMIT:
            self._fail(f"an array of {count} values; at most {VALUES_LIMIT} are read of a file", start)
        if inner == _STRING:
            return self._strings(count)
        if inner == _ARRAY:
            return [self._value(_ARRAY, depth + 1) for _ in range(count)]
        return self._numbers(inner, count)

    def _numbers(self, kind: int, count: int) -> list[Any]:
        code = _NUMBERS.get(kind)
        if code is None:
            self._fail(f"{kind} is no type of a value", self.at)
        form, start = struct.Struct(f"<{count}{code}"), self.at
        self._skip(form.size)
        found = list(form.unpack_from(self.data, start))
        if kind != _BOOL:
            return found
        if any(value > 1 for value in found):
            self._fail("a boolean is neither 0 nor 1", start)
        return [value == 1 for value in found]

    def _strings(self, count: int) -> list[str]:
        found, at = texts(self.data, self.at, self.end, count)
        if len(found) < count:
            self.at = at
            self._skip(self._u64())
        self.at = at
        return found

    def _name(self, limit: int) -> str:
        start, size = self.at, self._u64()
        if not 1 <= size <= limit:
            self._fail(f"a name of {size} bytes; 1 to {limit} are allowed", start)
        self._skip(size)
        try:
            return self.data[start + 8 : self.at].decode()
        except UnicodeDecodeError:
            self._fail("the name is no UTF-8", start)

    def _u32(self) -> int:
        self._skip(4)
        return int(_U32(self.data, self.at - 4)[0])

    def _u64(self) -> int:
        self._skip(8)
        return int(_U64(self.data, self.at - 8)[0])

    def _skip(self, size: int) -> None:
        """Go on, if so many bytes are left."""
        if size > self.end - self.at:
            of = "the file" if self.end == self.size else f"the {HEADER_LIMIT} that a header may take"
            self._fail(f"{size} bytes are needed, and {self.end - self.at} are left of {of}", self.at)
        self.at += size

    def _fail(self, what: str, at: int) -> NoReturn:
        raise GgufError(what, self.about, at)


def _shown(value: object) -> str:
    """A value of a file, short and safe to print."""
    text = ascii(value)
    return text if len(text) <= 80 else text[:77] + "..."
