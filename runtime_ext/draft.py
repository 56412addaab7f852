"""Speculation by prompt look-up: what followed the last tokens where they were before is drafted as what comes next.

A pass over several tokens reads the weights once, so drafts that are right come cheap, and wrong ones cost what they
make a pass longer. Whether they pay is measured, not assumed. Nothing here decides what is generated, only how fast.

Source: prompt lookup decoding (Saxena, 2023); speculative sampling (Leviathan et al., 2023) for tokens per pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DRAFT: Final = 7
"""Tokens that are drafted at most: with the one before them 8, which the kernels take in one go."""
_MARGIN: Final = 1.1
"""How much faster it must be, for a draft to be worth its noise."""


class Lookup:
    """All tokens so far, and where each two and three of them were last."""

    __slots__ = ("_after", "_at", "tokens")

    def __init__(self, tokens: Iterable[int]) -> None:
        self.tokens: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}
        self._at = 0
        for token in tokens:
            self.add(token)

    def add(self, token: int) -> None:
        """Go on by a token."""
        tokens, after = self.tokens, self._after
        tokens.append(token)
        n = len(tokens)
        two, three = (*tokens[-2:],), (*tokens[-3:],)
        self._at = after.get(three) or after.get(two, 0)
        if n > 2:
            after[three] = n
        if n > 1:
            after[two] = n

    def follow(self, count: int) -> list[int]:
        """What may follow, `count` tokens or none: where the end repeats what is just before it, on and on."""
        if not self._at:
            return []
        run = self.tokens[self._at : self._at + count]
        while len(run) < count:
            run += run[: count - len(run)]
        return run


class Worth:
    """How many drafted tokens pay: those with the most tokens per second, as far as it is known.

    It keeps running means: of how often a drafted token is right (told also while none are drafted, since the next
    token shows whether it would have been), and of the seconds of a pass by its tokens. A length that was not tried is
    thought to lie between its neighbours, and, beyond the longest that was, to cost no more. What was not tried for
    long is thought cheaper and cheaper, so that one bad measurement is not for ever.
    """

    __slots__ = ("right", "seconds")

    def __init__(self) -> None:
        self.right = 0.0
        self.seconds = [0.0] * (DRAFT + 2)

    def saw(self, right: int, drafted: int) -> None:
        """Of so many drafted tokens the first `right` were right; those behind a wrong one say nothing."""
        for _ in range(right):
            self.right += (1.0 - self.right) / 16
        if right < drafted:
            self.right -= self.right / 16

    def took(self, tokens: int, seconds: float) -> None:
        """A pass of so many tokens took so long."""
        known, one = self.seconds[tokens], self.seconds[1]
        if known:
            self.seconds[tokens] += (min(seconds, 2 * known) - known) / 4
        elif tokens == 1 or one:
            self.seconds[tokens] = seconds if tokens == 1 else min(seconds, tokens * one)

    def count(self, most: int) -> int:
        """How many tokens to draft, of `most` that could be."""
        one = self.seconds[1]
        if not one or not most:
            return 0
        costs = self._costs(most + 1)
        best, rate, chance, tokens = 0, _MARGIN / one, 1.0, 1.0
        for drafted in range(1, most + 1):
            chance *= self.right
            tokens += chance
            if tokens / costs[drafted + 1] > rate:
                best, rate = drafted, tokens / costs[drafted + 1]
        if not best:
            for tried in range(2, DRAFT + 2):
                if self.seconds[tried] > one:
                    self.seconds[tried] -= (self.seconds[tried] - one) / 256
        return best

    def _costs(self, most: int) -> list[float]:
        """Seconds of passes of up to `most` tokens."""
        costs = self.seconds[: most + 1]
        last = 1
        for tried in range(2, DRAFT + 2):
            if not self.seconds[tried]:
                continue
            step = (self.seconds[tried] - self.seconds[last]) / (tried - last)
            for between in range(last + 1, min(tried, most + 1)):
                costs[between] = self.seconds[last] + step * (between - last)
            last = tried
        for beyond in range(last + 1, most + 1):
            costs[beyond] = self.seconds[last]
        return costs
