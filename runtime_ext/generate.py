"""A generation: from a prompt to the end of the answer, as an iterator of pieces of text.

Laws: what is generated depends on the model, the prompt, the options and the seed only: not on what the session held
before, on drafts, or on where it was cut and gone on with. Every token that is sampled draws from the session's
generator once, and a forced one never, so that a draft which is right is found to be so by the very draws that would
have been made without it. Text is given once it is certain: no part of a character, nothing of what may become a stop
string.

What is still to be taken in (`_pending`) and the session's tokens are together all tokens: before the first piece that
is the rest of the prompt, later the last token, and what a grammar forces after it.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from threading import Timer
from time import monotonic, perf_counter
from types import NoneType
from typing import Any, Final, Literal, NamedTuple, get_args

from .draft import DRAFT, Lookup, Worth
from .grammar import Grammar, GrammarError
from .model import Session, Stopped
from .tokens import Decoder, Tokenizer

Reason = Literal["stop", "length", "eos", "cancelled", "context", "deadline", "dead end"]
VERSION: Final = 2
"""Of what `Generation.state` holds."""
CHUNK: Final = 128
"""Tokens of a prompt between two looks at the clock: as many as the model takes through its layers at once."""
STOPS_LIMIT: Final = 16
STOP_LIMIT: Final = 256
"""Characters of a stop string."""


class GenerateError(ValueError):
    """A generation that cannot begin or go on: what is wrong, and what to do about it."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(f"{what}; {hint}" if hint else what)
        self.what, self.hint = what, hint


@dataclass(frozen=True, slots=True)
class Options:
    """How to generate. The order of sampling is in `Session.sample`.

    Raises:
        GenerateError: a value out of its range.
    """

    max_tokens: int = 512
    temperature: float = 0.0
    """0: always the most likely token."""
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    penalty: float = 1.0
    """Above 1, the last `recent` tokens, at most 1024, are less likely to come again."""
    recent: int = 64
    seed: int | None = None
    """None: another one each time."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer, and are not part of it."""
    logprobs: int | None = None
    """Tell each token's probability, and so many of the likeliest in its place; forced tokens then take a pass each."""
    context_full: Literal["stop", "slide"] = "stop"
    """End there; or forget: a beginning of at most a quarter stays, and the latest half is read again after it.

    That is exact, as if the tokens that stay had been the whole conversation; it takes the time of reading half a
    context, and makes room for a quarter or more. Blocks that were sent elsewhere are sent again from where the tokens
    differ; and the answer goes on only in a context of the same size, which decides where it forgets.
    """
    speculate: bool | None = None
    """None: where it is measured to pay."""
    deadline: float | None = None
    """Seconds from when the generation is made."""

    def __post_init__(self) -> None:
        for name, least, most in (
            ("max_tokens", 1, 2**31 - 1), ("temperature", 0.0, 100.0), ("top_k", 0, 2**31 - 1), ("top_p", 0.0, 1.0),
            ("min_p", 0.0, 1.0), ("penalty", 0.01, 100.0), ("recent", 0, 1024), ("seed", 0, 2**64 - 1),
            ("logprobs", 0, 100), ("deadline", 0.0, 1e9),
        ):  # fmt: skip
            value = getattr(self, name)
            if value is None and name in ("seed", "logprobs", "deadline"):
                continue
            kinds = (int,) if isinstance(least, int) else (int, float)
            if type(value) not in kinds or not least <= value <= most:
                raise GenerateError(f"{name}: {value!r:.60} is not from {least} to {most}")
        if self.context_full not in ("stop", "slide"):
            raise GenerateError(f"context_full: {self.context_full!r:.60} is neither 'stop' nor 'slide'")
        if type(self.speculate) is not bool and self.speculate is not None:
            raise GenerateError(f"speculate: {self.speculate!r:.60} is neither true, false nor none")
        if type(self.stop) is not tuple or len(self.stop) > STOPS_LIMIT:
            raise GenerateError(f"stop: not a tuple of at most {STOPS_LIMIT} texts")
        for stop in self.stop:
            if not isinstance(stop, str) or not 1 <= len(stop) <= STOP_LIMIT:
                raise GenerateError(f"stop: {stop!r:.60} is no text of 1 to {STOP_LIMIT} characters")


class Chance(NamedTuple):
    """A token's natural logarithm of probability, and the likeliest tokens in its place with theirs."""

    logprob: float
    likeliest: list[tuple[int, float]]


class Piece(NamedTuple):
    """What one pass gave: text that is certain now, the tokens of the pass, and their chances if asked for."""

    text: str
    tokens: list[int]
    logprobs: list[Chance]


@dataclass(slots=True)
class Usage:
    """What a generation took, wherever its parts ran: tokens and seconds."""

    prompt: int
    reused: int = 0
    """Tokens of the prompt that the session held already."""
    generated: int = 0
    prefill: float = 0.0
    decode: float = 0.0
    drafted: int = 0
    accepted: int = 0


class Generation:
    """An answer in the making: iterate for its pieces; `reason` says why it ended, once it has.

    The session is this generation's until it ends: it holds prompt and answer then, but for the last token or so, and a
    prompt that begins with them goes on from there. Others may read its blocks between two pieces only: within a pass
    it holds drafts, too. One thread at a time iterates; `cancel` may be called from any.

    Raises:
        GenerateError: prompt, options, tokenizer and session do not go together.
    """

    def __init__(
        self, session: Session, tokenizer: Tokenizer, prompt: Sequence[int], options: Options | None = None,
        grammar: Grammar | None = None,
    ) -> None:  # fmt: skip
        if not prompt:
            raise GenerateError("the prompt has no tokens", "begin with the token for that, or any text")
        if len(prompt) > session.context:
            raise GenerateError(
                f"the prompt has {len(prompt)} tokens, and the session holds {session.context}",
                "shorten it, or open a session of a larger context",
            )
        self._set_up(session, tokenizer, options or Options(), grammar)
        held = session.tokens
        common = next((i for i, (a, b) in enumerate(zip(held, prompt, strict=False)) if a != b), len(held))
        common = min(common, len(prompt) - 1)  # of the last token the logits are needed
        session.rewind(common)
        seed = self.options.seed
        session.random = int.from_bytes(os.urandom(8), "little") if seed is None else seed
        self._pending = list(prompt[common:])
        self._lookup = None if self.options.speculate is False else Lookup(prompt)
        self.usage = Usage(len(prompt), common)

    def _set_up(self, session: Session, tokenizer: Tokenizer, options: Options, grammar: Grammar | None) -> None:
        """All but where it is: the same for a new generation and for one that goes on."""
        vocabulary = session.model.shape.vocabulary
        if tokenizer.size > vocabulary:
            raise GenerateError(
                f"the tokenizer has {tokenizer.size} tokens, and the model {vocabulary}", "take both from one file"
            )
        self._session, self._tokenizer, self.options, self._grammar = session, tokenizer, options, grammar
        self._mask = _first(tokenizer.size, vocabulary)
        masked = grammar is not None or tokenizer.size < vocabulary
        self.generated: list[int] = []
        self.reason: Reason | None = None
        self._decoder = Decoder(tokenizer)
        self._held = ""
        self._said: list[str] = []
        self._chances: list[Chance] = []
        self._worth = Worth()
        self._guess: list[int] = []
        self._cancelled = False
        self._until = None if options.deadline is None else monotonic() + options.deadline
        self._sampling: dict[str, Any] = {
            name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "min_p", "penalty", "recent")
        } | {"mask": memoryview(self._mask).cast("B") if masked else None}

    def __iter__(self) -> Iterator[Piece]:
        return self

    def __next__(self) -> Piece:
        """The piece of the next pass.

        Raises:
            GrammarError: the text became too complex for the grammar's limits: a dead end.
            MemoryError: no room for more keys and values.
        """
        if self.reason is not None:
            raise StopIteration
        before = len(self.generated)
        self._said, self._chances = [], []
        try:
            reason = self._pass()
        except GrammarError:
            self.reason = "dead end"
            raise
        if reason not in (None, "stop", "cancelled"):  # behind a stop is nothing; what is cancelled may go on elsewhere
            reason = self._say(self._decoder.flush()) or reason
            self._said.append(self._held)
            self._held = ""
        self.reason = reason
        self.usage.generated = len(self.generated)
        piece = Piece("".join(self._said), self.generated[before:], self._chances)
        if reason is not None and not piece.text and not piece.tokens:
            raise StopIteration
        return piece

    def cancel(self) -> None:
        """End, within some milliseconds, from any thread; the session holds what was taken in."""
        self._cancelled = True
        self._session.stop()

    # One pass

    def _pass(self) -> Reason | None:
        session, pending = self._session, self._pending
        if not self.generated and self._grammar is not None and self.options.logprobs is None:
            # what is forced from the beginning needs no pass of its own, nor the prompt to be read
            _, end = self._settle(self._force(self._grammar), [], 0)
            if end is not None:
                return end
        if len(session) + len(pending) > session.context:
            if self.options.context_full == "stop":
                return "context"
            self._slide()
        try:
            while len(pending) > CHUNK:
                self.usage.prefill += self._advance(pending[:CHUNK], 0)
                del pending[:CHUNK]
            draft = self._draft()
            seconds = self._advance(pending + draft, 1 + len(draft))
        except Stopped:
            return self._interrupted()  # none of ours: the pass is made again
        held, count, right, end = len(session) - len(draft), len(pending) + len(draft), 0, None
        if held - len(pending) < self.usage.prompt:
            self.usage.prefill += seconds
        else:
            self.usage.decode += seconds
        pending.clear()
        while end is None and not pending:
            chosen = self._choose(right)
            if isinstance(chosen, str):
                end = chosen
                break
            right, end = self._settle(chosen, draft, right)
        session.rewind(held + right)
        self._learn(draft, right, count, seconds)
        return end

    def _settle(self, chosen: list[int], draft: list[int], right: int) -> tuple[int, Reason | None]:
        """Say tokens, of which those that were drafted are taken in already: how many are so now, and why it ends."""
        for token in chosen:
            if right < len(draft) and not self._pending and draft[right] == token:
                right += 1
            else:
                self._pending.append(token)
            if (end := self._emit(token)) is not None:
                return right, end
        if self._grammar is not None and self._grammar.done:
            return right, "eos"
        return right, None

    def _interrupted(self) -> Reason | None:
        if self._cancelled:
            return "cancelled"
        return "deadline" if self._until is not None and monotonic() >= self._until else None

    def _advance(self, tokens: list[int], wanted: int) -> float:
        """Take tokens in; the seconds that it took.

        Raises:
            Stopped: this generation was cancelled, or its time is over; or it was meant for a pass that had ended.
        """
        timer = None
        if self._until is not None and len(tokens) > DRAFT + 1:  # a pass that may be long
            timer = Timer(max(0.0, self._until - monotonic()), self._session.stop)
            timer.daemon = True
            timer.start()
        try:
            if self._interrupted() is not None:
                raise Stopped
            start = perf_counter()
            self._session.advance(tokens, wanted)
            return perf_counter() - start
        finally:
            if timer is not None:
                timer.cancel()

    def _slide(self) -> None:
        session, pending = self._session, self._pending
        tokens, first = session.tokens + pending, min(self.usage.prompt, session.context // 4)
        held = min(first, len(session))  # less, where a grammar forced much before anything was read
        session.rewind(held)
        pending[:] = tokens[held:first] + tokens[-max(1, session.context // 2) :]

    def _choose(self, row: int) -> list[int] | Reason:
        """The next token after a row of the pass, and those that a grammar forces then; or why there is none."""
        grammar, single = self._grammar, self.options.logprobs is not None
        chosen: list[int] = []
        if grammar is not None:
            chosen = self._force(grammar)
            if not chosen:
                grammar.fill(self._mask)
        if not chosen:
            token = self._session.sample(row=row, **self._sampling)
            if token < 0:
                return "dead end"
            if token in self._tokenizer.eos_ids:
                return "eos"
            chosen = [token]
            if grammar is not None:
                grammar.accept(chosen)
                if not single:
                    chosen += self._force(grammar)
        if single:
            [logprob] = self._session.logprobs(chosen, row)
            self._chances.append(Chance(logprob, self._session.likeliest(self.options.logprobs or 0, row)))
        return chosen

    def _force(self, grammar: Grammar) -> list[int]:
        """What the grammar forces now, accepted; one by one where each is to have its chance told."""
        tokens = grammar.forced()
        if self.options.logprobs is not None:
            del tokens[1:]
        if tokens:
            grammar.accept(tokens)
        return tokens

    # Text

    def _emit(self, token: int) -> Reason | None:
        self.generated.append(token)
        if self._lookup is not None:
            self._lookup.add(token)
        end = self._say(self._decoder.feed(token))
        if end is None and len(self.generated) >= self.options.max_tokens:
            return "length"
        return end

    def _say(self, text: str) -> Reason | None:
        """Give text, up to a stop string; hold back what may be the beginning of one."""
        stops = self.options.stop
        if stops and text:
            text = self._held + text
            self._held = ""
            found = [at for stop in stops if (at := text.find(stop)) >= 0]
            if found:
                self._said.append(text[: min(found)])
                return "stop"
            if keep := max(_overlap(text, stop) for stop in stops):
                self._held, text = text[-keep:], text[:-keep]
        if text:
            self._said.append(text)
        return None

    # Speculation

    def _draft(self) -> list[int]:
        session, pending, options = self._session, self._pending, self.options
        self._guess = []
        if self._lookup is None or len(pending) > DRAFT:
            return []
        most = min(DRAFT + 1 - len(pending), session.context - len(session) - len(pending))
        if most < 1:
            return []
        draft = self._lookup.follow(most)
        if options.speculate is None:
            self._guess = draft[:1]
            del draft[self._worth.count(len(draft)) :]
        if self._grammar is not None and draft:
            del draft[self._grammar.admits(draft) :]
        return draft

    def _learn(self, draft: list[int], right: int, count: int, seconds: float) -> None:
        """What a pass says of drafts: of `count` tokens, of which so many drafted ones were right."""
        self.usage.drafted += len(draft)
        self.usage.accepted += right
        if count <= DRAFT + 1:
            self._worth.took(count, seconds)
        if draft:
            self._worth.saw(right, len(draft))
        elif self._guess and self._pending:
            self._worth.saw(int(self._guess[0] == self._pending[0]), 1)

    # Going on elsewhere

    def state(self) -> dict[str, Any]:
        """All that it takes to go on elsewhere, beside the session's tokens and blocks: plain values, for msgpack.

        Between two pieces only. What was cancelled goes on where it was cancelled.
        """
        return {
            "version": VERSION,
            "options": asdict(self.options) | {"stop": list(self.options.stop)},
            "context": self._session.context,
            "held": len(self._session),
            "digest": _digest(self._session.tokens),
            "pending": self._pending[:],
            "generated": self.generated[:],
            "bytes": self._decoder.pending,
            "text": self._held,
            "random": self._session.random,
            "grammar": None if self._grammar is None else [self._grammar.kind, self._grammar.text],
            "left": None if self._until is None else max(0.0, self._until - monotonic()),
            "usage": asdict(self.usage),
            "reason": None if self.reason == "cancelled" else self.reason,
        }

    @classmethod
    def resume(cls, session: Session, tokenizer: Tokenizer, state: Mapping[str, Any]) -> Generation:
        """The generation whose state this is, on a session with the same tokens.

        Raises:
            GenerateError: the state is of another version or makes no sense, or the session is not the one it is of.
            GrammarError: its grammar cannot be used here.
        """
        _check(state)
        generated, pending = _ids(state["generated"], tokenizer), _ids(state["pending"], tokenizer)
        if state["held"] != len(session) or state["digest"] != _digest(session.tokens):
            raise GenerateError(
                f"the session does not hold the {state['held']} tokens that the generation goes on from",
                "restore it with the tokens and blocks that were sent beside the state",
            )
        self = cls.__new__(cls)
        try:
            options = Options(**state["options"] | {"stop": tuple(state["options"]["stop"])})
            if options.context_full == "slide" and (size := state["context"]) != session.context:
                raise GenerateError(f"the answer forgets at {size} tokens, not {session.context}",
                                    f"restore the session with a context of {size}")  # fmt: skip
            self.usage = Usage(**state["usage"])
            grammar = None if state["grammar"] is None else Grammar(tokenizer, *state["grammar"])
            session.random = state["random"]
        except (KeyError, TypeError, OverflowError) as error:
            raise GenerateError(f"the state of a generation cannot be read: {error!r:.200}") from None
        if grammar is not None:
            grammar.accept(generated)
        self._set_up(session, tokenizer, options, grammar)
        self._decoder, self._held, self.reason = (
            Decoder(tokenizer, False, state["bytes"]),
            state["text"],
            state["reason"],
        )
        self._until = None if state["left"] is None else monotonic() + state["left"]
        self.generated, self._pending = generated, pending
        self._lookup = None if options.speculate is False else Lookup(session.tokens + pending)
        return self


def _first(tokens: int, vocabulary: int) -> array[int]:
    """A mask that allows the first `tokens` of a vocabulary."""
    words = array("I", bytes(4 * ((vocabulary + 31) // 32)))
    full, rest = divmod(tokens, 32)
    words[:full] = array("I", [0xFFFFFFFF]) * full
    if rest:
        words[full] = (1 << rest) - 1
    return words


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of the text that a stop string begins with."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


def _digest(tokens: Sequence[int]) -> bytes:
    return blake2b(array("i", tokens).tobytes(), digest_size=16).digest()


def _check(state: Mapping[str, Any]) -> None:
    """Refuse what is no state of a generation."""
    if state.get("version") != VERSION:
        raise GenerateError(f"the generation is of version {state.get('version')!r:.20}; supported: {VERSION}")
    kinds: dict[str, tuple[type, ...]] = {
        "options": (dict,), "context": (int,), "held": (int,), "digest": (bytes,), "pending": (list,),
        "generated": (list,), "bytes": (bytes,), "text": (str,), "random": (int,), "grammar": (list, NoneType),
        "left": (float, NoneType), "usage": (dict,), "reason": (str, NoneType),
    }  # fmt: skip
    wrong = [name for name, kind in kinds.items() if name not in state or type(state[name]) not in kind]
    if wrong or state["reason"] not in (None, *get_args(Reason)):
        raise GenerateError(f"the state of a generation cannot be read: {', '.join(wrong) or 'reason'}")


def _ids(values: list[Any], tokenizer: Tokenizer) -> list[int]:
    """Tokens of somebody else's state."""
    if not all(type(i) is int and 0 <= i < tokenizer.size for i in values):
        raise GenerateError("the state of a generation cannot be read: there are tokens that are none here")
    return values[:]
