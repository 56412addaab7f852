"""What this machine tells of its power and of its network: Linux's sysfs, where it is there and may be read.

Batteries: Documentation/ABI/testing/sysfs-class-power; processor packages: Documentation/power/powercap/powercap.rst;
the interface of the default route: proc(5), /proc/net/route. What cannot be read is not told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from .core.energy import WH, Drain

_MICRO: Final = 1e-6
_RADIOS: Final = {"wlan": "wifi", "wwan": "cellular", "bluetooth": "bluetooth"}
"""By the DEVTYPE of an interface (its `uevent`)."""
_ETHERNET, _RAW_IP = "1", "519"
"""ARPHRD_ETHER and ARPHRD_RAWIP of linux/if_arp.h: a cellular modem without a frame of its own has the latter."""


def machine(sys: Path = Path("/sys/class"), proc: Path = Path("/proc")) -> Callable[[], Mapping[str, Any]]:
    """A meter for the gauge (core/gauge.py): `battery`, `charging`, `capacity`, `drain`, `radio`, as far as known.

    The drain is what the processors count themselves (RAPL), where this user may read it (since Linux 5.10 only root
    may); else what leaves the battery, while it is not charged.
    """

    def meter() -> Mapping[str, Any]:
        told = _battery(sys / "power_supply")
        if (drain := _processors(sys / "powercap")) is not None:
            told["drain"] = drain
        if (radio := _radio(sys / "net", proc / "net/route")) is not None:
            told["radio"] = radio
        return told

    return meter


def _battery(folder: Path) -> dict[str, Any]:
    left = full = 0.0
    percents, states = [], set()
    for supply in _listed(folder):
        kind, scope, present = (_text(supply / name) for name in ("type", "scope", "present"))
        if kind != "Battery" or scope == "Device" or present == "0":  # of that scope is the battery of a mouse
            continue
        states.add(_text(supply / "status"))
        now, most = _joules(supply, "now"), _joules(supply, "full")
        if now is not None and most:
            left, full = left + now, full + most
        elif (percent := _number(supply / "capacity")) is not None:
            percents.append(percent / 100)
    if not full and not percents:
        return {}
    charging = "Discharging" not in states
    if not full:
        return {"battery": sum(percents) / len(percents), "charging": charging}
    told: dict[str, Any] = {"battery": min(1.0, left / full), "charging": charging, "capacity": full}
    if not charging:
        told["drain"] = Drain("battery", full - left)
    return told


def _joules(supply: Path, when: str) -> float | None:
    """In the battery, now or when it is full: from µWh, or from µAh at the voltage that it is made for."""
    if (energy := _number(supply / f"energy_{when}")) is not None:
        return energy * _MICRO * WH
    charge = _number(supply / f"charge_{when}")
    volts = _number(supply / "voltage_min_design") or _number(supply / "voltage_now")
    return None if charge is None or volts is None else charge * _MICRO * volts * _MICRO * WH


def _processors(folder: Path) -> Drain | None:
    zones = [zone for zone in _listed(folder) if (_text(zone / "name") or "").startswith("package-")]
    counters = [_number(zone / "energy_uj") for zone in zones if zone.name.startswith("intel-rapl:")]
    told = [counter for counter in counters if counter is not None]
    return Drain("processors", sum(told) * _MICRO) if told and len(told) == len(counters) else None


def _radio(folder: Path, routes: Path) -> str | None:
    """The kind of interface that the default route with the smallest metric goes by."""
    rows = [line.split() for line in (_text(routes) or "").splitlines()[1:]]
    ways = [(int(row[6]), row[0]) for row in rows if len(row) > 7 and row[1] == row[7] == "00000000"]
    if not ways:
        return None
    interface = folder / min(ways)[1]
    events = dict(line.partition("=")[::2] for line in (_text(interface / "uevent") or "").splitlines())
    if (radio := _RADIOS.get(events.get("DEVTYPE", ""))) is not None:
        return radio
    return {_ETHERNET: "ethernet", _RAW_IP: "cellular"}.get(_text(interface / "type") or "")


def _listed(folder: Path) -> Iterable[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError:
        return ()


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def _number(path: Path) -> float | None:
    text = _text(path)
    return float(text) if text is not None and text.lstrip("-").isdigit() else None
