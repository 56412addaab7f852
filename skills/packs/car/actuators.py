"""How actuators move: from where they are, in a time of their own, to where they were told, or to where they jam."""

from __future__ import annotations

from . import signals as vss
from .signals import Value
from .state import CarState, Move

WINDOW_RATE = 25.0
"""Percent per second: four seconds from closed to open."""
LOCK_SECONDS, SWITCH_SECONDS, HANDSHAKE_SECONDS = 0.4, 0.1, 6.0
BLOCKED = "B1001"
"""The trouble code of an actuator that did not reach its target (B1xxx is the manufacturer's range, SAE J2012)."""


class Actuators:
    """The actuators of a car; the moment is always the one that its state describes, `state.at`."""

    def __init__(self, state: CarState) -> None:
        self._state = state
        self.jams: dict[str, Value] = {}
        """Where an actuator sticks: a window goes no further than that, all others stay as they are. Faults to try."""
        self.told: dict[str, Value] = {}
        """What each was told last."""

    def command(self, signal: str, target: Value) -> None:
        """Start moving towards the target."""
        here = self.stands(signal)
        end = self._end(signal, here, target)
        self._state.moves[signal] = Move(start=here, end=end, since=self._state.at)
        self._state.values[signal] = self.told[signal] = target

    def stands(self, signal: str) -> Value:
        """Where it is."""
        move = self._state.moves.get(signal)
        if move is None:
            return self._state.values[signal]
        passed, whole = self._state.at - move.since, _seconds(signal, move)
        if passed > whole - 1e-6:  # Unix seconds as a float are good to a quarter of a microsecond
            return move.end
        if signal in vss.WINDOWS:
            return round(_number(move.start) + (_number(move.end) - _number(move.start)) * passed / whole)
        return move.start

    def number(self, signal: str) -> float:
        """Where it is, for one that stands at numbers."""
        return _number(self.stands(signal))

    def rests(self, signal: str) -> bool:
        """Whether it has come to rest, where it was told or not."""
        return self.left(signal) == 0.0

    def left(self, signal: str) -> float:
        """Seconds until it comes to rest."""
        move = self._state.moves.get(signal)
        return 0.0 if move is None else max(0.0, move.since + _seconds(signal, move) - self._state.at)

    def next_rest(self) -> float | None:
        """When the next one comes to rest, in Unix seconds."""
        ends = (move.since + _seconds(signal, move) for signal, move in self._state.moves.items())
        return min(ends, default=None)

    def settle(self) -> None:
        """Take those that came to rest off the list; one that jammed leaves a trouble code."""
        state = self._state
        for signal, move in list(state.moves.items()):
            if state.at - move.since > _seconds(signal, move) - 1e-6:
                del state.moves[signal]
                if move.end != state.values[signal] and BLOCKED not in state.troubles:
                    state.troubles.append(BLOCKED)
                state.values[signal] = move.end

    def _end(self, signal: str, here: Value, target: Value) -> Value:
        jam = self.jams.get(signal)
        if jam is None:
            return target
        if signal not in vss.WINDOWS:
            return here
        low, high = sorted((_number(here), _number(target)))
        return jam if low <= _number(jam) <= high else target


def _number(value: Value) -> float:
    assert isinstance(value, int | float)
    return value


def _seconds(signal: str, move: Move) -> float:
    """How long that movement lasts."""
    if signal in vss.WINDOWS:
        return abs(_number(move.end) - _number(move.start)) / WINDOW_RATE
    if signal == vss.START_STOP and move.end == "START":
        return HANDSHAKE_SECONDS
    return LOCK_SECONDS if signal in vss.LOCKS else SWITCH_SECONDS
