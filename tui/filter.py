"""The filter language of every list: `skill:nav.* dev:car !progress words`.

All words must fit; `!` turns one round; `field:pattern` looks at one field, with `*` and `?`; a plain word is found
anywhere in the text. Case does not matter.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

_DEVICE: Final = ("dev", "name", "device", "device_kind")
_NAMES: Final = {"dev": _DEVICE, "device": _DEVICE, "in": ("kind",)}
"""Where a field is looked for, if not under its own name: a device is found by its name, its id or its kind."""
LONGEST: Final = 400


@dataclass(frozen=True, slots=True)
class _Word:
    names: tuple[str, ...]
    """The fields to look at; none: the whole text."""
    inverted: bool
    found: Callable[[str], object]
    """Whether it is in a text, which is given in lower case."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Words that all must fit, those that look at one field first."""

    words: tuple[_Word, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Filter:
        """Read a filter.

        Raises:
            ValueError: it is too long, or a word has nothing to look for.
        """
        if len(text) > LONGEST:
            raise ValueError(f"a filter has at most {LONGEST} characters")
        return cls(tuple(sorted(map(_word, text.casefold().split()), key=lambda word: not word.names)))

    def fits(self, fields: Mapping[str, Any], text: str | Callable[[], str]) -> bool:
        """Whether a row with these fields, shown as `text`, is to be shown. A text that is a function is asked
        for once, and only where the fields fit."""
        low = None
        for word in self.words:
            if word.names:
                there = False
                for name in word.names:
                    value = fields.get(name)
                    if value is not None and word.found((value if type(value) is str else str(value)).casefold()):
                        there = True
                        break
            else:
                if low is None:
                    low = (text if isinstance(text, str) else text()).casefold()
                there = bool(word.found(low))
            if there is word.inverted:
                return False
        return True


def _word(word: str) -> _Word:
    inverted, rest = word.startswith("!"), word.removeprefix("!")
    field, colon, wanted = rest.partition(":")
    if not colon or not field.isidentifier():
        field, wanted = "", rest
    if not wanted:
        raise ValueError(f"{word} has nothing to look for: write like dev:car or !progress")
    return _Word(_NAMES.get(field, (field,)) if field else (), inverted, _finder(wanted, whole=bool(field)))


def _finder(wanted: str, *, whole: bool) -> Callable[[str], object]:
    if "*" not in wanted and "?" not in wanted:
        return lambda text: wanted in text
    # a field may hold several words, as a device's name and id: one that fits whole is enough
    shape = rf"(?:^|\s){_shape(wanted)}(?:\s|$)" if whole else _shape(wanted)
    search, piece = re.compile(shape).search, max(re.split(r"[*?]", wanted), key=len)
    return lambda text: piece in text and search(text)  # most texts have not even that


def _shape(wanted: str) -> str:
    r"""A pattern within one word, as a regular expression that never tries twice.

    What stands between two stars is taken at its first place for good, `(?>...)`: if any place leads to a fit, that one
    does. So the time is bounded by the lengths, however many stars there are. What follows the last star ends the word.
    """
    pieces = ["".join(r"\S" if c == "?" else re.escape(c) for c in piece) for piece in wanted.split("*")]
    if len(pieces) == 1:
        return pieces[0]
    middle = "".join(rf"(?>\S*?{piece})" for piece in pieces[1:-1] if piece)
    return rf"{pieces[0]}{middle}\S*{pieces[-1]}"
