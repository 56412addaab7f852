"""Constrained decoding: which tokens may come next, for the text to be what a JSON schema or a grammar describes.

Laws: a grammar's state is the tokens that it has accepted, and nothing else, so it moves by accepting them again. A
schema that nothing satisfies, or with a keyword that is not spoken here, is refused before anything runs. What a schema
leaves open stays open: who wants an end bounds strings (`maxLength`) and arrays (`maxItems`).

Between the tokens of JSON there is no white space: a model that may write some can write it for ever. Where only one
text can follow, its tokens are forced, as the tokenizer would cut that text; the mask allows them alone, too.

Source: llguidance (github.com/guidance-ai/llguidance), Earley's parser over derivatives of regular expressions.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal
from weakref import WeakKeyDictionary, ref

from .tokens import Tokenizer

Kind = Literal["schema", "lark", "regex"]
TEXT_LIMIT: Final = 256 * 1024
"""Characters of a schema or grammar."""


class GrammarError(ValueError):
    """A grammar that cannot be used: what is wrong, and what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}; {hint}" if hint else what)
        self.what, self.hint = what, hint


class _Vocabulary:
    """The vocabulary as llguidance wants to see it. It keeps this object, so this one keeps nothing large."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        if not tokenizer.eos_ids:
            raise GrammarError("the vocabulary has no token that ends a text", "generate without a grammar")
        vocabulary = tokenizer.vocabulary
        self.tokens, self.special_token_ids = vocabulary.pieces, sorted(vocabulary.special)
        self.eos_token_id, self.bos_token_id = min(tokenizer.eos_ids), tokenizer.bos_id
        self._tokenizer = ref(tokenizer)

    def __call__(self, text: str) -> list[int]:
        tokenizer = self._tokenizer()
        assert tokenizer is not None  # a grammar holds it
        return tokenizer.encode(text, bos=False)


_tries: Final[WeakKeyDictionary[Tokenizer, Any]] = WeakKeyDictionary()


def _library() -> Any:
    try:
        import llguidance
    except ImportError:
        raise GrammarError(
            "constrained decoding needs the library llguidance", "run: pip install 'slipstream-mesh[llm]'"
        ) from None
    return llguidance


def _trie(tokenizer: Tokenizer) -> Any:
    """The trie of a vocabulary, made once: about a second for 151,000 tokens."""
    library = _library()
    if (found := _tries.get(tokenizer)) is None:
        vocabulary = _Vocabulary(tokenizer)
        found = _tries[tokenizer] = library.LLTokenizer(vocabulary, eos_token=sorted(tokenizer.eos_ids))
        del vocabulary.tokens, vocabulary.special_token_ids
    return found


def prepare(tokenizer: Tokenizer) -> None:
    """Make now what the first grammar of a vocabulary would wait for; from a thread, if somebody else is waiting.

    Raises:
        GrammarError: llguidance is missing, or the vocabulary has no end.
    """
    _trie(tokenizer)


class Grammar:
    """What text may be, and how far it is: one generation's, from its first token on.

    `kind` and `text` say what it was made of: `Grammar(tokenizer, kind, text)` and `accept` bring it back elsewhere.

    Raises:
        GrammarError: the text is no grammar, nothing satisfies it, or llguidance is missing.
    """

    __slots__ = ("_matcher", "_tokenizer", "_words", "kind", "text")

    def __init__(self, tokenizer: Tokenizer, kind: Kind, text: str) -> None:
        trie, matcher = _trie(tokenizer), _library().LLMatcher
        if len(text) > TEXT_LIMIT:
            raise GrammarError(f"the {kind} has {len(text)} characters; at most {TEXT_LIMIT} are read")
        self.kind, self.text, self._tokenizer = kind, text, tokenizer
        try:
            match kind:
                case "schema":
                    grammar = matcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
                case "lark":
                    grammar = matcher.grammar_from_lark(text)
                case "regex":
                    grammar = matcher.grammar_from_regex(text)
                case _:
                    raise GrammarError(f"{kind!r:.60} is no kind of grammar")
        except ValueError as error:
            raise GrammarError(f"the {kind} cannot be read: {error!s:.300}") from None
        self._matcher = matcher(trie, grammar, log_level=0)
        self._words = (trie.vocab_size + 31) // 32
        if self._matcher.is_error():
            raise GrammarError(*_explained(kind, self._matcher.get_error()))
        if self.done and not self.whole:
            raise GrammarError(f"no text fits the {kind}")

    @classmethod
    def of_schema(cls, tokenizer: Tokenizer, schema: Mapping[str, Any]) -> Grammar:
        """JSON values that fit a schema, keys in the order of its properties.

        Raises:
            GrammarError: as the class says.
        """
        try:
            return cls(tokenizer, "schema", json.dumps(schema))
        except (TypeError, RecursionError) as error:
            raise GrammarError(f"the schema is no JSON: {error!s:.300}") from None

    @classmethod
    def of_lark(cls, tokenizer: Tokenizer, text: str) -> Grammar:
        """What a grammar in llguidance's dialect of Lark describes, from its rule `start`."""
        return cls(tokenizer, "lark", text)

    @classmethod
    def of_regex(cls, tokenizer: Tokenizer, text: str) -> Grammar:
        """What matches a regular expression (of Rust's crate regex) as a whole."""
        return cls(tokenizer, "regex", text)

    def fill(self, mask: array[int]) -> None:
        """Write which tokens may be next: one bit a token, the lowest first; words behind the vocabulary stay.

        `mask`: an array of type `I`, of at least as many bits as there are tokens; none is set at a dead end.

        Raises:
            GrammarError: the text so far is too complex for llguidance's limits.
        """
        address, length = mask.buffer_info()
        if length < self._words or mask.itemsize != 4:
            raise GrammarError(f"a mask of {length} words is too short; {self._words} are needed")
        self._matcher.unsafe_compute_mask_ptr(address, 4 * self._words)
        if self._matcher.is_error() and self._matcher.get_error().startswith("NoExtension"):
            mask[: self._words] = array("I", bytes(4 * self._words))
        else:
            self._check()

    def forced(self) -> list[int]:
        """The tokens that come next because nothing else can; none where there is a choice."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        return tokens

    def accept(self, tokens: Sequence[int]) -> None:
        """Go on by tokens.

        Raises:
            GrammarError: they do not fit; this grammar is of no more use.
        """
        if not self._matcher.consume_tokens(tokens):
            self._check()

    def admits(self, tokens: list[int]) -> int:
        """How many of these tokens could come next; nothing is changed."""
        return int(self._matcher.validate_tokens(tokens))

    @property
    def done(self) -> bool:
        """Nothing can follow."""
        return bool(self._matcher.is_stopped())

    @property
    def whole(self) -> bool:
        """The text may end here."""
        return bool(self._matcher.is_accepting())

    def _check(self) -> None:
        if self._matcher.is_error():
            said = self._matcher.get_error().partition("\n")[0]  # below that line its state is printed
            raise GrammarError(f"the text does not go on by the {self.kind}: {said:.300}")


def _explained(kind: Kind, error: str) -> tuple[str, str]:
    """What is wrong with a grammar, and what to do."""
    said = " ".join(error.split())[:300]
    if said.startswith("Unsatisfiable schema"):
        return f"nothing fits the schema: {said.partition(': ')[2]}", ""
    if said.startswith("Unimplemented keys"):
        return f"the schema has keywords that are not supported: {said.partition(': ')[2]}", "leave them out"
    return f"the {kind} cannot be used: {said}", ""
