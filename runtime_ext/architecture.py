"""What a model file says of its model: sizes, rotation, and which tensor is what. Everything is checked against it.

Law: numbers that decide bits of the result are worked out in decimals, not by a processor's own logarithm, so that
they are the same on every device.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, floor
from typing import Any, Final, NamedTuple

from .gguf import Gguf, Tensor

SUPPORTED: Final = ("llama", "qwen2", "qwen3")
"""Decoder-only, grouped attention, gated feed-forward: Llama, Mistral, SmolLM; Qwen2.5, MiMo; Qwen3."""
HEAD_LIMIT: Final = 512
SIZE_LIMIT: Final = 1 << 20
"""Of any dimension but the vocabulary, whose limit is four times that."""


class ModelError(ValueError):
    """A file that is no model which runs here: what is wrong, and about which key or tensor."""

    def __init__(self, what: str, about: str = "") -> None:
        super().__init__(f"{about}: {what}" if about else what)
        self.what, self.about = what, about


class Shape(NamedTuple):
    """The sizes of a model, and how positions turn its heads."""

    architecture: str
    name: str
    layers: int
    embd: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocabulary: int
    context: int
    """Tokens that it was trained for."""
    eps: float
    window: int
    """Positions that a layer looks back; 0: all."""
    neighbours: bool
    """Whether pairs that turn together are neighbours (Llama's files), or halves of a head apart."""
    frequencies: tuple[float, ...]
    """Radians per position, for each pair."""
    attention_factor: float

    @classmethod
    def of(cls, gguf: Gguf) -> Shape:
        """The shape of the model in a file.

        Raises:
            ModelError: it is of an architecture that does not run here, or its numbers make no sense.
        """
        get = _Keys(gguf.metadata)
        architecture = get.text("general.architecture")
        if architecture not in SUPPORTED:
            raise ModelError(f"{architecture!r:.60} is not supported; supported: {', '.join(SUPPORTED)}",
                             "general.architecture")  # fmt: skip
        a = f"{architecture}."
        heads = get.size(a + "attention.head_count")
        kv_heads = get.size(a + "attention.head_count_kv", heads)
        embd = get.size(a + "embedding_length")
        head_dim = get.size(a + "attention.key_length", embd // heads)
        # files of models that predict several tokens have those layers at the end; they are not run
        layers = get.size(a + "block_count") - get.size(a + "nextn_predict_layers", 0, least=0)
        if heads % kv_heads:
            raise ModelError(f"{heads} heads cannot share {kv_heads} evenly", a + "attention.head_count_kv")
        if head_dim != get.size(a + "attention.value_length", head_dim):
            raise ModelError("keys and values of different lengths are not supported", a + "attention.value_length")
        if head_dim % 32 or head_dim > HEAD_LIMIT:
            raise ModelError(f"{head_dim} is not supported; supported: multiples of 32 up to {HEAD_LIMIT}",
                             a + "attention.key_length")  # fmt: skip
        if layers < 1:
            raise ModelError("there are no layers", a + "block_count")
        turned = get.size(a + "rope.dimension_count", head_dim)
        if turned % 2 or turned > head_dim:
            raise ModelError(f"{turned} is no even number up to {head_dim}", a + "rope.dimension_count")
        for key in ("expert_count", "attention.max_alibi_bias", "attention.clamp_kqv", "logit_scale"):
            if gguf.metadata.get(a + key):
                raise ModelError("that is not supported", a + key)
        embedding = gguf.tensors.get("token_embd.weight")
        if embedding is None or len(embedding.shape) != 2:
            raise ModelError("there is no such matrix", "token_embd.weight")
        if not 1 <= embedding.shape[1] <= 4 * SIZE_LIMIT:
            raise ModelError(f"{embedding.shape[1]} tokens", "token_embd.weight")
        frequencies, attention_factor = _rotation(gguf, get, a, turned)
        return cls(
            architecture, str(gguf.metadata.get("general.name", ""))[:200], layers, embd, heads, kv_heads, head_dim,
            get.size(a + "feed_forward_length"), embedding.shape[1],
            get.size(a + "context_length", 4096, most=2**31 - 1),
            get.number(a + "attention.layer_norm_rms_epsilon"), get.size(a + "attention.sliding_window", 0, least=0),
            architecture == "llama", frequencies, attention_factor,
        )  # fmt: skip


def tensor(gguf: Gguf, name: str, *shape: int, optional: bool = False) -> Tensor | None:
    """The tensor of that name, of that shape.

    Raises:
        ModelError: it is not there, though it must be, or has another shape.
    """
    found = gguf.tensors.get(name)
    if found is None:
        if optional:
            return None
        raise ModelError("there is no such tensor", name)
    if found.shape != shape:
        raise ModelError(f"its shape is {_times(found.shape)}, not {_times(shape)}", name)
    if found.offset % 4:
        raise ModelError("it does not lie at a multiple of 4 bytes", name)
    return found


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


class _Keys:
    """Metadata, each value checked as it is taken."""

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata

    def text(self, key: str) -> str:
        value = self._metadata.get(key)
        if not isinstance(value, str):
            raise ModelError("there is no such text", key)
        return value

    def size(self, key: str, default: int | None = None, *, least: int = 1, most: int = SIZE_LIMIT) -> int:
        value = self._metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ModelError("there is no such number" if value is None else f"{value!r:.60} is no whole number", key)
        if not least <= value <= most:
            raise ModelError(f"{value} is not from {least} to {most}", key)
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self._metadata.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ModelError("there is no such number" if value is None else f"{value!r:.60} is no number", key)
        if not 0 < value < 1e30:
            raise ModelError(f"{value!r} is not above 0, or too large", key)
        return float(value)


def _rotation(gguf: Gguf, get: _Keys, a: str, turned: int) -> tuple[tuple[float, ...], float]:
    """Radians per position for each pair, and what queries and keys are scaled by.

    Source: rotary embedding (Su et al., 2021), linear and YaRN scaling (Peng et al., 2023), and factors in the file.
    """
    from decimal import Context, Decimal  # a millisecond that only a load needs

    exact, turn = Context(prec=40), Decimal("6.283185307179586476925286766559005768394")
    log = Decimal(get.number(a + "rope.freq_base", 10_000.0)).ln(exact)
    plain = [float(exact.exp(-log * (2 * i) / turned)) for i in range(turned // 2)]
    factors = tensor(gguf, "rope_freqs.weight", turned // 2, optional=True)
    if factors is not None:
        if factors.type != "F32":
            raise ModelError(f"it is of type {factors.type}, not F32", factors.name)
        divisors = gguf.tensor_data(factors.name).cast("f")
        if not all(0 < d < 1e30 for d in divisors):
            raise ModelError("a factor is not above 0", factors.name)
        plain = [f / d for f, d in zip(plain, divisors, strict=True)]
    kind = gguf.metadata.get(a + "rope.scaling.type", "none")
    if kind == "none":
        return tuple(plain), 1.0
    factor = get.number(a + "rope.scaling.factor")
    if kind == "linear":
        return tuple(f / factor for f in plain), 1.0
    if kind != "yarn":
        raise ModelError(f"{kind!r:.60} is not supported; supported: none, linear, yarn", a + "rope.scaling.type")
    before = get.size(a + "rope.scaling.original_context_length", most=2**31 - 1)

    def pair(turns: int) -> Decimal:
        """The pair that turns so often within the context that the model was trained for."""
        return turned * (Decimal(before) / (turns * turn)).ln(exact) / (2 * log)

    low = max(floor(pair(32)), 0)
    high = min(ceil(pair(1)), turned - 1)
    ramp = [min(max((i - low) / max(high - low, 0.001), 0.0), 1.0) for i in range(turned // 2)]
    scaled = tuple(f * (1.0 - r) + f / factor * r for f, r in zip(plain, ramp, strict=True))
    attention = float(1 + Decimal("0.1") * Decimal(factor).ln(exact)) if factor > 1 else 1.0
    return scaled, attention * get.number(a + "rope.scaling.attn_factor", 1.0)
