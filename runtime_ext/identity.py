"""What a session needs to go on elsewhere: the same model, tokenizer, layout of keys and values, and arithmetic.

Law: a session goes on only where nothing that decides a bit of it differs; what differs is said. Kernels are named but
not compared: all of them give the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

from .gguf import Gguf
from .model import BLOCK_TOKENS, NUMERICS, Model

KV_LAYOUT: Final = 1
"""Of what a block of keys and values holds, and in which order."""
_NEEDS: Final = {
    "weights": "the weights are of another model, or quantised otherwise; load the same model file on both devices",
    "shape": "the model is run with other sizes or another rotation; load the same model file on both devices",
    "tokenizer": "the tokenizer is another one; load the same model file on both devices",
    "kv": "keys and values are kept in another form; use the same kv and version of Slipstream on both devices",
    "numerics": "the arithmetic rounds otherwise; install the same version of Slipstream on both devices",
}


class IdentityError(ValueError):
    """A session that cannot go on here: what differs."""

    def __init__(self, what: str, differs: str) -> None:
        super().__init__(f"{differs}: {what}")
        self.what, self.differs = what, differs


def identity(gguf: Gguf) -> str:
    """What names a file's weights: SHA-256 over names, types, shapes and the SHA-256 of the data, by name; as hex.

    It reads the whole file (1.7 GB/s here), without the GIL: compute it in a thread, and keep it by the file's path,
    size and time.
    """
    total = sha256()
    for name, tensor in sorted(gguf.tensors.items()):
        total.update(f"{name}\0{tensor.type}\0{tensor.shape}\0".encode())
        total.update(sha256(gguf.tensor_data(name)).digest())
    return total.hexdigest()


def manifest(gguf: Gguf, model: Model, weights: str, kv: str = "f16") -> dict[str, Any]:
    """What a session of this model needs, as plain values; `weights` is the file's `identity`, `kv` the session's."""
    shape = model.shape._replace(name="", context=0)  # what the model is called, and trained for, decides nothing
    tokenizer = sha256()
    for key in sorted(gguf.metadata):
        if key.startswith("tokenizer.ggml."):
            tokenizer.update(f"{key}\0{gguf.metadata[key]!a}\0".encode())
    return {
        "weights": weights,
        "architecture": shape.architecture,
        "shape": sha256(ascii(tuple(shape)).encode()).hexdigest(),
        "tokenizer": tokenizer.hexdigest(),
        "kv": [kv, KV_LAYOUT, BLOCK_TOKENS],
        "numerics": NUMERICS,
        "kernels": model.kernels,
    }


def refuse(there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Let a session of the manifest `there` go on by the manifest `here`, or not.

    Raises:
        IdentityError: something differs, or is missing there; the first of `weights`, `shape`, `tokenizer`, `kv` and
            `numerics`.
    """
    for name, what in _NEEDS.items():
        if there.get(name) != here[name]:
            raise IdentityError(what, name)
