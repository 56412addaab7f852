"""Costs: learned durations and output sizes per skill and device, and the quality of links as measured in passing.

A quantity is known by the order statistics of a sliding window: its last 32 samples, none much older than a day. So a
change of behaviour is followed after about 17 samples, one stall moves nothing, any quantile is exact, and memory is
bounded (Datar, Gionis, Indyk, Motwani, "Maintaining stream statistics over sliding windows", SIAM J. Computing 31(6),
2002, for what a sketch would save where windows are long; at 32 values the values themselves are the smaller thing).
The clock is an argument: seconds since an epoch that survives a restart.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any, Final, TypeVar

from .device import LinkQuality

K = TypeVar("K")
V = TypeVar("V")

WINDOW: Final = 32
AGE: Final = 86_400.0
ENOUGH: Final = 8
"""From so many samples on, the author's guess no longer counts; before, it counts as one more sample."""
KEYS: Final = 4096
PEERS: Final = 256
GAIN: Final = 1 / 8
"""Of a new round trip or transfer (RFC 6298, section 2: alpha)."""
SMALL: Final = 16_384
"""Transfers below so many bytes tell the latency, not the bandwidth."""


class Learned:
    """The latest samples of a quantity."""

    __slots__ = ("samples", "sure", "values")

    def __init__(self) -> None:
        self.samples: deque[tuple[float, float]] = deque()
        self.values: list[float] = []
        self.sure: float | None = None
        """Their median, while there are enough of them."""

    def add(self, value: float, now: float) -> None:
        """One more sample."""
        samples, values = self.samples, self.values
        samples.append((now, value))
        insort(values, value)
        while len(samples) > WINDOW or samples[0][0] < now - AGE:
            del values[bisect_left(values, samples.popleft()[1])]
        n = len(values)
        middle = values[n >> 1] if n & 1 else (values[n >> 1] + values[(n >> 1) - 1]) / 2
        self.sure = middle if n >= ENOUGH else None

    def value(self, guess: float) -> float:
        """The median; a guess is one more sample while there are few."""
        return quantile(sorted([*self.values, guess]), 0.5) if self.sure is None else self.sure


_NOTHING: Final[Mapping[str, Learned]] = {}


class _Wire:
    __slots__ = ("bytes", "quality", "rtt", "seconds")

    def __init__(self, rtt: float | None = None, size: float = 0.0, seconds: float = 0.0) -> None:
        self.rtt, self.bytes, self.seconds = rtt, size, seconds
        self.quality: LinkQuality | None = None


class Costs:
    """What this device has learned; bounded, the least recently seen is forgotten first."""

    def __init__(self) -> None:
        self._durations: dict[tuple[str, str], Learned] = {}
        self._by_skill: dict[str, dict[str, Learned]] = {}
        self._sizes: dict[str, Learned] = {}
        self._links: dict[str, _Wire] = {}

    def saw(self, skill: str, device: str, seconds: float, size: float | None, now: float) -> None:
        """One invocation of `skill` took `seconds` on `device` (an id) and gave `size` bytes (None: not known).

        Raises:
            ValueError: not a finite number from 0 on.
        """
        seconds = _sound(seconds)
        if size is not None:
            size = _sound(size)
            touch(self._sizes, skill, Learned, KEYS).add(size, now)
        self._window(skill, device).add(seconds, now)

    def _window(self, skill: str, device: str) -> Learned:
        table, key = self._durations, (skill, device)
        if len(table) >= KEYS and key not in table:
            other, on = next(iter(table))
            devices = self._by_skill[other]
            del devices[on]
            if not devices:
                del self._by_skill[other]
        window = self._by_skill.setdefault(skill, {})[device] = touch(table, key, Learned, KEYS)
        return window

    def duration(self, skill: str, device: str, guess: float) -> float:
        """The median run time in seconds; the author's `guess` is one more sample while there are few."""
        window = self._durations.get((skill, device))
        if window is None:
            return guess
        return window.value(guess)

    def learned(self, skill: str) -> Mapping[str, Learned]:
        """What was learned of a skill's run times, by device: for who asks for many at once."""
        return self._by_skill.get(skill, _NOTHING)

    def duration_quantile(self, skill: str, device: str, q: float, guess: float) -> float:
        """The run time in seconds that a share `q` (0 to 1) of invocations stays below; `guess` as in `duration`."""
        window = self._durations.get((skill, device))
        if window is None:
            return guess
        return quantile(window.values if len(window.values) >= ENOUGH else sorted([*window.values, guess]), q)

    def size(self, skill: str, guess: float) -> float:
        """The median size of the skill's output in bytes, whichever device ran it."""
        window = self._sizes.get(skill)
        if window is None:
            return guess
        return window.value(guess)

    def saw_rtt(self, peer: str, seconds: float) -> None:
        """A message to `peer` was answered after `seconds`, the peer's own work taken off: smoothed as in RFC 6298.

        Raises:
            ValueError: not a finite number from 0 on.
        """
        seconds = _sound(seconds)
        wire = touch(self._links, peer, _Wire, PEERS)
        wire.rtt = seconds if wire.rtt is None else wire.rtt + (seconds - wire.rtt) * GAIN
        wire.quality = None

    def saw_transfer(self, peer: str, size: float, seconds: float) -> None:
        """`size` bytes took `seconds` to or from `peer`; half a round trip of it is latency, the rest bandwidth.

        Bytes and seconds are summed, aged each by the same gain, and divided last: so large transfers count more.

        Raises:
            ValueError: not a finite number from 0 on.
        """
        size, seconds = _sound(size), _sound(seconds)
        if size < SMALL:
            return
        wire = touch(self._links, peer, _Wire, PEERS)
        # clocks are coarse and the round trip is smoothed: at least a tenth of the time is taken for the bytes
        wire.seconds += max(seconds - (wire.rtt or 0.0) / 2, seconds / 10, 1e-6) - wire.seconds * GAIN
        wire.bytes += size - wire.bytes * GAIN
        wire.quality = None

    def link(self, peer: str) -> LinkQuality:
        """The link to `peer` as measured; its fields are None until there was something to measure."""
        wire = self._links.get(peer)
        if wire is None:
            return LinkQuality()
        if wire.quality is None:
            wire.quality = LinkQuality(wire.rtt, wire.bytes / wire.seconds if wire.seconds else None)
        return wire.quality

    def to_wire(self) -> dict[str, Any]:
        """What was learned, as plain values, the least recently seen first."""
        return {
            "v": 1,
            "durations": [[*key, list(map(list, w.samples))] for key, w in self._durations.items()],
            "sizes": [[key, list(map(list, w.samples))] for key, w in self._sizes.items()],
            "links": [[peer, w.rtt, w.bytes, w.seconds] for peer, w in self._links.items()],
        }

    @classmethod
    def from_wire(cls, data: Mapping[str, Any]) -> Costs:
        """What `to_wire` wrote.

        Raises:
            KeyError, TypeError, ValueError: it is something else.
        """
        if data["v"] != 1:
            raise ValueError(f"costs of version {data['v']!r}; this is version 1")
        costs = cls()
        for skill, device, samples in data["durations"]:
            for now, value in samples:
                costs._window(str(skill), str(device)).add(_sound(value), float(now))
        for skill, samples in data["sizes"]:
            for now, value in samples:
                touch(costs._sizes, str(skill), Learned, KEYS).add(_sound(value), float(now))
        for peer, rtt, size, seconds in data["links"]:
            wire = touch(costs._links, str(peer), _Wire, PEERS)
            wire.rtt = None if rtt is None else _sound(rtt)
            wire.bytes, wire.seconds = _sound(size), _sound(seconds)
        return costs


def quantile(values: list[float], q: float) -> float:
    """The quantile `q` of ascending values, interpolated (Hyndman and Fan, 1996, definition 7)."""
    at = min(max(q, 0.0), 1.0) * (len(values) - 1)
    low = int(at)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (at - low)


def _sound(value: float) -> float:
    if not isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no finite number from 0 on")
    return float(value)


def touch(table: dict[K, V], key: K, make: Callable[[], V], limit: int) -> V:
    """The entry at `key`, made if there is none, and now the most recent of at most `limit`."""
    entry = table.pop(key, None)
    if entry is None:
        entry = make()
        if len(table) >= limit:
            del table[next(iter(table))]
    table[key] = entry
    return entry
