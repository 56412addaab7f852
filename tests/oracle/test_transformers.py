"""The same weights in transformers, on the CPU, in 32-bit floats: the logits are the same to within 1e-4.

Keys and values are kept in halves here. A float that lies between two halves is rounded to one or the other by its last
bit, which two engines need not share, and what follows differs by some 1e-3. So the oracle attends over the keys and
values that this engine kept, after each was found to be its own, rounded. `make oracle` installs it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest

pytest.importorskip("torch", reason="the oracle needs torch and transformers: make oracle")
pytest.importorskip("transformers", reason="the oracle needs torch and transformers: make oracle")

import torch
import transformers
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward

from slipstream.runtime_ext.model import BLOCK_TOKENS, Session

pytestmark = pytest.mark.filterwarnings("ignore")  # theirs

TOKENS = Random(1).choices(range(1000), k=256)
"""Eight full blocks."""
Ours = tuple[Session, list[list[float]]]
CLOSE = 1e-4
ANGLES = 5e-5
"""How far keys may be off because transformers turns heads by angles that are 32-bit floats."""
CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    # architecture, metadata of the file, rope of the oracle's configuration, and the rest of it
    "llama": ("llama", {}, {}, {}),
    "qwen2": ("qwen2", {}, {}, {}),
    "qwen3": ("qwen3", {}, {}, {}),
    "llama, frequencies scaled as in Llama 3.1": (
        "llama", {"factors": True}, {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                     "high_freq_factor": 4.0, "original_max_position_embeddings": 512}, {},
    ),
    "qwen2, linear scaling": (
        "qwen2", {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}, {"rope_type": "linear", "factor": 4.0},
        {},
    ),
    "qwen2, YaRN": (
        "qwen2", {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0,
                  "rope.scaling.original_context_length": 64},
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, {},
    ),
    "qwen2, a window of 40": (
        "qwen2", {"attention.sliding_window": 40}, {},
        {"use_sliding_window": True, "sliding_window": 40, "max_window_layers": 0},
    ),
}  # fmt: skip


def kept(session: Session) -> torch.Tensor:
    """A session's keys and values: (2, layers, heads, tokens, head_dim)."""
    shape = session.model.shape
    of_block = (shape.layers, shape.kv_heads, 2, -1)
    found = []
    for block in session.blocks():
        both = torch.frombuffer(bytearray(block), dtype=torch.float16).reshape(of_block)
        keys = both[:, :, 0].reshape(shape.layers, shape.kv_heads, shape.head_dim, BLOCK_TOKENS).transpose(2, 3)
        values = both[:, :, 1].reshape(shape.layers, shape.kv_heads, BLOCK_TOKENS, shape.head_dim)
        if shape.neighbours:  # pairs that turn together, half a head apart
            keys = torch.cat((keys[..., 0::2], keys[..., 1::2]), -1)
        found.append(torch.stack((keys, values)))
    return torch.cat(found, 3).float()


def over(cache: torch.Tensor) -> Any:
    """Attention by the book, over kept keys and values, each of which is the one given, rounded."""

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **more: Any) -> Any:
        halves = cache[:, module.layer_idx]
        for given, half in zip((key[0], value[0]), halves, strict=True):
            assert ((given - half).abs() <= 2**-11 * given.abs() + ANGLES).all()
        return eager_attention_forward(module, query, halves[None, 0], halves[None, 1], mask, **more)

    return attend


def theirs(
    models: ModuleType, arch: str, rope: dict[str, Any], more: dict[str, Any], attend: Any = eager_attention_forward
) -> torch.Tensor:
    """The logits after each token: (tokens, vocabulary)."""
    AttentionInterface.register("by the book", attend)
    AttentionMaskInterface.register("by the book", eager_mask)
    shape = models.shape_of("tiny", arch)
    name = {"llama": "Llama", "qwen2": "Qwen2", "qwen3": "Qwen3"}[arch]
    config = getattr(transformers, f"{name}Config")(
        vocab_size=shape.vocab, hidden_size=shape.embd, intermediate_size=shape.ff, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, head_dim=shape.head_dim,
        max_position_embeddings=shape.context, rms_norm_eps=shape.epsilon, tie_word_embeddings=shape.tied,
        rope_parameters={"rope_type": "default", "rope_theta": shape.theta} | rope, attn_implementation="by the book",
        **more,
    )  # fmt: skip
    model = getattr(transformers, f"{name}ForCausalLM")(config).float().eval()
    held = {
        name: torch.tensor(values).reshape(dims)
        for name, (dims, values) in models.for_transformers(shape, arch).items()
    }
    missing, unknown = model.load_state_dict(held, strict=False)
    assert not unknown
    assert set(missing) <= ({"lm_head.weight"} if shape.tied else set())
    model.tie_weights()
    with torch.no_grad():
        logits: torch.Tensor = model(torch.tensor([TOKENS])).logits[0]
    return logits


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(
    case: str, models: ModuleType, made: Callable[..., Path], ours: Callable[..., Ours]
) -> None:
    arch, more, rope, rest = CASES[case]
    factors = more.get("factors", False)
    extra = {f"{arch}.{key}": value for key, value in more.items() if key != "factors"}
    session, rows = ours(made(arch, "F32", extra, factors), TOKENS)
    here, there = torch.tensor(rows), theirs(models, arch, rope, rest, over(kept(session)))
    assert there.std() > 1  # it says something
    apart = float((here - there).abs().max())
    print(f"{case}: logits at most {apart:.1e} apart")
    assert apart < CLOSE


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_halves_change_logits_by_less_than_a_hundredth(
    arch: str, models: ModuleType, made: Callable[..., Path], ours: Callable[..., Ours]
) -> None:
    _, rows = ours(made(arch, "F32"), TOKENS)
    apart = float((torch.tensor(rows) - theirs(models, arch, {}, {})).abs().max())
    print(f"{arch}, their keys and values in floats: logits at most {apart:.1e} apart")
    assert CLOSE < apart < 0.01
