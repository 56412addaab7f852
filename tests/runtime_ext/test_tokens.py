"""Text to tokens and back: a table by hand, laws by hypothesis, and, if installed, the `tokenizers` library."""

from __future__ import annotations

import json
import random
import unicodedata
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("regex", reason="the extra `llm` is not installed: no regex")

from slipstream.runtime_ext.tokens import _CHARACTERS, _PRES, Decoder, Tokenizer, TokenizerError, _merge

SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "o r", "Ġw or", "a a", "aa aa", "Ã ©", "Ġ Ġ", "l d"]


def byte_level(merges: list[str] = MERGES, pre: str = "qwen2", **keys: Any) -> Tokenizer:
    """Bytes are tokens 0 to 255 in GPT-2's order of characters, then the merges' products, then SPECIALS."""
    tokens = [*_CHARACTERS, *(merge.replace(" ", "") for merge in merges), *SPECIALS]
    control = [3, 3, 3, 4, 4]
    return Tokenizer({
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre, "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * (len(tokens) - 5) + control, "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": len(tokens) - 3, "tokenizer.ggml.bos_token_id": len(tokens) - 5,
    } | {f"tokenizer.ggml.{key}": value for key, value in keys.items()})  # fmt: skip


PIECES = ["▁", "▁h", "he", "▁he", "ll", "▁hell", "o", "▁hello", "h", "e", "l", "w", "▁▁", "é", "▁w", "lo"]
SCORES = [-float(i) for i in range(len(PIECES))]


def pieces(pieces: list[str] = PIECES, scores: list[float] = SCORES, **keys: Any) -> Tokenizer:
    """Tokens 0 to 2 are <unk>, <s>, </s>; then 256 bytes; then the pieces."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return Tokenizer({
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces),
        "tokenizer.ggml.scores": [0.0] * 259 + scores, "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
    } | {f"tokenizer.ggml.{key}": value for key, value in keys.items()})  # fmt: skip


BYTE = {text: i for i, text in enumerate(_CHARACTERS)}
MADE = {merge.replace(" ", ""): 256 + i for i, merge in enumerate(MERGES)}
PIECE = {text: 259 + i for i, text in enumerate(PIECES)}


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("hello", ["hello"]),
        ("hello world", ["hello", "Ġwor", "ld"]),
        ("hell", ["hell"]),
        ("helo", ["he", "l", "o"]),
        ("aaa", ["aa", "a"]),  # of equal ranks the leftmost
        ("aaaaa", ["aaaa", "a"]),
        ("aaaaaaa", ["aaaa", "aa", "a"]),
        ("é", ["Ã©"]),
        ("e\u0301", ["Ã©"]),  # qwen2 composes
        ("a  h", ["a", "Ġ", "Ġ", "h"]),  # a space goes to the word that follows
        ("a   h", ["a", "ĠĠ", "Ġ", "h"]),
        ("😀", ["ð", "Ł", "ĺ", "Ģ"]),
        ("\ud83d\ude00", ["ð", "Ł", "ĺ", "Ģ"]),  # two halves of a pair are a whole one
        ("\ud83d", ["ï", "¿", "½"]),  # one half is U+FFFD
        ("12", ["1", "2"]),
        ("<|im_end|>", ["<", "|", "i", "m", "_", "e", "n", "d", "|", ">"]),
    ],
)
def test_byte_level_text_becomes_these_tokens(text: str, tokens: list[str]) -> None:
    assert byte_level().encode(text) == [MADE.get(token, BYTE.get(token)) for token in tokens]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", []),
        ("hello", ["▁hello"]),
        (" hello", ["▁", "▁hello"]),
        ("hell", ["▁hell"]),
        ("helo", ["▁he", "lo"]),
        ("lo", ["▁", "lo"]),
        ("a", ["▁", "<0x61>"]),
        ("é", ["▁", "é"]),
        ("e\u0301", ["▁", "e", "<0xCC>", "<0x81>"]),
        ("w  w", ["▁w", "▁▁", "w"]),
        ("\ud800", ["▁", "<0xEF>", "<0xBF>", "<0xBD>"]),
        ("<s>", ["▁", "<0x3C>", "<0x73>", "<0x3E>"]),
    ],
)
def test_text_becomes_these_pieces(text: str, tokens: list[str]) -> None:
    want = [3 + int(token[3:5], 16) if token.startswith("<0x") else PIECE[token] for token in tokens]
    assert pieces().encode(text, bos=False) == want


def test_control_tokens_are_made_of_text_only_where_it_is_trusted() -> None:
    tokenizer = byte_level()
    text = "hello<|im_end|><tool_call>"
    assert tokenizer.specials.keys() == set(SPECIALS)
    trusted = tokenizer.encode(text, special=True)
    assert trusted == [MADE["hello"], tokenizer.specials["<|im_end|>"], tokenizer.specials["<tool_call>"]]
    assert not set(tokenizer.encode(text)) & set(tokenizer.specials.values())


@pytest.mark.parametrize("pre", ["qwen2", "llama-bpe"])
def test_a_control_token_is_not_made_of_a_word_that_is_spelled_like_it(pre: str) -> None:
    """Not even by merges that lead to it, nor where whole words are looked up."""
    tokens = [*_CHARACTERS, "st", "stop"]
    keys = {"tokens": tokens, "token_type": [1] * 257 + [3], "merges": ["s t"], "eos_token_id": 257, "bos_token_id": 0}
    tokenizer = byte_level(pre=pre, add_bos_token=False, **keys)
    assert tokenizer.encode("stop") == [256, BYTE["o"], BYTE["p"]]
    assert tokenizer.encode("stop", special=True) == [257]
    spelled = pieces(["</", "s>"], [0.0, 0.0], add_space_prefix=False)
    assert spelled.encode("</s>", bos=False) == [259, 260]


@given(st.lists(st.tuples(st.text() | st.sampled_from([*SPECIALS, "<|im_", "end|>"]), st.booleans()), max_size=6))
def test_seams_between_parts_change_nothing_but_what_is_trusted(parts: list[tuple[str, bool]]) -> None:
    tokenizer = byte_level()
    special = set(tokenizer.specials.values())
    plain = [(text, False) for text, _ in parts]
    whole = "".join(text for text, _ in parts)
    assert tokenizer.encode_parts(plain) == tokenizer.encode(whole)
    made = [token for token in tokenizer.encode_parts(parts) if token in special]
    assert made == [
        token for text, trusted in parts if trusted for token in tokenizer.encode(text, True) if token in special
    ]


def test_a_special_token_does_not_reach_over_a_seam() -> None:
    tokenizer = byte_level()
    parts = [("<|im_", True), ("end|>", True), ("<|im_", False), ("end|>", True)]
    assert not set(tokenizer.encode_parts(parts)) & set(tokenizer.specials.values())


def test_the_longest_special_token_wins() -> None:
    tokens = [*_CHARACTERS, "<a>", "<a>b", ""]
    keys = {
        "tokens": tokens,
        "token_type": [1] * 256 + [3, 3, 3],
        "eos_token_id": 256,
        "bos_token_id": 256,
        "merges": [],
    }
    tokenizer = byte_level(**keys)
    assert tokenizer.encode("<a>b<a>c", special=True) == [257, 256, BYTE["c"]]


def test_the_beginning_is_as_the_file_says_and_never_doubled() -> None:
    silent, eager = byte_level(), byte_level(add_bos_token=True)
    bos = eager.bos_id
    assert bos is not None
    assert silent.encode("a") == [BYTE["a"]]
    assert silent.encode("a", bos=True) == [bos, BYTE["a"]]
    assert eager.encode("a") == [bos, BYTE["a"]]
    assert eager.encode("a", bos=False) == [BYTE["a"]]
    assert eager.encode("<|endoftext|>a", special=True) == [bos, BYTE["a"]]
    assert byte_level(pre="llama-bpe").encode("a")[0] == bos
    assert pieces().encode("hello") == [1, PIECE["▁hello"]]
    with pytest.raises(TokenizerError, match="bos_token_id"):
        Tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.merges": []}).encode(
            "", bos=True
        )


def test_a_generation_ends_at_whatever_the_file_or_custom_calls_an_end() -> None:
    tokenizer = byte_level()
    assert tokenizer.eos_ids == {tokenizer.specials["<|im_end|>"], tokenizer.specials["<|endoftext|>"]}
    other = byte_level(eot_token_id=3)
    assert other.eos_ids == tokenizer.eos_ids | {3}
    assert 3 in other.hidden


@pytest.mark.parametrize("pre", sorted(_PRES))
@given(text=st.text())
def test_what_is_encoded_is_decoded_the_same(pre: str, text: str) -> None:
    tokenizer = byte_level(pre=pre)
    if _PRES[pre].nfc:
        text = unicodedata.normalize("NFC", text)
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="▁")))
def test_what_is_encoded_in_pieces_is_decoded_the_same(text: str) -> None:
    tokenizer = pieces()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize("make", [byte_level, pieces])
@given(data=st.data())
def test_a_decoder_says_the_same_as_all_at_once_and_can_be_handed_over(make: Any, data: st.DataObject) -> None:
    tokenizer = make(add_space_prefix=False)
    tokens = data.draw(st.lists(st.integers(0, tokenizer.size - 1)))
    decoder, said = Decoder(tokenizer), []
    for token in tokens:
        said.append(decoder.feed(token))
        decoder = Decoder(tokenizer, pending=decoder.pending)
    said.append(decoder.flush())
    assert "".join(said) == tokenizer.decode(tokens)


def test_a_decoder_holds_a_character_back_until_it_is_whole_or_wrong() -> None:
    tokenizer = byte_level()
    decoder = Decoder(tokenizer)
    smile = tokenizer.encode("😀")
    assert [decoder.feed(token) for token in smile] == ["", "", "", "😀"]
    assert [decoder.feed(token) for token in [*smile[:2], BYTE["a"]]] == ["", "", "\ufffda"]
    assert [decoder.feed(smile[0]), decoder.flush()] == ["", "\ufffd"]
    end = tokenizer.specials["<|im_end|>"]
    assert decoder.feed(end) == ""
    assert Decoder(tokenizer, special=True).feed(end) == "<|im_end|>"


def test_pieces_are_the_bytes_that_tokens_stand_for() -> None:
    tokenizer = byte_level()
    vocabulary = tokenizer.vocabulary
    assert sorted(vocabulary.pieces[:256]) == [bytes([byte]) for byte in range(256)]
    assert vocabulary.pieces[MADE["Ġwor"]] == b" wor"
    assert vocabulary.pieces[-1] == b"</tool_call>"
    assert vocabulary.special == {tokenizer.specials[text] for text in SPECIALS[:3]}
    assert pieces().piece(3 + 0xE9) == b"\xe9"
    assert pieces().piece(PIECE["▁hello"]) == b" hello"
    for token in (-1, tokenizer.size):
        with pytest.raises(IndexError):
            tokenizer.piece(token)


@given(
    st.text("ab", max_size=40),
    st.lists(st.text("ab", min_size=2, max_size=5), unique=True, max_size=12),
    st.sampled_from(["", " "]),
)
def test_merging_by_a_heap_is_merging_by_looking_at_all_pairs_each_time(text: str, made: list[str], joint: str) -> None:
    pairs = [(word[:i], word[i:]) for word in made for i in range(1, len(word))]
    ranks = {left + joint + right: i // 2 for i, (left, right) in enumerate(pairs)}
    slow = list(text)
    while best := min(
        ((ranks[key], i) for i in range(len(slow) - 1) if (key := slow[i] + joint + slow[i + 1]) in ranks), default=None
    ):
        slow[best[1] : best[1] + 2] = [slow[best[1]] + slow[best[1] + 1]]
    assert _merge(list(text), ranks, joint) == slow


def test_a_pair_that_has_changed_waits_for_its_new_rank() -> None:
    ranks = {"y z": 0, "x y": 1, "w x": 2, "x yz": 3}
    assert _merge(list("wxyz"), ranks, " ") == ["wx", "yz"]


def test_a_word_that_is_a_token_stays_whole_where_llama_3_keeps_it() -> None:
    keys = {
        "tokens": [*_CHARACTERS, "xyz"],
        "token_type": [1] * 257,
        "merges": [],
        "eos_token_id": 0,
        "bos_token_id": 0,
    }
    assert byte_level(pre="llama-bpe", **keys).encode("xyz", bos=False) == [256]
    assert byte_level(pre="qwen2", **keys).encode("xyz") == [BYTE["x"], BYTE["y"], BYTE["z"]]


def test_words_of_pieces_are_cut_only_where_no_token_reaches_over() -> None:
    joined = pieces([*PIECES, "o▁", "o▁w"], [*SCORES, 2.0, 1.0])
    assert joined.encode("hello w", bos=False) == [PIECE["▁hell"], joined.tokens.index("o▁w")]


def test_a_word_of_a_hundred_thousand_letters_is_merged() -> None:
    tokens = byte_level().encode("a" * 100_001)
    assert tokens == [MADE["aaaa"]] * 25_000 + [BYTE["a"]]
    assert pieces().encode("h" * 50_000, bos=False)[1:] == [PIECE["h"]] * 49_999


@pytest.mark.parametrize(
    ("keys", "what"),
    [
        ({"model": "wordpiece"}, "tokenizer.ggml.model: 'wordpiece' is not supported; supported: gpt2, llama"),
        ({"model": 5}, "model: 5 is no str"),
        ({"pre": "kimi-k2"}, "pre: the pre-tokenizer 'kimi-k2' is not supported; supported: deepseek-r1-qwen, "),
        ({"tokens": []}, "tokens: there are no tokens"),
        ({"tokens": ["a", 5]}, "tokens: not all of it is str"),
        ({"token_type": [1]}, "token_type: 1 values for 273 tokens"),
        ({"token_type": [3] * 273, "tokens": ["a"] * 273}, None),
        ({"eos_token_id": 273}, "eos_token_id: 273 is no id of the 273 tokens"),
        ({"bos_token_id": -1}, "bos_token_id: -1 is no id"),
        ({"add_bos_token": 1}, "add_bos_token: 1 is no bool"),
    ],
)
def test_a_vocabulary_that_makes_no_sense_is_refused_with_its_key(keys: dict[str, Any], what: str | None) -> None:
    if what is None:
        assert byte_level(**keys).encode("", bos=False) == []
        return
    with pytest.raises(TokenizerError) as caught:
        byte_level(**keys)
    assert what in str(caught.value)


def test_what_is_lacking_is_said_when_it_is_needed() -> None:
    unmerged = byte_level([*MERGES])
    unmerged.tokens[MADE["aa"]] = "gone"
    with pytest.raises(TokenizerError, match="'aa' is made of bytes or merges, but is no token"):
        unmerged.encode("aa")
    with pytest.raises(TokenizerError, match="merges: missing"):
        Tokenizer({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.tokens": ["a"]}).encode("a")
    bare = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": ["a"], "tokenizer.ggml.scores": [0.0],
            "tokenizer.ggml.add_bos_token": False}  # fmt: skip
    with pytest.raises(TokenizerError, match="has no token"):
        Tokenizer(bare).encode("b")
    assert Tokenizer({**bare, "tokenizer.ggml.unknown_token_id": 0}).encode("b") == [0, 0]
    many = 10_001
    with pytest.raises(TokenizerError, match="10001 are control or user tokens; at most 10000"):
        byte_level(tokens=[f"<{i}>" for i in range(many)], token_type=[3] * many)


# The oracle

CORPUS = [
    "The car is at 80 % and needs 24 min to charge; it's 12,345.67 km from home. We'll see, I'd say, they're fine.",
    "def __init__(self, value: int = 0) -> None:\n    if not value:\n\t\treturn\r\n\n\n    self._x[value] += 1\n",
    "Das Fährgeschäft läuft über Köln nach Zürich, ça va très bien, señor, naïve café, Ångström, smörgåsbord.",
    "Привет, как дела? Сегодня хорошая погода. Українська мова. Добър ден, здравей.",
    "你好,世界。今天天气很好,我们去公园散步吧。東京の天気は晴れです。カタカナとひらがな。안녕하세요 세계.",
    "مرحبا بالعالم، كيف حالك؟ שלום עולם, מה שלומך? नमस्ते दुनिया, आप कैसे हैं? สวัสดีชาวโลก",
    "😀👩‍👩‍👧‍👦🏳️‍🌈👍🏽 ①②③ ½ ⅷ ٣٤٥ e\u0301 o\u0308 ﬁ \u200d\u200b\ufeff\u00a0\u2028\u3000x",
    "{\"name\": \"nav.route\", \"arguments\": {\"to\": \"home\", \"via\": [1.5, -2e10, null, true]}}",
    "   leading\n \n  mixed \r\n\r\r\n\t tabs  \n", "1234567890123456789012345678901",
    "I'LL DON'T we'Re 'sS 'ſt ''''s x'",
]  # fmt: skip
ODD = [
    chr(c) for c in (0, 9, 10, 13, 32, 0x85, 0xA0, 0x300, 0x301, 0x17F, 0x200D, 0x2028, 0x3000, 0xFE0F, 0xFEFF, 0x1F468)
]
assigned = st.characters(exclude_categories=["Cs", "Cn", "Co"])
tricky = st.lists(
    st.sampled_from([*"aZé1٣½一ひ가Aक'’!?<|>_-", "'s", "'LL", "  ", "\r\n", *ODD, *SPECIALS]) | assigned, max_size=30
).map("".join)


@cache
def oracle(pre: str) -> tuple[Any, Tokenizer]:
    """A vocabulary trained on the corpus by `tokenizers` with this pre-tokenizer, and ours of the same."""
    lib = pytest.importorskip("tokenizers", reason="the oracle `tokenizers` is not installed")
    ours = _PRES[pre]
    made = lib.Tokenizer(lib.models.BPE(ignore_merges=ours.whole))
    if ours.nfc:
        made.normalizer = lib.normalizers.NFC()
    splits = [lib.pre_tokenizers.Split(lib.Regex(stage), "isolated") for stage in ours.stages]
    if pre == "smollm":
        splits = [lib.pre_tokenizers.Digits(individual_digits=True)]
    by_bytes = lib.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("smollm", "gpt-2", "default"))
    if pre in ("gpt-2", "default"):
        splits = []
    made.pre_tokenizer = lib.pre_tokenizers.Sequence([*splits, by_bytes])
    made.decoder = lib.decoders.ByteLevel()
    alphabet = lib.pre_tokenizers.ByteLevel.alphabet()
    trainer = lib.trainers.BpeTrainer(vocab_size=900, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(CORPUS * 2, trainer)
    made.add_special_tokens([lib.AddedToken(text, special=True) for text in SPECIALS])
    return made, Tokenizer(_metadata_of(made) | {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": pre})


def _metadata_of(made: Any) -> dict[str, Any]:
    model = json.loads(made.to_str())["model"]
    vocabulary = sorted(made.get_vocab(with_added_tokens=True).items(), key=lambda item: item[1])
    tokens = [text for text, _ in vocabulary]
    return {
        "tokenizer.ggml.tokens": tokens, "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        "tokenizer.ggml.token_type": [3 if text in SPECIALS else 1 for text in tokens],
        "tokenizer.ggml.add_bos_token": False,
    }  # fmt: skip


@pytest.mark.parametrize("pre", sorted(_PRES))
def test_the_corpus_is_the_same_tokens_as_the_oracles(pre: str) -> None:
    lib, ours = oracle(pre)
    rng = random.Random(5)
    for text in [
        *CORPUS,
        "\n".join(CORPUS),
        *(f"{text}{special} {text[:9]}" for text in CORPUS for special in SPECIALS),
    ]:
        shuffled = "".join(rng.sample(text, len(text)))
        for candidate in (text, text[::-1], shuffled, unicodedata.normalize("NFD", text)):
            assert ours.encode(candidate, special=True) == lib.encode(candidate, add_special_tokens=False).ids


@pytest.mark.parametrize("pre", sorted(_PRES))
@settings(deadline=None)
@given(text=tricky)
def test_any_text_is_the_same_tokens_as_the_oracles(pre: str, text: str) -> None:
    lib, ours = oracle(pre)
    assert ours.encode(text, special=True) == lib.encode(text, add_special_tokens=False).ids
    tokens = ours.encode(text, special=True)
    assert ours.decode(tokens) == lib.decode(tokens, skip_special_tokens=True)


@cache
def piece_oracle() -> tuple[Any, Tokenizer]:
    """A vocabulary of pieces with bytes to fall back to, as Llama 2's: the library's by merges, ours by scores."""
    lib = pytest.importorskip("tokenizers", reason="the oracle `tokenizers` is not installed")
    made = lib.Tokenizer(lib.models.BPE())
    made.normalizer = lib.normalizers.Sequence([lib.normalizers.Prepend("▁"), lib.normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = lib.pre_tokenizers.Split(lib.Regex("▁*[^▁]+|▁+"), "isolated")
    made.train_from_iterator(CORPUS[:5] * 2, lib.trainers.BpeTrainer(vocab_size=600, show_progress=False))
    learned = [text for text, _ in sorted(made.get_vocab().items(), key=lambda item: item[1])]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocabulary = {text: i for i, text in enumerate(tokens)}
    rank = {text: i for i, text in enumerate(learned)}
    pairs = [
        (text[:i], text[i:]) for text in learned for i in range(1, len(text)) if {text[:i], text[i:]} <= rank.keys()
    ]
    pairs.sort(key=lambda pair: rank["".join(pair)])
    theirs = lib.Tokenizer(
        lib.models.BPE(vocabulary, pairs, unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=False)
    )
    theirs.normalizer = made.normalizer
    theirs.add_special_tokens([lib.AddedToken(text, special=True, normalized=False) for text in tokens[:3]])
    ours = pieces(learned, [-float(i) for i in range(len(learned))], add_bos_token=False)
    return theirs, ours


@settings(deadline=None)
@given(text=tricky | st.sampled_from(CORPUS) | st.permutations(CORPUS).map(" ".join))
def test_any_text_is_the_same_pieces_as_the_oracles(text: str) -> None:
    theirs, ours = piece_oracle()
    for candidate in (text, text + "</s> " + text[:5]):
        assert ours.encode(candidate, special=True) == theirs.encode(candidate, add_special_tokens=False).ids
