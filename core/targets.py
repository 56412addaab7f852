"""What devices ask and tell each other about runs and members: the targets below `slip.`.

Asked (there is an answer): arm, disarm, withhold, end, undo, specs. Told (there is none; a new link repeats what an old
one may have lost): deliver, report, progress, digest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from .admission import Admission
from .consent import Consents
from .errors import ProtocolError, UsageError
from .execute import Executor
from .gate import Caller
from .invoke import Invoker
from .members import Members
from .run import GOOD, check_report
from .runs import Runs
from .specs import Specs

_UNREADABLE = (KeyError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError)


class Targets:
    """The targets of one device. What comes is checked where it is read; what cannot be read breaks the link."""

    def __init__(
        self, me: str, executor: Executor, invoker: Invoker, runs: Runs, members: Members,
        specs: Specs, admission: Admission, consents: Consents, clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._me, self._executor, self._invoker = me, executor, invoker
        self._runs, self._members, self._specs, self._admission, self._clock = runs, members, specs, admission, clock
        self._consents = consents

    def ask(self, device: str, target: str, content: Mapping[str, Any]) -> Any:
        """What a device (this one too) asks.

        Raises:
            ProtocolError: the question cannot be read.
            SlipError: it is refused, or unknown here.
        """
        try:
            if target == "slip.arm":
                return self._executor.arm(device, content)
            if target == "slip.disarm":
                stop = content.get("stop") is True
                return self._executor.disarm(device, content["run"], content["step"], int(content["epoch"]), stop=stop)
            if target == "slip.withhold":
                return {"sent": self._executor.withhold(device, content["run"], content["step"], content["to"])}
            if target == "slip.end":
                return self._executor.end(device, content["run"])
            if target == "slip.specs":
                return self._specs.of(content["digests"])
        except _UNREADABLE as error:
            raise ProtocolError(f"{target} cannot be read", f"{type(error).__name__}: {error}") from error
        raise UsageError(f"unknown target {target}", "this version does not speak it")

    async def undo(self, device: str, content: Mapping[str, Any]) -> dict[str, bool]:
        """Undo what a key of a device's did here.

        Raises:
            SlipError: it could not be undone.
        """
        return {"undone": await self._invoker.undo(str(content.get("key")), Caller(device))}

    def note(self, device: str, target: str, content: Mapping[str, Any]) -> None:
        """What a device (this one too) tells; a target of a newer version is not for us.

        Raises:
            ProtocolError: it cannot be read.
        """
        try:
            if target == "slip.deliver":
                self._executor.delivered(device, content)
            elif target == "slip.report" and (run := self._runs.by_id.get(content["run"])) is not None:
                check_report(content)
                good = content["inline"] and content["state"] in GOOD
                if good and device != self._me and run.matches(device, content):
                    self._executor.handed(run.id, content["step"], content["state"], content["value"])
                run.report(device, content)
            elif target == "slip.progress" and (run := self._runs.by_id.get(content["run"])) is not None:
                run.progress(device, content)
            elif target == "slip.digest":
                self._members.digest_from(device, content["digest"], self._clock())
            elif target == "slip.roster":
                self._admission.note(device, content)
            elif target == "slip.consent":
                self._consents.note(device, content)
        except _UNREADABLE as error:
            raise ProtocolError(f"{target} cannot be read", f"{type(error).__name__}: {error}") from error
