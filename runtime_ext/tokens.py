"""Text to tokens and back, by the vocabulary that a model file carries: byte-level BPE and SentencePiece-BPE.

Laws: text becomes a control token only where the caller says that it may (`special`); a person's words never do. Tokens
are those of the `tokenizers` library for the same vocabulary. Any text is taken, at O(n log n): half a surrogate pair,
which no UTF-8 has, counts as U+FFFD. What is not needed to open a model is built when it is.

Source: Sennrich et al. 2016 (BPE); github.com/google/sentencepiece; github.com/ggml-org/ggml, docs/gguf.md (keys).
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from heapq import heapify, heappop, heappush
from itertools import chain, compress, pairwise
from typing import Any, Final

try:
    import regex
except ImportError as error:  # pragma: no cover
    raise ImportError("tokenizers need the package regex; run: pip install 'slipstream-mesh[llm]'") from error

NORMAL: Final = 1  # the kinds of `token_type`
UNKNOWN: Final = 2
CONTROL: Final = 3
USER: Final = 4
UNUSED: Final = 5
BYTE: Final = 6
SPECIALS_LIMIT: Final = 10_000
"""Control and user-defined tokens that a vocabulary may have."""

_WORDS_KEPT: Final = 1 << 15
_WORD_KEPT: Final = 64
"""Words that are remembered, and the longest of them, in characters."""
_SPACE: Final = "▁"
_BYTE_NAME: Final = re.compile("<0x([0-9A-Fa-f]{2})>")
_ENDS: Final = (
    "<|im_end|>", "<|endoftext|>", "<|eot_id|>", "<|eom_id|>", "<|end_of_text|>", "<|end|>", "<|return|>", "<|call|>",
    "<end_of_turn>", "</s>", "<EOT>", "<|END_OF_TURN_TOKEN|>", "<|end_of_turn|>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Pre:
    """How text is cut into words before any merge: expressions, each cutting what the last one left."""

    stages: tuple[str, ...]
    nfc: bool = False
    whole: bool = False  # a word that is a token stays one, whatever the merges make of it
    bos: bool = False


_ENDINGS: Final = r"'s|'t|'re|'ve|'m|'ll|'d"
_SPACES: Final = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2: Final = rf"{_ENDINGS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+"
_QWEN2: Final = (
    rf"(?i:{_ENDINGS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
)  # fmt: skip
_PRES: Final[Mapping[str, _Pre]] = {
    "default": _Pre((_GPT2,)),
    "gpt-2": _Pre((_GPT2,)),
    "smollm": _Pre((r"\p{N}", _GPT2)),
    "qwen2": _Pre((_QWEN2,), nfc=True),
    "deepseek-r1-qwen": _Pre((_QWEN2,), nfc=True, bos=True),
    "qwen35": _Pre((
        rf"(?i:{_ENDINGS})|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
        rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
    ), nfc=True),
    "llama-bpe": _Pre((_QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|"),), whole=True, bos=True),
    "deepseek-v3": _Pre((
        r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
        r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
        rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}",
    ), bos=True),
}  # fmt: skip
_ALIASES: Final = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What constrained decoding needs: the bytes of every token by id, and the ids that stand for no text."""

    pieces: list[bytes]
    special: frozenset[int]


class TokenizerError(ValueError):
    """A vocabulary that cannot be used: what is wrong, in which key of the file."""

    def __init__(self, what: str, key: str) -> None:
        super().__init__(f"tokenizer.ggml.{key}: {what}")
        self.what, self.key = what, key


def _byte_characters() -> list[str]:
    """The character that stands for each byte in a byte-level vocabulary: itself where it can be printed (GPT-2)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


_CHARACTERS: Final = _byte_characters()
_TO_CHARACTERS: Final = dict(enumerate(_CHARACTERS))
_TO_BYTES: Final = {ord(character): byte for byte, character in enumerate(_CHARACTERS)}


def _merge(parts: list[str], ranks: Mapping[str, int], joint: str) -> list[str]:
    """Join neighbours while any pair (`left + joint + right`) has a rank: lowest rank first, then leftmost.

    A candidate is one integer, rank × n + place. One that is no longer true has another rank now, and is passed over.
    """
    n = len(parts)
    rank_of = ranks.get
    heap = [rank * n + i for i, pair in enumerate(pairwise(parts))
            if (rank := rank_of(joint.join(pair))) is not None]  # fmt: skip
    if not heap:
        return parts
    heapify(heap)
    after, before = list(range(1, n + 1)), list(range(-1, n - 1))
    while heap:
        rank, i = divmod(heappop(heap), n)
        left, j = parts[i], after[i]
        if not left or j == n or rank_of(left + joint + parts[j]) != rank:
            continue
        parts[i] = joined = left + parts[j]
        parts[j] = ""
        after[i] = k = after[j]
        if k < n:
            before[k] = i
            if (rank_right := rank_of(joined + joint + parts[k])) is not None:
                heappush(heap, rank_right * n + i)
        if (h := before[i]) >= 0 and (rank_left := rank_of(parts[h] + joint + joined)) is not None:
            heappush(heap, rank_left * n + h)
    return [part for part in parts if part]


class _Words(dict[str, list[int]]):
    """The tokens of words: short ones are kept for the next time."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self._word = tokenizer._byte_word if tokenizer.byte_level else tokenizer._piece_word

    def __missing__(self, word: str) -> list[int]:
        tokens = self._word(word)
        if len(word) <= _WORD_KEPT:
            if len(self) >= _WORDS_KEPT:
                self.clear()
            self[word] = tokens
        return tokens


class Tokenizer:
    """The tokenizer of a model file, made from its metadata (`tokenizer.ggml.*`).

    Properties:
        tokens: the vocabulary as the file has it; `size` of them.
        specials: ids of control and user-defined tokens, by their text: what `special` makes of text.
        hidden: ids that are no text when they are generated (control, unknown and unused tokens).
        bos_id, eos_id: as the file names them, or None.
        eos_ids: every id that ends a generation.

    Raises:
        TokenizerError: a key is missing or makes no sense, or names a tokenizer that is not spoken here.
    """

    def __init__(self, metadata: Mapping[str, Any]) -> None:
        self._metadata = metadata
        model = self._get("model", str)
        if model not in ("gpt2", "llama"):
            raise TokenizerError(f"{model!r:.80} is not supported; supported: gpt2, llama", "model")
        self.byte_level = model == "gpt2"
        self.tokens: list[str] = self._list("tokens", str)
        self.size = len(self.tokens)
        if not self.size:
            raise TokenizerError("there are no tokens", "tokens")
        types = self._list("token_type", int, [NORMAL] * self.size)
        self._pre = self._find_pre()
        self.bos_id = self._id("bos_token_id")
        self.eos_id = self._id("eos_token_id")
        ends = [end for end in (self.eos_id, self._id("eot_token_id"), self._id("eom_token_id")) if end is not None]
        named = ends if self.bos_id is None else [*ends, self.bos_id]
        self._odd = {i: kind for i, kind in enumerate(types) if kind != NORMAL} | dict.fromkeys(named, CONTROL)
        self.specials = {
            text: i for i, kind in self._odd.items() if kind in (CONTROL, USER) and (text := self.tokens[i])
        }
        if len(self.specials) > SPECIALS_LIMIT:
            raise TokenizerError(
                f"{len(self.specials)} are control or user tokens; at most {SPECIALS_LIMIT}", "token_type"
            )
        self.hidden = frozenset(i for i, kind in self._odd.items() if kind in (CONTROL, UNKNOWN, UNUSED))
        self.eos_ids = frozenset(ends) | {self.specials[end] for end in _ENDS if end in self.specials}
        self.add_bos = self._get("add_bos_token", bool, self._pre.bos or not self.byte_level)
        self._prefix = not self.byte_level and self._get("add_space_prefix", bool, True)

    # Reading the file's keys

    def _get(self, key: str, kind: type, default: Any = None) -> Any:
        value = self._metadata.get(f"tokenizer.ggml.{key}", default)
        if type(value) is not kind:
            raise TokenizerError("missing" if value is None else f"{value!r:.80} is no {kind.__name__}", key)
        return value

    def _list(self, key: str, kind: type, default: Any = None) -> Any:
        values = self._get(key, list, default)
        if not set(map(type, values)) <= {kind}:
            raise TokenizerError(f"not all of it is {kind.__name__}", key)
        if key in ("token_type", "scores") and len(values) != self.size:
            raise TokenizerError(f"{len(values)} values for {self.size} tokens", key)
        return values

    def _id(self, key: str) -> int | None:
        if f"tokenizer.ggml.{key}" not in self._metadata:
            return None
        value: int = self._get(key, int)
        if not 0 <= value < self.size:
            raise TokenizerError(f"{value} is no id of the {self.size} tokens", key)
        return value

    def _find_pre(self) -> _Pre:
        if not self.byte_level:
            return _Pre(())
        name = self._get("pre", str, "default")
        pre = _PRES.get(_ALIASES.get(name, name))
        if pre is None:
            known = ", ".join(sorted([*_PRES, *_ALIASES]))
            raise TokenizerError(f"the pre-tokenizer {name!r:.80} is not supported; supported: {known}", "pre")
        return pre

    # What is built when it is first needed

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Ids by text, of what ordinary text may become."""
        ordinary = bytearray(b"\1") * self.size
        for i in self._odd:
            ordinary[i] = 0
        return dict(compress(zip(self.tokens, range(self.size), strict=True), ordinary))

    @cached_property
    def _ranks(self) -> Mapping[str, int]:
        if self.byte_level:
            merges = self._list("merges", str)
            return dict(zip(merges, range(len(merges)), strict=True))
        scores = self._list("scores", float)
        ids = self._ids
        order = {score: rank for rank, score in enumerate(sorted({scores[i] for i in ids.values()}, reverse=True))}
        return {text: order[scores[i]] for text, i in ids.items()}

    @cached_property
    def _words(self) -> _Words:
        return _Words(self)

    @cached_property
    def _stages(self) -> list[Any]:
        """Expressions whose `split` gives the words with what lies between them; nothing of the text is lost."""
        if self.byte_level:
            return [regex.compile(f"({stage})") for stage in self._pre.stages]
        if any(_SPACE in text.lstrip(_SPACE) for text in self._ids):
            return []  # tokens reach over the ends of words, so that there are none
        return [regex.compile(f"({_SPACE}*[^{_SPACE}]+)")]

    @cached_property
    def _special(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, sorted(self.specials, key=len, reverse=True))) or "(?!)")

    # Text to tokens

    def encode(self, text: str, special: bool = False, bos: bool | None = None) -> list[int]:
        """The tokens of a text; with `special`, control and user-defined tokens in it are what they say.

        `bos`: whether it begins with the token for that (None: as the file says); never twice.

        Raises:
            TokenizerError: the vocabulary lacks what is needed.
        """
        return self.encode_parts([(text, special)], bos)

    def encode_parts(self, parts: Iterable[tuple[str, bool]], bos: bool | None = None) -> list[int]:
        """The tokens of a text of which only some parts are to be trusted: pairs of text and `special`, as in `encode`.

        A special token lies within one trusted part. All the rest is tokenized as if there were no seams, so that text
        without control tokens comes to the same tokens, however it is cut.
        """
        tokens: list[int] = []
        plain: list[str] = []
        for text, special in parts:
            at = 0
            if special:
                for found in self._special.finditer(text):
                    plain.append(text[at : found.start()])
                    tokens += self._plain("".join(plain))
                    plain.clear()
                    tokens.append(self.specials[found[0]])
                    at = found.end()
            plain.append(text[at:])
        tokens += self._plain("".join(plain))
        if bos if bos is not None else self.add_bos and self.bos_id is not None:
            if self.bos_id is None:
                raise TokenizerError("missing, so that nothing can begin with it", "bos_token_id")
            if tokens[:1] != [self.bos_id]:
                tokens.insert(0, self.bos_id)
        return tokens

    def _plain(self, text: str) -> list[int]:
        """The tokens of ordinary text: words, each for itself."""
        if not text:
            return []
        if not text.isascii():
            text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            if self._pre.nfc:
                text = unicodedata.normalize("NFC", text)
        if not self.byte_level:
            text = (_SPACE if self._prefix else "") + text.replace(" ", _SPACE)
        words = [text]
        for stage in self._stages:
            words = [word for piece in words for word in stage.split(piece) if word]
        return list(chain.from_iterable(map(self._words.__getitem__, words)))

    def _byte_word(self, word: str) -> list[int]:
        ids = self._ids
        characters = word.encode().decode("latin-1").translate(_TO_CHARACTERS)
        if self._pre.whole and characters in ids:
            return [ids[characters]]
        try:
            return [ids[part] for part in _merge(list(characters), self._ranks, " ")]
        except KeyError as error:
            raise TokenizerError(
                f"{error.args[0]!r:.80} is made of bytes or merges, but is no token", "tokens"
            ) from None

    def _piece_word(self, word: str) -> list[int]:
        ids = self._ids
        tokens: list[int] = []
        for part in _merge(list(word), self._ranks, ""):
            if part in ids:
                tokens.append(ids[part])
            else:
                tokens += self._fallback(part)
        return tokens

    def _fallback(self, character: str) -> list[int]:
        """A character that is no token: its bytes, or the unknown token."""
        found = [self._bytes.get(byte) for byte in character.encode()]
        tokens = [token for token in found if token is not None]
        if len(tokens) == len(found):
            return tokens
        if self._unknown is None:
            raise TokenizerError(f"{character!r} has no token, nor have its bytes", "tokens")
        return [self._unknown]

    @cached_property
    def _unknown(self) -> int | None:
        return self._id("unknown_token_id")

    @cached_property
    def _bytes(self) -> dict[int, int]:
        """Ids of the tokens that are single bytes."""
        return {piece[0]: i for i, kind in self._odd.items() if kind == BYTE and len(piece := self.piece(i)) == 1}

    # Tokens to text

    def piece(self, token: int) -> bytes:
        """The bytes of one token; of a control token, its name.

        Raises:
            IndexError: there is no such token.
        """
        if token < 0:
            raise IndexError(f"{token} is no token")
        text, kind = self.tokens[token], self._odd.get(token, NORMAL)
        if kind == BYTE and (byte := _BYTE_NAME.fullmatch(text)):
            return bytes([int(byte[1], 16)])
        if kind not in (NORMAL, BYTE):
            return text.encode("utf-8", "surrogateescape")
        if not self.byte_level:
            return text.replace(_SPACE, " ").encode("utf-8", "surrogateescape")
        try:
            return text.translate(_TO_BYTES).encode("latin-1")
        except UnicodeEncodeError:  # a token that was added as it is written
            return text.encode("utf-8", "surrogateescape")

    @property
    def vocabulary(self) -> Vocabulary:
        """All pieces, made anew at each call: whoever builds a grammar's trie of them keeps that."""
        return Vocabulary([self.piece(token) for token in range(self.size)], self.hidden)

    def decode(self, tokens: Iterable[int], special: bool = False) -> str:
        """The text of tokens, without what is hidden unless `special` shows it; bytes that are no UTF-8 are U+FFFD."""
        pieces = [self.piece(token) for token in tokens if special or token not in self.hidden]
        text = b"".join(pieces).decode("utf-8", "replace")
        return text.removeprefix(" ") if self._prefix else text


class Decoder:
    """Tokens to text as they come, never a part of a character: what is not whole yet is held back.

    `pending` are the bytes held back: a decoder made with them goes on where another one was.
    """

    __slots__ = ("_special", "_tokenizer", "_utf8")

    def __init__(self, tokenizer: Tokenizer, special: bool = False, pending: bytes = b"") -> None:
        self._tokenizer, self._special = tokenizer, special
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        self._utf8.setstate((pending, 0))

    @property
    def pending(self) -> bytes:
        return self._utf8.getstate()[0]

    def feed(self, token: int) -> str:
        """The text that is certain now. Hidden tokens give none, unless `special` was asked for."""
        if token in self._tokenizer.hidden and not self._special:
            return ""
        return self._utf8.decode(self._tokenizer.piece(token))

    def flush(self) -> str:
        """What is left at the end: U+FFFD for a character that was never finished."""
        return self._utf8.decode(b"", True)
