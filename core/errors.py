"""One small hierarchy: every error says what happened, whose fault it is, and what to do next.

An error crosses links as a map (`to_wire`, `from_wire`), so a failure on the car reads the same on the phone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from .device import clean

Fault = Literal["caller", "skill", "device", "network", "peer", "person"]


class SlipError(Exception):
    """Something went wrong: `what`, `why`, and `hint` (what to type or change next)."""

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1
    fault: Fault = "device"
    retry: bool = False
    """Whether trying again, elsewhere or later, can help."""

    def __init__(self, what: str, why: str = "", hint: str = "", **where: Any) -> None:
        super().__init__(what)
        self.what, self.why, self.hint = what, why, hint
        self.where = {name: value for name, value in where.items() if value is not None}
        """What it is about, by name: `step`, `field`, `skill`, `device`."""

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" if self.why else self.what

    def to_wire(self) -> dict[str, Any]:
        """The error as a map of plain values, short and safe to show, whatever it was raised with (law 5)."""
        return {
            "code": self.code, "what": clean(self.what, 500), "why": clean(self.why, 2000),
            "hint": clean(self.hint, 500), "fault": self.fault, "retry": bool(self.retry),
            "where": {clean(name, 40): value if type(value) in (int, float) else clean(value, 200)
                      for name, value in list(self.where.items())[:8]},
        }  # fmt: skip

    @classmethod
    def of(cls, what: str, why: str, hint: str, fault: Fault, retry: bool, where: dict[str, Any]) -> Self:
        """An error of this class with every property given, as read from the wire."""
        error = cls(what, why, hint, **where)
        error.fault, error.retry = fault, retry
        return error


class UsageError(SlipError):
    """The request itself is wrong: an unknown skill, a bad argument, a plan with a cycle."""

    code, exit_code, fault = "usage", 2, "caller"


class NotRunning(SlipError):
    """There is no daemon to talk to."""

    code, exit_code, fault = "not_running", 3, "caller"


class NoDevice(SlipError):
    """No device in the mesh can run it now."""

    code, exit_code, fault, retry = "no_device", 4, "device", True


class Denied(SlipError):
    """A policy or a person said no."""

    code, exit_code, fault = "denied", 5, "person"


class TimedOut(SlipError):
    """The deadline passed first."""

    code, exit_code, fault, retry = "timed_out", 6, "skill", True


class Cancelled(SlipError):
    """Somebody asked for it to stop."""

    code, exit_code, fault = "cancelled", 130, "caller"


class SkillFailed(SlipError):
    """The skill raised, hung, blocked the loop, or returned what its schema does not allow."""

    code, fault = "skill_failed", "skill"


class Refused(SlipError):
    """The device will not do it now (busy, leaving, not offered here any more); another one may."""

    code, fault, retry = "refused", "device", True


class LinkLost(SlipError):
    """The link went away before an answer came."""

    code, fault, retry = "link_lost", "network", True


class UnknownOutcome(SlipError):
    """It may or may not have happened; it is never repeated by itself (law 6)."""

    code, fault = "unknown", "network"


class ProtocolError(SlipError):
    """The peer broke the protocol; the link is closed with this reason."""

    code, fault = "protocol", "peer"


_BY_CODE = {
    cls.code: cls
    for cls in (
        UsageError, NotRunning, NoDevice, Denied, TimedOut, Cancelled, SkillFailed, Refused, LinkLost, UnknownOutcome,
        ProtocolError,
    )
}  # fmt: skip
_FAULTS: frozenset[str] = frozenset(("caller", "skill", "device", "network", "peer", "person"))


def from_wire(data: Any) -> SlipError:
    """The error that `to_wire` wrote; whatever else arrives becomes a plain `SlipError`, never an exception."""
    if not isinstance(data, dict):
        return SlipError("the peer reported an error that cannot be read")
    fault = data.get("fault")
    where = data.get("where")
    return _BY_CODE.get(str(data.get("code")), SlipError).of(
        clean(data.get("what", "failed"), 500),
        clean(data.get("why", ""), 2000),
        clean(data.get("hint", ""), 500),
        fault if fault in _FAULTS else "peer",
        data.get("retry") is True,
        {clean(k, 40): clean(v, 200) for k, v in where.items()} if isinstance(where, dict) and len(where) <= 8 else {},
    )
