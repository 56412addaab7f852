"""The floor: what a moving vehicle does for nobody, whatever the policy's rules say; sans-IO.

Laws:
- The floor stands above every rule and every role. It only forbids.
- Whoever does not know what the vehicle is doing says `moving`, and so does every word that is not known here.
- A condition on an argument that cannot be read forbids.

The driving states, and what a driver's screen may show in each, are as in Android Automotive:
https://source.android.com/docs/automotive/driver_distraction/car_uxr
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Final

from .skill import Driving, SkillSpec

VENTILATION: Final = 10
"""How far windows may be open while the vehicle moves, in percent."""
LONG_TEXT: Final = 200
"""Characters of a text that a driver may be shown while driving."""

_SPEED = {Driving.PARKED: 0, Driving.IDLING: 1, Driving.MOVING: 2}
_WAIT = {Driving.PARKED: "is parked", Driving.IDLING: "stands"}


@dataclass(frozen=True, slots=True)
class Limit:
    """Skills (or holders of a lock, `lock:NAME`) by pattern, and what the vehicle may at most be doing while they run.

    With `broken` the limit holds only for arguments of which it is true.
    """

    patterns: tuple[str, ...]
    most: Driving
    words: str
    broken: Callable[[Mapping[str, Any]], bool] | None = None

    def forbids(self, args: Mapping[str, Any], driving: Driving) -> bool:
        """Whether this may not be done now."""
        return _SPEED.get(driving, 2) > _SPEED[self.most] and (self.broken is None or self.broken(args))

    @property
    def hint(self) -> str:
        """What to do about it."""
        return f"do it again when the vehicle {_WAIT[self.most]}"


def _beyond_ventilation(args: Mapping[str, Any]) -> bool:
    percent: Any = args.get("percent")
    return type(percent) not in (int, float) or not percent <= VENTILATION


def _long(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) > LONG_TEXT
    if isinstance(value, Mapping):
        return any(_long(name) or _long(inner) for name, inner in value.items())
    return isinstance(value, (list, tuple)) and any(_long(inner) for inner in value)


def _of(*families: str, but: Iterable[str] = ("get", "state", "status")) -> tuple[str, ...]:
    """Every skill of some families, `doors` as in `doors.unlock` and `car.doors.unlock`; `but` are let through."""
    patterns = [pattern for family in families for pattern in (f"{family}.*", f"*.{family}.*")]
    return (*patterns, *(f"!*.{harmless}" for harmless in but))


_SHUT = ("get", "state", "status", "lock", "close")
FLOOR: Final = (
    Limit(_of("door", "doors", "trunk", "frunk", "tailgate", "hood", but=_SHUT), Driving.IDLING,
          "opening or unlocking doors, trunk or frunk"),
    Limit(_of("window", "windows", "sunroof", but=_SHUT), Driving.IDLING,
          f"opening windows beyond ventilation ({VENTILATION} %)", _beyond_ventilation),
    Limit(_of("seat", "seats", but=("get", "state", "status", "heat", "cool", "ventilate")), Driving.IDLING,
          "moving seats"),
    Limit(_of("charge.port", "charge_port", "chargeport", "charge.flap", but=_SHUT), Driving.IDLING,
          "opening the charge port"),
    Limit(("*.video", *_of("video", "movie", "tv", but=("stop", "pause"))), Driving.PARKED, "video"),
    Limit(("*.setup", *_of("setup", "settings")), Driving.PARKED, "setting things up on the driver's screen"),
    Limit(("*.type", *_of("keyboard", "typing")), Driving.IDLING, "typing"),
    Limit(("lock:*display", *_of("notify", "screen", "display", but=())), Driving.IDLING,
          f"text of more than {LONG_TEXT} characters on the driver's screen", _long),
)  # fmt: skip
"""What every vehicle's policy stands on; what a skill itself allows (`SkillSpec.driving`) comes on top."""


def named(name: str, patterns: Iterable[str]) -> bool:
    """Whether a dotted name fits one of the patterns (`cabin.*`) and none of those with `!` before them."""
    found = False
    for pattern in patterns:
        if pattern.startswith("!"):
            if fnmatchcase(name, pattern[1:]):
                return False
        elif not found:
            found = fnmatchcase(name, pattern)
    return found


def limits(spec: SkillSpec) -> tuple[Limit, ...]:
    """The limits that a skill stands under in a vehicle; none for most."""
    own = Limit((spec.name,), spec.driving, spec.name)
    found = [limit for limit in FLOOR if any(named(name, limit.patterns) for name in (spec.name, f"lock:{spec.lock}"))]
    return tuple(limit for limit in (*found, own) if limit.most is not Driving.MOVING)
