"""The models of the tests: files that hold what is said of them, and blocks that other engines read the same way."""

from __future__ import annotations

import importlib.util
import math
import subprocess
import sys
from array import array
from hashlib import sha256
from pathlib import Path
from random import Random
from statistics import fmean, pstdev
from types import ModuleType

import pytest

from slipstream.runtime_ext.gguf import BLOCKS, Gguf

PROGRAM = Path(__file__).with_name("make_gguf.py")


def loaded() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gguf", PROGRAM)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


models = loaded()

READ_BY_GGUF_PY = {
    "BF16": "565f5d3f8d87577f",
    "Q8_0": "f1cda3da779e9308",
    "Q4_0": "ee5d017c87ca26da",
    "Q5_0": "c292038c09bcc860",
    "Q4_K": "783c4027ced9c9ff",
    "Q5_K": "6f51378b51002c57",
    "Q6_K": "3413be2001173510",
}
"""Of 64 random blocks: the SHA-256 of the floats that gguf-py 0.19 reads of them."""
SCALES = {"BF16": [1], "Q8_0": [1], "Q4_0": [1], "Q5_0": [1], "Q4_K": [1, 3], "Q5_K": [1, 3], "Q6_K": [209]}
"""Where the high bytes of scales are: no infinity and no NaN shall be there."""


@pytest.mark.parametrize("kind", READ_BY_GGUF_PY)
def test_blocks_stand_for_the_floats_that_others_read_of_them(kind: str) -> None:
    raw = bytearray(Random(kind).randbytes(64 * BLOCKS[kind][1]))
    for place in SCALES[kind]:
        raw[place :: BLOCKS[kind][1]] = bytes(byte & 0xBB for byte in raw[place :: BLOCKS[kind][1]])
    floats = models.quantise("F32", models.dequantise(kind, bytes(raw)))
    assert sha256(floats).hexdigest()[:16] == READ_BY_GGUF_PY[kind]


@pytest.mark.parametrize(
    ("kind", "error"),
    [("F32", 0), ("F16", 0.0003), ("BF16", 0.002), ("Q8_0", 0.006), ("Q4_0", 0.09), ("Q5_0", 0.045), ("Q4_K", 0.08),
     ("Q5_K", 0.04), ("Q6_K", 0.02)],
)  # fmt: skip
def test_quantised_floats_are_as_near_as_the_type_allows(kind: str, error: float) -> None:
    draw = Random(7)
    values = array("f", [draw.gauss() for _ in range(256 * 40)] + [0.0] * 256)
    data = models.quantise(kind, values)
    assert len(data) == len(values) // BLOCKS[kind][0] * BLOCKS[kind][1]
    again = models.dequantise(kind, data)
    assert math.sqrt(fmean((a - b) ** 2 for a, b in zip(values, again, strict=True))) <= error
    assert not any(again[-256:])


@pytest.mark.parametrize("kind", BLOCKS)
def test_random_blocks_have_the_deviation_that_was_asked_for(kind: str) -> None:
    blocks = 400 * 256 // BLOCKS[kind][0]
    floats = models.dequantise(kind, b"".join(models.random_blocks(kind, blocks, 0.03, Random(1))))
    assert abs(fmean(floats)) < 0.001
    assert pstdev(floats) == pytest.approx(0.03, rel=0.03)
    assert len(set(floats)) > 200


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_a_tiny_file_holds_its_weights_quantised(tmp_path: Path, arch: str) -> None:
    path = tmp_path / "m.gguf"
    models.make(path, kind="Q8_0", arch=arch, seed=3)
    shape, floats = models.shape_of("tiny", arch), models.weights(models.shape_of("tiny", arch), arch, 3)
    with Gguf.open(path) as file:
        assert {name: tensor.shape for name, tensor in file.tensors.items()} == {n: d for n, (d, _) in floats.items()}
        for name in ("blk.1.ffn_down.weight", "blk.0.attn_norm.weight"):
            assert file.tensor_data(name) == models.quantise(file.tensors[name].type, floats[name][1])
        assert ("output.weight" in file.tensors) is (arch == "llama")
        assert ("blk.0.attn_k.bias" in file.tensors) is (arch == "qwen2")
        assert ("blk.0.attn_k_norm.weight" in file.tensors) is (arch == "qwen3")
        assert file.metadata["general.architecture"] == arch
        assert len(file.metadata["tokenizer.ggml.tokens"]) == shape.vocab
        assert file.metadata.get(f"{arch}.attention.key_length") == (64 if arch == "qwen3" else None)


def test_the_same_seed_gives_the_same_file(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        command = [sys.executable, PROGRAM, "--type", "Q4_0", "--seed", str(seed), tmp_path / name]
        subprocess.run(command, check=True)
    a, b, c = ((tmp_path / name).read_bytes() for name in "abc")
    assert a == b != c
    assert len(a) == len(c)


def test_the_mix_and_rows_that_do_not_fit_are_as_llama_cpp_has_them() -> None:
    shape = models.SHAPES["0.5b"]
    kinds = {name: models.kind_of(name, dims, "Q4_K_M", shape) for name, dims, _, _ in models.tensors(shape, "qwen2")}
    more = {0, 1, 2, 5, 8, 11, 14, 17, 20, 21, 22, 23}
    for layer in range(24):
        assert kinds[f"blk.{layer}.attn_v.weight"] == ("Q8_0" if layer in more else "Q5_0")
        assert kinds[f"blk.{layer}.ffn_down.weight"] == ("Q6_K" if layer in more else "Q4_K")
        assert kinds[f"blk.{layer}.attn_q.weight"] == "Q5_0"
        assert kinds[f"blk.{layer}.attn_q.bias"] == "F32"
    assert kinds["token_embd.weight"] == "Q8_0"
    big = models.SHAPES["mimo-7b"]
    assert models.kind_of("output.weight", (4096, big.vocab), "Q4_K_M", big) == "Q6_K"
    assert models.kind_of("token_embd.weight", (4096, big.vocab), "Q4_K_M", big) == "Q4_K"


@pytest.mark.parametrize("vocab", [1024, 151_936])
def test_byte_level_merges_make_tokens_of_tokens(vocab: int) -> None:
    found = models.byte_bpe(vocab)
    tokens, types = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.token_type"]
    known = set(tokens)
    assert len(known) == len(tokens) == len(types) == vocab
    for merge in found["tokenizer.ggml.merges"]:
        left, right = merge.split(" ")
        assert {left, right, left + right} <= known
    assert set(models.byte_letters().values()) <= known
    assert [tokens[i] for i, kind in enumerate(types) if kind == 3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokens[found["tokenizer.ggml.eos_token_id"]] == "<|im_end|>"


def test_sentencepiece_has_every_byte_and_scores_from_best_to_worst() -> None:
    found = models.sentencepiece(1024)
    tokens, scores = found["tokenizer.ggml.tokens"], found["tokenizer.ggml.scores"]
    assert len(set(tokens)) == len(tokens) == len(scores) == len(found["tokenizer.ggml.token_type"]) == 1024
    assert tokens[3:259] == [f"<0x{byte:02X}>" for byte in range(256)]
    pieces = [i for i, kind in enumerate(found["tokenizer.ggml.token_type"]) if kind == 1]
    assert [scores[i] for i in pieces] == sorted({scores[i] for i in pieces}, reverse=True)
    assert {"▁", "▁the", "e", "车"} <= {tokens[i] for i in pieces}


@pytest.mark.parametrize("arch", ["llama", "qwen2"])
def test_a_pair_of_rows_turns_together_in_the_file_and_in_transformers(arch: str) -> None:
    shape = models.shape_of("tiny", arch)
    ours = models.weights(shape, arch, 5)["blk.1.attn_k.weight"][1]
    dims, theirs = models.for_transformers(shape, arch, 5)["model.layers.1.self_attn.k_proj.weight"]
    assert dims == (128, 256)
    row, half, head = shape.embd, shape.head_dim // 2, shape.head_dim  # the second head, pair 3
    first, second = (head + 6, head + 7) if arch == "llama" else (head + 3, head + 3 + half)
    assert ours[first * row :][:row] == theirs[(head + 3) * row :][:row]
    assert ours[second * row :][:row] == theirs[(head + 3 + half) * row :][:row]


def test_scaled_frequencies_leave_fast_waves_and_stretch_slow_ones(tmp_path: Path) -> None:
    models.make(tmp_path / "m", kind="F32", arch="llama", rope_freqs=True)
    with Gguf.open(tmp_path / "m") as file:
        factors = file.tensor_data("rope_freqs.weight").cast("f").tolist()
    assert factors[0] == 1
    assert factors[-1] == 8
    assert factors == sorted(factors)
    assert len(factors) == 32


def test_the_chat_template_writes_turns_tools_and_calls() -> None:
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 is not installed: chat templates are not rendered")
    template = jinja2.Environment().from_string(models.CHAT)
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Warm it."},
        {"role": "assistant", "tool_calls": [{"function": {"name": "cabin.set", "arguments": {"degrees": 21}}}]},
        {"role": "tool", "content": "done"},
    ]
    assert template.render(messages=talk[:2], add_generation_prompt=True) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWarm it.<|im_end|>\n<|im_start|>assistant\n"
    )
    text = template.render(messages=talk, tools=[{"type": "function", "function": {"name": "cabin.set"}}])
    assert text.count("Be brief.") == 1
    assert '<tools>\n{"function": {"name": "cabin.set"}, "type": "function"}\n</tools>' in text
    assert '<tool_call>\n{"name": "cabin.set", "arguments": {"degrees": 21}}\n</tool_call><|im_end|>\n' in text
    assert text.endswith("<|im_start|>user\n<tool_response>\ndone\n</tool_response><|im_end|>\n")
