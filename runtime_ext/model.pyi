from collections.abc import Callable, Sequence
from typing import Literal, final

from typing_extensions import Buffer

from .architecture import Shape
from .gguf import Gguf

BLOCK_TOKENS: int
"""Tokens of a KV block."""
NUMERICS: int
"""Of the order and rounding of every operation: sessions of another number do not go on here."""

class Stopped(Exception):
    """A pass was told to stop: the session is where it was before."""

def kernels() -> list[str]:
    """The kernels that run on this processor, the best first."""

def digest(data: Buffer) -> bytes:
    """16 bytes that name what a KV block holds: for finding damage and equal blocks, not against an adversary."""

@final
class Model:
    """A model's weights, ready to compute: mapped from its file, in panels where that is faster."""

    shape: Shape
    kernels: str
    threads: int
    packed: int
    """Bytes of weights that were laid out anew in memory, beside the file."""
    read: int
    """Bytes of weights that one token reads."""
    block_bytes: int
    """Bytes of a KV block in F16."""

    def __init__(
        self, gguf: Gguf, threads: int = 1, *, kernels: str = "", progress: Callable[[float], None] | None = None
    ) -> None:
        """Lay the model of an open file out; `progress` is told the part done, from this thread.

        Raises:
            ModelError: it is no model that runs here.
            MemoryError: there is no room.
            ValueError: `threads` is below 1, or `kernels` do not run here.
        """

@final
class Block:
    """Keys and values of BLOCK_TOKENS tokens, made by a session; a read-only buffer."""

    def __new__(cls, size: int) -> Block: ...

@final
class Session:
    """A conversation's tokens and their keys and values (KV) in blocks; one thread at a time.

    Full blocks do not change any more: forks share them, and they can be read while the session goes on.
    """

    model: Model
    context: int
    """Tokens that it may hold."""
    kv: Literal["f16", "q8_0"]
    """How keys and values are kept: as halves, or as bytes with a scale for each 32 of a token: 17 / 32 of that."""
    block_bytes: int
    """Bytes of one of its blocks."""
    seed: int
    random: int
    """The state of the generator, 64 bits: what `sample` will draw next follows from it."""

    def __init__(
        self, model: Model, context: int = 4096, seed: int = 0, *, kv: Literal["f16", "q8_0"] = "f16"
    ) -> None: ...
    @property
    def tokens(self) -> list[int]:
        """All tokens, in order."""
    def __len__(self) -> int: ...
    def advance(self, tokens: Sequence[int], wanted: int = 1) -> None:
        """Take tokens in; the logits of the last `wanted` are there afterwards. Releases the GIL.

        Raises:
            Stopped: `stop` was called; no token was taken in.
            ValueError: an unknown token, none at all, or more than the context holds.
            MemoryError: no room for another block.
        """
    def stop(self) -> None:
        """Make the `advance` that runs in another thread, or the next one, raise Stopped within some milliseconds."""
    def logits(self, row: int = -1) -> list[float]:
        """The logits of one of the last `wanted` tokens."""
    def sample(
        self,
        *,
        row: int = -1,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        penalty: float = 1.0,
        recent: int = 64,
        mask: bytes | bytearray | memoryview | None = None,
    ) -> int:
        """The next token after one of the last `wanted`; -1: `mask` allows none.

        In this order: repetition penalty over the last `recent` tokens (Keskar et al., 2019), mask (one bit a token,
        little-endian, set: allowed), temperature (0: the most likely, of equals the lowest), top_k (0: all), top_p,
        min_p (a part of the highest probability).
        """
    def logprobs(self, tokens: Sequence[int], row: int = -1) -> list[float]:
        """Natural logarithms of the probabilities of some next tokens, before penalty, mask and temperature."""
    def likeliest(self, count: int, row: int = -1) -> list[tuple[int, float]]:
        """The `count` most likely next tokens and their logprobs, the most likely first."""
    def rewind(self, length: int) -> None:
        """Forget all but the first `length` tokens."""
    def fork(self) -> Session:
        """Another session that begins as this one is; full blocks are shared."""
    def blocks(self, since: int = 0) -> list[memoryview]:
        """The full blocks from the `since`-th on, read-only and without a copy; valid as long as they are held."""
    def tail(self, since: int | None = None) -> bytes:
        """The KV of the last tokens for `extend`, a copy: from the `since`-th on, or after the last full block.

        Raises:
            ValueError: they are not of one block.
        """
    def extend(self, tokens: Sequence[int], rows: Buffer) -> None:
        """Take in tokens whose KV another session's `tail` gave, without computing; within one block.

        Raises:
            ValueError: they go beyond the block or the context, or `rows` are not theirs.
        """
    @classmethod
    def restore(
        cls,
        model: Model,
        tokens: Sequence[int],
        blocks: Sequence[Buffer],
        tail: Buffer,
        context: int = 4096,
        *,
        kv: Literal["f16", "q8_0"] = "f16",
    ) -> Session:
        """The session whose `tokens`, `blocks` and `tail` these are, all of that `kv`; read-only blocks without a copy.

        Raises:
            ValueError: sizes that do not fit the model or each other.
        """

def read_bandwidth(size: int, threads: int = 1) -> float:
    """Bytes per second of the fastest of five readings of so much memory: what no weights are read faster than.

    `size` in whole MiB, several times what the caches hold.

    Raises:
        MemoryError: there is no room.
        ValueError: it is below 1 MiB, or `threads` is not from 1 to 256.
    """
