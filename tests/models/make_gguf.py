"""Model files with random weights: `python tests/models/make_gguf.py --shape tiny --type Q8_0 --arch qwen2 OUT.gguf`.

The architecture, the metadata, the names and the tokenizer are real, the weights are noise: the same seed gives the
same file. `tiny` (about 1.5 M parameters) is exact: `weights` gives its floats, and its file holds them as `quantise`
makes them, simply, not as well as llama.cpp would. The big shapes are random blocks, written at the speed of the disk.

Order of rows: `llama` files have RoPE pairs side by side in Q and K, as llama.cpp's converter makes them; `qwen2` and
`qwen3` have them half a head apart (NEOX), as transformers does. `for_transformers` gives the latter for all.

One file because tests load it by its path.
"""

from __future__ import annotations

import argparse
import math
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from statistics import NormalDist
from struct import pack, unpack
from typing import Any, Literal

from slipstream.runtime_ext.gguf import ALIGNMENT, BLOCKS, TYPES

Arch = Literal["llama", "qwen2", "qwen3"]
Dims = tuple[int, ...]
"""A tensor's shape in ggml's order: the length of a row first."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The numbers of an architecture."""

    layers: int
    embd: int
    heads: int
    kv_heads: int
    head_dim: int
    ff: int
    vocab: int
    tied: bool
    theta: float = 1e6
    context: int = 32_768
    epsilon: float = 1e-6


SHAPES = {
    "tiny": Shape(2, 256, 4, 2, 64, 512, 1024, True, 10_000.0, 2048),
    "0.5b": Shape(24, 896, 14, 2, 64, 4864, 151_936, True),
    "1.5b": Shape(28, 1536, 12, 2, 128, 8960, 151_936, True),
    "mimo-7b": Shape(36, 4096, 32, 8, 128, 11_008, 151_680, False, 640_000.0),
}
"""Tiny; Qwen2.5-0.5B and 1.5B; MiMo-7B."""
KINDS = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M")
EXACT_LIMIT = 10_000
"""Shapes of fewer tokens than this have exact weights."""
_FILE_TYPES = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q5_0": 8, "Q4_K": 14, "Q5_K": 16, "Q6_K": 18,
               "Q4_K_M": 15}  # fmt: skip
_FALLBACK = {"Q4_K": "Q5_0", "Q5_K": "Q8_0", "Q6_K": "Q8_0"}  # llama.cpp takes Q5_1 for Q5_K, which we do not read
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>")
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6
_CHUNK = 1 << 16
"""Blocks that are made at once."""

CHAT = """\
{%- if tools %}
{{- '<|im_start|>system\\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{% endif %}
{{- 'You can call these functions:\\n<tools>\\n' }}
{%- for tool in tools %}{{- tool | tojson }}{{- '\\n' }}{% endfor %}
{{- '</tools>\\nFor a call, write an object with its name and arguments between tags:\\n<tool_call>\\n' }}
{{- '{"name": NAME, "arguments": {...}}\\n</tool_call><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages[1 if messages[0].role == 'system' else 0:] %}
{%- if message.role == 'tool' %}
{{- '<|im_start|>user\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{%- set call = call.function or call %}
{{- '\\n<tool_call>\\n{"name": ' }}{{- call.name | tojson }}
{{- ', "arguments": ' }}{{- call.arguments | tojson }}{{- '}\\n</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{% endif %}"""

TEXT = """\
The car is parked below the house, and its battery is at sixty percent. Before we leave, please warm the cabin to 21
degrees, find a way to the lake that avoids the pass, and tell Anna that we'll be there at half past four. If it rains,
don't stop; if there is a charger with free places on the way, it's fine to rest for twenty minutes and to have lunch.
A device that is not known here shows the statements that let it in. What begins on the phone goes on in the car.
Das Auto steht vor dem Haus, und der Akku ist zu sechzig Prozent voll. Bitte heize vor der Abfahrt die Kabine auf 21
Grad, suche einen Weg zum See, der nicht über den Pass führt, und schreibe Anna, dass wir um halb fünf dort sind.
L'auto è parcheggiata sotto casa; prima di partire scalda l'abitacolo e cerca una strada verso il lago, per favore.
La voiture est garée devant la maison. Avant de partir, chauffe l'habitacle et trouve un chemin, s'il te plaît.
El coche está delante de la casa, ¿puedes calentarlo antes de salir y buscar un camino hacia el lago? ¡Gracias!
Машина стоит у дома. Перед выездом прогрей салон, найди дорогу к озеру и напиши Анне, что мы приедем в половине пятого.
Το αυτοκίνητο είναι μπροστά στο σπίτι. Βρες έναν δρόμο προς τη λίμνη.
汽车停在房子前面，电池还有百分之六十。出发之前请把车里加热到二十一度，找一条去湖边的路，告诉安娜我们四点半到。
車は家の前にあります。出発する前に車内を暖めて、湖への道を探してください。アンナに四時半に着くと伝えて。
자동차는 집 앞에 있습니다. 출발하기 전에 실내를 따뜻하게 하고 호수로 가는 길을 찾아 주세요.
السيارة أمام البيت. قبل أن نذهب، ابحث عن طريق إلى البحيرة من فضلك.
गाड़ी घर के सामने है। जाने से पहले झील का रास्ता खोजिए।
רכב ליד הבית, מצא דרך לאגם. 🚗🔋 → 🏔️ 🌧️? 👍🏽 👨‍👩‍👧
def route(to: str, via: list[str] = []) -> Route:
    return [step for step in plan.steps if step.skill == "nav.route" and not step.done]
"""


def sample(seed: int = 0) -> str:
    """The text that tokenizers are trained on: some sentences in many scripts, and calls made up."""
    draw, lines = Random(seed), [TEXT]
    nouns = ["cabin", "seat", "route", "charge", "contact", "message", "window", "light", "music", "lake", "battery"]
    verbs = ["find", "set", "get", "open", "close", "start", "stop", "warm", "send", "plan", "tell", "read"]
    for _ in range(200):
        noun, verb, number = draw.choice(nouns), draw.choice(verbs), draw.randrange(1000)
        lines.append(
            f'{{"name": "{noun}.{verb}", "arguments": {{"{draw.choice(nouns)}_{verb}": {number}, "now": true}}}}'
        )
        lines.append(
            f"Please {verb} the {noun} and the {draw.choice(nouns)}s, {draw.choice(verbs)}ing {number} of them."
        )
    return "\n".join(lines)


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte in byte-level BPE: itself where it can be seen, else one from U+0100 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}


def learn(words: Counter[tuple[str, ...]], wanted: int) -> list[tuple[str, str]]:
    """Merges of byte pair encoding, most frequent first (Sennrich et al. 2016), up to so many different products."""
    spelled, counts = [list(word) for word in words], list(words.values())
    pairs: Counter[tuple[str, str]] = Counter()
    where: defaultdict[tuple[str, str], set[int]] = defaultdict(set)

    def count(word: int, sign: int) -> None:
        for pair in zip(spelled[word], spelled[word][1:], strict=False):
            pairs[pair] += sign * counts[word]
            where[pair].add(word)

    for word in range(len(spelled)):
        count(word, 1)
    merges: list[tuple[str, str]] = []
    products: set[str] = set()
    while len(products) < wanted and pairs:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:  # what is there once says nothing
            break
        merges.append(best)
        products.add("".join(best))
        for word in where.pop(best):
            count(word, -1)
            spelled[word] = merged(spelled[word], best)
            count(word, 1)
        del pairs[best]
    return merges


def merged(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    """Symbols with one pair joined, from left to right."""
    found: list[str] = []
    for symbol in symbols:
        if found and (found[-1], symbol) == pair:
            found[-1] += symbol
        else:
            found.append(symbol)
    return found


def extend(tokens: list[str], merges: list[tuple[str, str]], wanted: int, space: str) -> None:
    """Go on with made-up words, each of two tokens, until there are so many tokens."""
    draw, known = Random(wanted), set(tokens)
    left = [token for token in tokens if re.fullmatch(f"{space}?[a-z]+", token)]
    right = [token for token in left if not token.startswith(space)]
    while len(tokens) < wanted:
        pair = draw.choice(left), draw.choice(right)
        word = "".join(pair)
        if word not in known and len(word) <= 20:
            known.add(word)
            tokens.append(word)
            merges.append(pair)
            left.append(word)


@cache
def byte_bpe(vocab: int) -> dict[str, Any]:
    """Metadata of a byte-level BPE tokenizer; with room for them the regular tokens are as many as Qwen2's, 151,643."""
    letters = byte_letters()
    words = re.findall(r" ?[^\W\d_]+|\d| ?[^\s\w]+|\s+|_", sample())
    regular = 151_643 if vocab > 151_643 + len(_SPECIAL) else vocab - len(_SPECIAL)
    merges = learn(Counter(tuple(letters[byte] for byte in word.encode()) for word in words), regular - 256)
    tokens = [*letters.values(), *dict.fromkeys(left + right for left, right in merges)]
    extend(tokens, merges, regular, letters[32])
    padding = [f"[PAD{number}]" for number in range(regular + len(_SPECIAL), vocab)]
    return _specials({
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": [*tokens, *_SPECIAL, *padding],
        "tokenizer.ggml.token_type": [_NORMAL] * regular + _special_types() + [_UNUSED] * len(padding),
        "tokenizer.ggml.merges": [f"{left} {right}" for left, right in merges],
        "tokenizer.ggml.bos_token_id": regular,
        "tokenizer.ggml.add_bos_token": False,
    })  # fmt: skip


@cache
def sentencepiece(vocab: int) -> dict[str, Any]:
    """Metadata of a SentencePiece BPE tokenizer with byte fallback, as Llama 2 has it: pieces by score, best first."""
    text = sample().replace(" ", "▁")
    words = Counter(tuple(word) for word in re.findall(r"▁?[^▁\n]+|▁+", text))
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    letters = sorted(set(text) - {"\n"})
    pieces = vocab - len(first) - len(_SPECIAL)
    merges = learn(words, pieces - len(letters))
    found = [*letters, *dict.fromkeys(left + right for left, right in merges)]
    extend(found, merges, pieces, "▁")
    found = found[len(letters) :] + letters
    types = [_UNKNOWN, _CONTROL, _CONTROL] + [_BYTE] * 256 + [_NORMAL] * pieces + _special_types()
    return _specials({
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": [*first, *found, *_SPECIAL],
        "tokenizer.ggml.scores": [0.0] * len(first) + [-float(i) for i in range(pieces)] + [0.0] * len(_SPECIAL),
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_space_prefix": True,
    })  # fmt: skip


def _special_types() -> list[int]:
    return [_CONTROL if token.startswith("<|") else _USER for token in _SPECIAL]


def _specials(tokenizer: dict[str, Any]) -> dict[str, Any]:
    """What both have; a turn ends with <|im_end|>."""
    end = tokenizer["tokenizer.ggml.tokens"].index("<|im_end|>")
    return tokenizer | {
        "tokenizer.ggml.eos_token_id": end,
        "tokenizer.ggml.eot_token_id": end,
        "tokenizer.ggml.padding_token_id": tokenizer["tokenizer.ggml.tokens"].index("<|endoftext|>"),
        "tokenizer.chat_template": CHAT,
    }


def metadata(shape: Shape, arch: Arch, kind: str, tokenizer: str) -> dict[str, Any]:
    """All of a file's metadata, with the names and types that llama.cpp's converter gives them."""
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": f"random {arch}",
        "general.file_type": _FILE_TYPES[kind],
        "general.quantization_version": 2,
        f"{arch}.block_count": shape.layers,
        f"{arch}.context_length": shape.context,
        f"{arch}.embedding_length": shape.embd,
        f"{arch}.feed_forward_length": shape.ff,
        f"{arch}.attention.head_count": shape.heads,
        f"{arch}.attention.head_count_kv": shape.kv_heads,
        f"{arch}.attention.layer_norm_rms_epsilon": shape.epsilon,
        f"{arch}.rope.freq_base": shape.theta,
        f"{arch}.vocab_size": shape.vocab,
        **({f"{arch}.attention.key_length": shape.head_dim, f"{arch}.attention.value_length": shape.head_dim}
           if shape.head_dim * shape.heads != shape.embd else {}),
        **({f"{arch}.rope.dimension_count": shape.head_dim} if arch == "llama" else {}),
        **(byte_bpe if tokenizer == "bpe" else sentencepiece)(shape.vocab),
    }  # fmt: skip


def tensors(shape: Shape, arch: Arch) -> Iterator[tuple[str, Dims, float, float]]:
    """Every tensor: name, shape, and mean and deviation of what is in it, so that activations stay about 1."""
    embd, queries, keys = shape.embd, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim

    def matrix(name: str, row: int, rows: int, spread: float = 1.0) -> tuple[str, Dims, float, float]:
        return f"{name}.weight", (row, rows), 0.0, spread / math.sqrt(row)

    yield matrix("token_embd", embd, shape.vocab, 2.0)
    for layer in range(shape.layers):
        at = f"blk.{layer}."
        yield f"{at}attn_norm.weight", (embd,), 1.0, 0.1
        for name, rows in (("attn_q", queries), ("attn_k", keys), ("attn_v", keys)):
            yield matrix(at + name, embd, rows)
            if arch == "qwen2":
                yield f"{at}{name}.bias", (rows,), 0.0, 0.3
            if arch == "qwen3" and name != "attn_v":
                yield f"{at}{name}_norm.weight", (shape.head_dim,), 1.0, 0.1
        yield matrix(f"{at}attn_output", queries, embd, 2.0)
        yield f"{at}ffn_norm.weight", (embd,), 1.0, 0.1
        yield matrix(f"{at}ffn_gate", embd, shape.ff)
        yield matrix(f"{at}ffn_up", embd, shape.ff)
        yield matrix(f"{at}ffn_down", shape.ff, embd, 2.0)
    yield "output_norm.weight", (embd,), 1.0, 0.1
    if not shape.tied:
        yield matrix("output", embd, shape.vocab, 2.0)


def shape_of(name: str, arch: Arch) -> Shape:
    """The shape of a name; the tiny one is untied for llama, and for qwen3 its heads are wider than the embedding."""
    if name != "tiny":
        return SHAPES[name]
    return replace(SHAPES[name], tied=arch != "llama", heads=8 if arch == "qwen3" else SHAPES[name].heads)


@cache
def _quantiles(count: int) -> list[float]:
    """The normal distribution as so many values, equally probable, of deviation 1."""
    found = [NormalDist().inv_cdf((i + 0.5) / count) for i in range(count)]
    spread = math.sqrt(math.fsum(value * value for value in found) / count)
    return [value / spread for value in found]


def weights(shape: Shape, arch: Arch, seed: int = 0) -> dict[str, tuple[Dims, array[float]]]:
    """The floats (32 bits) of every tensor by name, rows one after the other, in the order of the file."""
    return {
        name: (dims, _floats(math.prod(dims), mean, deviation, Random(f"{seed} {name}")))
        for name, dims, mean, deviation in tensors(shape, arch)
    }


def _floats(count: int, mean: float, deviation: float, draw: Random) -> array[float]:
    table = [mean + deviation * value for value in _quantiles(65_536)]
    return array("f", [table[at] for at in unpack(f"<{count}H", draw.randbytes(2 * count))])


def for_transformers(shape: Shape, arch: Arch, seed: int = 0) -> dict[str, tuple[Dims, array[float]]]:
    """The same floats with the names, the shapes (rows first) and the order of rows of transformers' *ForCausalLM."""
    found: dict[str, tuple[Dims, array[float]]] = {}
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    parts = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj",
             "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj",
             "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj",
             "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}  # fmt: skip
    for name, (dims, values) in weights(shape, arch, seed).items():
        stem, ending = name.rsplit(".", 1)
        if stem.startswith("blk."):
            _, layer, part = stem.split(".")
            stem = f"model.layers.{layer}.{parts[part]}"
            if arch == "llama" and part in ("attn_q", "attn_k"):
                values = _halves(values, dims[0], shape.head_dim)
        else:
            stem = names[stem]
        found[f"{stem}.{ending}"] = dims[::-1], values
    return found


def rope_factors(shape: Shape) -> array[float]:
    """What each RoPE frequency is divided by, as Llama 3.1 has it: factor 8, low 1, high 4, trained on a quarter."""
    found, trained = array("f"), shape.context / 4
    for i in range(shape.head_dim // 2):
        turns = trained * shape.theta ** (-2 * i / shape.head_dim) / (2 * math.pi)
        smooth = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
        found.append(1 / ((1 - smooth) / 8 + smooth))
    return found


def _halves(values: array[float], row: int, head_dim: int) -> array[float]:
    """Rows of heads with RoPE pairs side by side, put half a head apart."""
    found: array[float] = array("f")
    for head in range(0, len(values) // row, head_dim):
        for at in (*range(head, head + head_dim, 2), *range(head + 1, head + head_dim, 2)):
            found += values[at * row : (at + 1) * row]
    return found


def kind_of(name: str, dims: Dims, kind: str, shape: Shape) -> str:
    """The type of a tensor in a file of a kind: what is no matrix stays F32, and Q4_K_M is llama.cpp's mix."""
    if len(dims) == 1:
        return "F32"
    if kind == "Q4_K_M":
        layers, layer = shape.layers, int(name.split(".")[1]) if name.startswith("blk.") else 0
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        last = name == "output.weight" or (shape.tied and name == "token_embd.weight")
        kind = "Q6_K" if last or (more and name.endswith(("attn_v.weight", "ffn_down.weight"))) else "Q4_K"
    return kind if dims[0] % BLOCKS[kind][0] == 0 else _FALLBACK[kind]


def quantise(kind: str, values: array[float]) -> bytes:
    """Floats as blocks of a type: the plain method for each, without search, for the scale that is stored."""
    if kind == "F32":
        return pack(f"<{len(values)}f", *values)
    if kind == "F16":
        return pack(f"<{len(values)}e", *values)
    if kind == "BF16":  # to the nearest, and to even from halfway
        bits = unpack(f"<{len(values)}I", pack(f"<{len(values)}f", *values))
        return pack(f"<{len(values)}H", *[(bit + 0x7FFF + (bit >> 16 & 1)) >> 16 for bit in bits])
    size, block = BLOCKS[kind][0], _QUANTISERS[kind]
    return b"".join([block(values[at : at + size]) for at in range(0, len(values), size)])


def dequantise(kind: str, data: bytes | memoryview) -> array[float]:
    """The floats that blocks of a type stand for."""
    data = bytes(data)
    if kind in ("F32", "F16"):
        return array("f", unpack(f"<{len(data) // BLOCKS[kind][1]}{'f' if kind == 'F32' else 'e'}", data))
    if kind == "BF16":
        bits = unpack(f"<{len(data) // 2}H", data)
        return array("f", unpack(f"<{len(bits)}f", pack(f"<{len(bits)}I", *[bit << 16 for bit in bits])))
    size, block, found = BLOCKS[kind][1], _DEQUANTISERS[kind], array("f")
    for at in range(0, len(data), size):
        found.extend(block(data[at : at + size]))
    return found


def _half(value: float) -> float:
    """A float as 16 bits can hold it."""
    return float(unpack("<e", pack("<e", value))[0])


def _levels(values: array[float], scale: float, least: int, most: int) -> list[int]:
    """The whole numbers nearest to values over a scale; 0 without a scale."""
    inverse = 1 / scale if scale else 0.0
    return [min(most, max(least, math.floor(value * inverse + 0.5))) for value in values]


def _q8_0(values: array[float]) -> bytes:
    scale = _half(max(map(abs, values)) / 127)
    return pack("<e32b", scale, *_levels(values, scale, -127, 127))


def _q4_0(values: array[float]) -> bytes:
    scale = _half(max(values, key=abs) / -8)
    levels = [level + 8 for level in _levels(values, scale, -8, 7)]
    return pack("<e16B", scale, *[low | high << 4 for low, high in zip(levels[:16], levels[16:], strict=True)])


def _q5_0(values: array[float]) -> bytes:
    scale = _half(max(values, key=abs) / -16)
    levels = [level + 16 for level in _levels(values, scale, -16, 15)]
    fifth = sum((level >> 4) << i for i, level in enumerate(levels))
    low = [level & 15 for level in levels]
    return pack("<eI16B", scale, fifth, *[a | b << 4 for a, b in zip(low[:16], low[16:], strict=True)])


def _k_scales(scales: list[int], least: list[int]) -> bytes:
    """Eight scales and eight minima of 6 bits each in 12 bytes, as Q4_K and Q5_K have them."""
    first = [scales[i] | scales[i + 4] >> 4 << 6 for i in range(4)] + [
        least[i] | least[i + 4] >> 4 << 6 for i in range(4)
    ]
    return bytes(first + [scales[i] & 15 | (least[i] & 15) << 4 for i in range(4, 8)])


def _k_scales_of(data: bytes) -> list[tuple[int, int]]:
    """What `_k_scales` packed: scale and minimum, eight times."""
    first = [(data[i] & 63, data[i + 4] & 63) for i in range(4)]
    return first + [(data[i + 8] & 15 | data[i] >> 6 << 4, data[i + 8] >> 4 | data[i + 4] >> 6 << 4) for i in range(4)]


def _asymmetric(values: array[float], most: int) -> tuple[bytes, list[int]]:
    """Head and levels of a block of Q4_K or Q5_K: in each 32 a value is scale * level - minimum."""
    parts = [values[at : at + 32] for at in range(0, 256, 32)]
    least = [max(0.0, -min(part)) for part in parts]
    steps = [(max(0.0, *part) + low) / most for part, low in zip(parts, least, strict=True)]
    scale, minimum = _half(max(steps) / 63), _half(max(least) / 63)
    scales = _levels(array("f", steps), scale, 0, 63)
    minima = _levels(array("f", least), minimum, 0, 63)
    levels: list[int] = []
    for part, step, low in zip(parts, scales, minima, strict=True):
        levels += _levels(array("f", [value + minimum * low for value in part]), scale * step, 0, most)
    return pack("<ee", scale, minimum) + _k_scales(scales, minima), levels


def _nibbles(levels: list[int]) -> bytes:
    """Of each 64 the first 32 in the low halves of bytes, the others in the high ones."""
    return bytes([levels[at + i] & 15 | (levels[at + i + 32] & 15) << 4 for at in range(0, 256, 64) for i in range(32)])


def _q4_k(values: array[float]) -> bytes:
    head, levels = _asymmetric(values, 15)
    return head + _nibbles(levels)


def _q5_k(values: array[float]) -> bytes:
    head, levels = _asymmetric(values, 31)
    high = bytes([sum((levels[32 * bit + i] >> 4) << bit for bit in range(8)) for i in range(32)])
    return head + high + _nibbles(levels)


def _q6_k(values: array[float]) -> bytes:
    steps = [max(values[at : at + 16], key=abs) / -32 for at in range(0, 256, 16)]
    scale = _half(max(map(abs, steps)) / 127)
    scales = _levels(array("f", steps), scale, -127, 127)
    levels: list[int] = []
    for i, step in enumerate(scales):
        levels += [level + 32 for level in _levels(values[16 * i : 16 * i + 16], scale * step, -32, 31)]
    low, high = bytearray(), bytearray()
    for at in (0, 128):
        a, b, c, d = (levels[at + part : at + part + 32] for part in range(0, 128, 32))
        low += bytes([x & 15 | (y & 15) << 4 for x, y in zip(a + b, c + d, strict=True)])
        high += bytes([w >> 4 | x >> 4 << 2 | y >> 4 << 4 | z >> 4 << 6 for w, x, y, z in zip(a, b, c, d, strict=True)])
    return bytes(low + high) + pack("<16be", *scales, scale)


def _from_q8_0(data: bytes) -> list[float]:
    scale, *levels = unpack("<e32b", data)
    return [scale * level for level in levels]


def _from_q4_0(data: bytes) -> list[float]:
    scale, *pairs = unpack("<e16B", data)
    return [scale * ((pair & 15) - 8) for pair in pairs] + [scale * ((pair >> 4) - 8) for pair in pairs]


def _from_q5_0(data: bytes) -> list[float]:
    scale, fifth, *pairs = unpack("<eI16B", data)
    low = [pair & 15 for pair in pairs] + [pair >> 4 for pair in pairs]
    return [scale * ((level | (fifth >> i & 1) << 4) - 16) for i, level in enumerate(low)]


def _from_asymmetric(data: bytes, high: bytes) -> list[float]:
    scale, minimum = unpack("<ee", data[:4])
    found: list[float] = []
    for part, (step, low) in enumerate(_k_scales_of(data[4:16])):
        at = 16 + len(high) + part // 2 * 32
        levels = [byte >> 4 * (part % 2) & 15 for byte in data[at : at + 32]]
        if high:
            levels = [level | (byte >> part & 1) << 4 for level, byte in zip(levels, high, strict=True)]
        found += [scale * step * level - minimum * low for level in levels]
    return found


def _from_q4_k(data: bytes) -> list[float]:
    return _from_asymmetric(data, b"")


def _from_q5_k(data: bytes) -> list[float]:
    return _from_asymmetric(data, data[16:48])


def _from_q6_k(data: bytes) -> list[float]:
    *scales, scale = unpack("<16be", data[192:])
    found: list[float] = []
    for part in range(8):  # of 32 values each
        low, high = data[part // 4 * 64 + part % 2 * 32 :][:32], data[128 + part // 4 * 32 :][:32]
        levels = [
            (a >> 4 * (part % 4 // 2) & 15 | (b >> 2 * (part % 4) & 3) << 4) - 32
            for a, b in zip(low, high, strict=True)
        ]
        found += [scale * scales[2 * part + i // 16] * level for i, level in enumerate(levels)]
    return found


_QUANTISERS: dict[str, Callable[[array[float]], bytes]] = {
    "Q8_0": _q8_0, "Q4_0": _q4_0, "Q5_0": _q5_0, "Q4_K": _q4_k, "Q5_K": _q5_k, "Q6_K": _q6_k,
}  # fmt: skip
_DEQUANTISERS: dict[str, Callable[[bytes], list[float]]] = {
    "Q8_0": _from_q8_0, "Q4_0": _from_q4_0, "Q5_0": _from_q5_0, "Q4_K": _from_q4_k, "Q5_K": _from_q5_k,
    "Q6_K": _from_q6_k,
}  # fmt: skip


def random_blocks(kind: str, count: int, deviation: float, draw: Random) -> Iterator[bytes]:
    """Blocks of random levels under scales for values of this deviation and of mean 0, a piece at a time."""
    size, (places, heads) = BLOCKS[kind][1], _heads(kind, deviation, draw)
    for done in range(0, count, _CHUNK):
        now = min(_CHUNK, count - done)
        data, chosen = bytearray(draw.randbytes(now * size)), draw.randbytes(now)
        for i, place in enumerate(places):
            data[place::size] = chosen.translate(bytes([head[i] for head in heads]))
        yield bytes(data)


def _heads(kind: str, deviation: float, draw: Random) -> tuple[range, list[bytes]]:
    """256 ways to fill those bytes of a block that may not be random, and where they are."""
    if kind in ("F32", "F16", "BF16"):  # sign, exponent and a part of the mantissa; the rest is random
        form, low = {"F32": ("<f", 2), "F16": ("<e", 1), "BF16": ("<f", 2)}[kind]
        heads = [pack(form, deviation * value)[low:] for value in _quantiles(256)]
        return range(BLOCKS[kind][1] - len(heads[0]), BLOCKS[kind][1]), heads
    scales = [deviation * draw.uniform(0.8, 1.2) * draw.choice((-1, 1)) for _ in range(256)]  # levels lean to one side
    if kind in ("Q8_0", "Q4_0", "Q5_0"):
        levels = {"Q8_0": 256, "Q4_0": 16, "Q5_0": 32}[kind]
        return range(2), [pack("<e", scale / (levels / math.sqrt(12))) for scale in scales]
    steps = [[draw.randint(40, 63) for _ in range(16)] for _ in scales]
    if kind == "Q6_K":
        return range(192, 210), [pack("<16be", *step, scale / (52 * 64 / math.sqrt(12)))
                                 for step, scale in zip(steps, scales, strict=True)]  # fmt: skip
    most = {"Q4_K": 15, "Q5_K": 31}[kind]
    found = []
    for step, scale in zip(steps, scales, strict=True):  # a minimum that puts the middle level at 0
        unit = scale / (52 * (most + 1) / math.sqrt(12))
        found.append(pack("<ee", unit, unit * most / 2) + _k_scales(step[:8], step[:8]))
    return range(16), found


def make(
    path: Path,
    shape: str = "tiny",
    kind: str = "F32",
    arch: Arch = "qwen2",
    seed: int = 0,
    tokenizer: str = "bpe",
    rope_freqs: bool = False,
) -> None:
    """Write a model file; what is asked for by name is in SHAPES and KINDS, `tokenizer` is bpe or spm."""
    numbers = shape_of(shape, arch)
    listed = [(name, dims, kind_of(name, dims, kind, numbers)) for name, dims, _, _ in tensors(numbers, arch)]

    def data() -> Iterator[Iterator[bytes]]:
        for (name, dims, mean, deviation), (_, _, stored) in zip(tensors(numbers, arch), listed, strict=True):
            draw, count = Random(f"{seed} {name}"), math.prod(dims)
            if len(dims) == 1 or numbers.vocab < EXACT_LIMIT:
                yield iter([quantise(stored, _floats(count, mean, deviation, draw))])
            else:
                yield random_blocks(stored, count // BLOCKS[stored][0], deviation, draw)
        if rope_freqs:
            yield iter([quantise("F32", rope_factors(numbers))])

    scaled: list[tuple[str, Dims, str]] = [("rope_freqs.weight", (numbers.head_dim // 2,), "F32")]
    write(path, metadata(numbers, arch, kind, tokenizer), listed + scaled * rope_freqs, data())


def write(
    path: Path, values: dict[str, Any], listed: list[tuple[str, Dims, str]], data: Iterator[Iterator[bytes]]
) -> None:
    """Write a GGUF file of version 3: metadata, tensors by name, shape and type, and the pieces of each one's data."""
    numbers, at = {name: number for number, name in TYPES.items()}, 0
    head = b"GGUF" + pack("<IQQ", 3, len(listed), len(values))
    for key, value in values.items():
        number, raw = _value(value)
        head += _text(key) + pack("<I", number) + raw
    for name, dims, kind in listed:
        head += _text(name) + pack(f"<I{len(dims)}QIQ", len(dims), *dims, numbers[kind], at)
        at += _padded(math.prod(dims) // BLOCKS[kind][0] * BLOCKS[kind][1])
    with open(path, "wb") as file:
        file.write(head + bytes(_padded(len(head)) - len(head)))
        for pieces in data:
            for piece in pieces:
                file.write(piece)
            file.write(bytes(_padded(file.tell()) - file.tell()))


def _padded(size: int) -> int:
    return size + -size % ALIGNMENT


def _text(value: str) -> bytes:
    return pack("<Q", len(value.encode())) + value.encode()


def _value(value: Any) -> tuple[int, bytes]:
    """A value as a type and bytes: whole numbers are unsigned alone and signed in a list, as llama.cpp has them."""
    match value:
        case bool():
            return 7, pack("<?", value)
        case int():
            return 4, pack("<I", value)
        case float():
            return 6, pack("<f", value)
        case str():
            return 8, _text(value)
        case [str(), *_]:
            return 9, pack("<IQ", 8, len(value)) + b"".join(map(_text, value))
        case [float(), *_]:
            return 9, pack(f"<IQ{len(value)}f", 6, len(value), *value)
    return 9, pack(f"<IQ{len(value)}i", 5, len(value), *value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="tiny")
    parser.add_argument("--type", choices=KINDS, default="F32")
    parser.add_argument("--arch", choices=("llama", "qwen2", "qwen3"), default="qwen2")
    parser.add_argument("--tokenizer", choices=("bpe", "spm"), default="bpe")
    parser.add_argument("--rope-freqs", action="store_true", help="frequencies scaled as in Llama 3.1 (llama only)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    make(args.out, args.shape, args.type, args.arch, args.seed, args.tokenizer, args.rope_freqs)


if __name__ == "__main__":
    main()
