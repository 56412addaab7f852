"""A model file that somebody made: metadata and tensors inside of it, or a GgufError that says where it is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path
from struct import pack

from slipstream.runtime_ext.gguf import BLOCKS, TYPES, Gguf, GgufError

_FILE = Path(tempfile.mkdtemp(prefix="slipstream-fuzz-")) / "model.gguf"


def _text(value: str) -> bytes:
    return pack("<Q", len(value.encode())) + value.encode()


def _whole(pairs: list[bytes], tensors: list[bytes], data: int) -> bytes:
    head = b"GGUF" + pack("<IQQ", 3, len(tensors), len(pairs)) + b"".join(pairs + tensors)
    return head + bytes(-len(head) % 32 + data)


def seeds() -> list[bytes]:
    """A file with a value of every type, one with a tensor of every type, and one without anything."""
    plain = zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), (1, 1, 2, 2, 4, 4, 4, 1, 8, 8, 8), strict=True)
    pairs = [_text(f"k{kind}") + pack("<I", kind) + b"\1" * size for kind, size in plain]
    pairs += [_text(f"a{kind}") + pack("<IIQ", 9, kind, 2) + b"\1" * size for kind, size in ((4, 8), (7, 2), (12, 16))]
    pairs += [_text("text") + pack("<I", 8) + _text("Größe"), _text("general.alignment") + pack("<II", 4, 32)]
    pairs += [_text("tokens") + pack("<IIQ", 9, 8, 3) + _text("a") + _text("") + _text("Ġthe")]
    pairs += [_text("deep") + pack("<IIQ", 9, 9, 2) + pack("<IQB", 0, 1, 7) + pack("<IQ", 8, 1) + _text("x")]
    tensors, at = [], 0
    for number, kind in TYPES.items():
        if kind in BLOCKS:
            tensors.append(_text(f"blk.{number}") + pack("<IQQIQ", 2, BLOCKS[kind][0], 3, number, at))
            at += -(-3 * BLOCKS[kind][1] // 32) * 32
    return [_whole(pairs, [], 0), _whole(pairs[:1], tensors, at), _whole([], [], 0)]


def check(data: bytes) -> None:
    """Read it as a file, and everything that it promises."""
    _FILE.write_bytes(data)
    try:
        file = Gguf.open(_FILE)
    except GgufError as error:
        assert len(str(error)) < 400, "an error repeats the file"
        assert str(error).isascii(), "an error shows what the file has as it is"
        return
    with file:
        for name, tensor in file.tensors.items():
            assert len(file.tensor_data(name)) == tensor.nbytes, "a tensor is not inside of the file"
            assert tensor.nbytes * BLOCKS[tensor.type][0] >= tensor.shape[0] * BLOCKS[tensor.type][1]
