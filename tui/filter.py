"""The filter language of every list: `skill:nav.* dev:car !progress words`.

All words must fit; `!` turns one round; `field:pattern` looks at one field, with `*` and `?`; a plain word is found
anywhere in the text. Case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_ALIASES: Final = {"dev": "dev", "device": "dev", "in": "kind"}
LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class _Word:
    field: str
    """Empty: the whole text."""
    inverted: bool
    text: str
    pattern: re.Pattern[str] | None
    """None: `text` is to be found as it is."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Words that all must fit."""

    words: tuple[_Word, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read a filter.

        Raises:
            ValueError: it is too long, or a word has nothing to look for.
        """
        if len(text) > LONGEST:
            raise ValueError(f"a filter has at most {LONGEST} characters")
        return cls(tuple(_word(word) for word in text.casefold().split()))

    def fits(self, fields: Mapping[str, str], text: str) -> bool:
        """Whether a row with these fields, shown as `text`, is to be shown."""
        for word in self.words:
            found = text if not word.field else fields.get(word.field, "")
            low = found.casefold()
            there = word.text in low if word.pattern is None else word.pattern.search(low) is not None
            if there == word.inverted:
                return False
        return True


def _word(word: str) -> _Word:
    inverted, rest = word.startswith("!"), word.removeprefix("!")
    field, colon, wanted = rest.partition(":")
    if not colon or not field.isidentifier():
        field, wanted = "", rest
    if not wanted:
        raise ValueError(f"{word} has nothing to look for: write like dev:car or !progress")
    field = _ALIASES.get(field, field)
    if "*" not in wanted and "?" not in wanted:
        return _Word(field, inverted, wanted, None)
    # a field may hold several words, as a device's name and id: one that fits whole is enough
    shape = rf"(?:^|\s)(?:{_inner(wanted)})(?:\s|$)" if field else _inner(wanted)
    return _Word(field, inverted, wanted, re.compile(shape))


def _inner(wanted: str) -> str:
    """The pattern within one word."""
    return "".join(r"\S*" if c == "*" else r"\S" if c == "?" else re.escape(c) for c in wanted)
