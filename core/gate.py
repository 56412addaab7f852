"""What stands between a call and the skill that it names, on the device that runs it (law 4).

Laws:
- Whoever calls, and on whose behalf: both are looked up in the roster on every call, and both must be allowed. So a
  device that names an origin can only lose by it, and a forged one gains nothing.
- The floor and the rules are asked again after a person was: by then the car may move.
- What leaves this device for another one leaves without what that one may not see: there is a handle in its place.
- Every refusal, every question and every effect is in the audit log before anything is done about it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Any, Final, Protocol

from .admission import Admission
from .audit import Audit
from .consent import Consents
from .device import short
from .errors import Denied, SlipError
from .events import Events
from .labels import Handles, Label, Labels, MaySee, conceal, labels_of, redact, through
from .policy import Policy, Verdict
from .skill import Driving, Effect, SkillSpec
from .timers import Timers
from .trust import Member, Role

_ANY_TIME: Final = datetime(2000, 1, 1)
REFUSALS_TOLD: Final = 20
"""Refusals of one caller that are told of in a second; the others are counted."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who wants a skill to run: the device that TLS proved, the one that it names as the origin, and for which step."""

    device: str
    origin: str = ""
    run: str = ""
    step: str = ""
    private: bool = False
    """Whether it brings what may not leave the device that runs the skill: nor may what the skill makes of it."""


class PolicySource(Protocol):
    """Where the policy of this device lies."""

    def current(self) -> Policy:
        """As it is now; a file that cannot be read any more leaves the last good one in force."""


class Gate:
    """Lets invocations in, asks a person where the policy says so, and values out."""

    def __init__(
        self, me: str, admission: Admission, policy: PolicySource, driving: Callable[[], Driving | None],
        consents: Consents, handles: Handles, audit: Audit, events: Events, wall: Callable[[], float], timers: Timers,
        clock: Callable[[], float],
    ) -> None:  # fmt: skip
        self._me, self._admission, self._policy, self._driving = me, admission, policy, driving
        self.consents, self._handles, self._audit, self._events, self._wall = consents, handles, audit, events, wall
        self._myself: Member | None = None
        self._timers, self._clock = timers, clock
        self._refusals: dict[str, int] = {}
        self._shapes: dict[SkillSpec, tuple[Labels | None, Labels | None]] = {}

    # -- in ----------------------------------------------------------------------------------------------------------

    def decide(
        self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller, driving: Driving | None = None
    ) -> Verdict:
        """What the policy says of a call; `driving` in place of what the vehicle is doing.

        Raises:
            Refused: one of the two devices is not of this mesh.
        """
        by = self._as(caller.device)
        of = by if not caller.origin or caller.origin == caller.device else self._as(caller.origin)
        policy = self._policy.current()
        now = datetime.fromtimestamp(self._wall()) if policy.timed else _ANY_TIME
        return policy.decide(spec, args, by, of, driving or self._driving(), now)

    def _as(self, device: str) -> Member:
        """What a device is here; whoever is at this one has it in his hands, so here it is an owner."""
        member = self._admission.check(device)
        if device != self._me or member.role is Role.OWNER:
            return member
        if self._myself is None or self._myself.id != member.id or self._myself.name != member.name:
            self._myself = replace(member, role=Role.OWNER)
        return self._myself

    def must_ask(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> bool:
        """Whether a person must be asked before this call.

        Raises:
            Denied: the policy refuses it.
            Refused: one of the two devices is not of this mesh.
        """
        verdict = self.decide(spec, args, caller)
        if verdict.answer == "refuse":
            self._refuse(spec, caller, verdict)
        if verdict.answer == "allow" and spec.effect is not Effect.READ:
            self._audit.tell("effect", **_about(spec, caller), rule=verdict.rule)
        return verdict.answer == "ask"

    async def ask(
        self, spec: SkillSpec, args: Mapping[str, Any], key: str, caller: Caller, on_asking: Callable[[bool], None]
    ) -> None:
        """Have a person decide; `on_asking` hears when that begins and ends.

        Raises:
            Denied: they said no, or nobody answered, or the policy refuses it by then.
        """
        hidden = Label.PERSONAL if caller.private else Label.DEVICE
        shown = dict(redact(args, self._labels(spec)[0], hidden))
        origin = caller.origin or caller.device
        asking = False

        def begin() -> None:
            nonlocal asking
            self._audit.tell("asked", **_about(spec, caller))
            asking = True
            on_asking(True)

        try:
            await self.consents.ask(spec, shown, key, caller.device, origin, self._policy.current().consent_seconds,
                                    caller.run, caller.step, begin)  # fmt: skip
        except Denied as error:
            if self._may_tell(caller.device):
                self._audit.tell("refused", **_about(spec, caller), rule="consent", why=str(error))
            raise
        finally:
            if asking:
                on_asking(False)
        self.again(spec, args, caller)
        self._audit.tell("effect", **_about(spec, caller), rule="consent")

    def again(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """Look again after a wait.

        Raises:
            Denied, Refused: it may not be done any more.
        """
        verdict = self.decide(spec, args, caller)
        if verdict.answer == "refuse":
            self._refuse(spec, caller, verdict)

    def undoing(self, spec: SkillSpec, args: Mapping[str, Any], caller: Caller) -> None:
        """Let what was done be undone; a person who let it be done has let it be undone too.

        Of what moves, nobody knows what undoing it moves: it waits until the vehicle is parked.

        Raises:
            Denied, Refused: it may not be undone now.
        """
        self.again(spec, args, caller)
        driving = self._driving()
        if spec.effect is Effect.PHYSICAL and driving not in (None, Driving.PARKED):
            rule, why = "the floor: undoing what moves, while not parked", f"undoing {spec.name} moves something"
            self._refuse(spec, caller, Verdict("refuse", rule, why, "park, then do it again"))
        self._audit.tell("effect", **_about(spec, caller), rule="undo")

    def _refuse(self, spec: SkillSpec, caller: Caller, verdict: Verdict) -> None:
        if self._may_tell(caller.device):
            self._audit.tell("refused", **_about(spec, caller), rule=verdict.rule, why=verdict.why)
            self._events.tell("policy.refused", skill=spec.name, device=self._me, caller=caller.device,
                              rule=verdict.rule, why=verdict.why)  # fmt: skip
        raise Denied(f"{spec.name} is not allowed here", f"{verdict.why} ({verdict.rule})", verdict.hint,
                     skill=spec.name)  # fmt: skip

    def _may_tell(self, caller: str) -> bool:
        """Whether one more refusal is told: who is refused all the time must not wash the rest out of the log."""
        if not self._refusals:
            self._timers.at(self._clock() + 1.0, self.tell_more)
        self._refusals[caller] = self._refusals.get(caller, 0) + 1
        return self._refusals[caller] <= REFUSALS_TOLD

    def tell_more(self) -> None:
        """Tell how many refusals there were beyond those that were told, since this was last asked."""
        more = {short(caller): n - REFUSALS_TOLD for caller, n in self._refusals.items() if n > REFUSALS_TOLD}
        self._refusals.clear()
        if more:
            self.tell_if_it_can("refused", more=more)

    def tell_if_it_can(self, what: str, **fields: Any) -> None:
        """A line of the audit log for what happened already: there is no caller who could be told that it failed."""
        try:
            self._audit.tell(what, **fields)
        except SlipError as error:
            self._events.tell("warning", what=error.what, why=error.why, hint=error.hint)

    def open(self, spec: SkillSpec, args: dict[str, Any]) -> dict[str, Any]:
        """Arguments with the handles that this device gave out turned into what they stand for; the same object if
        there are none. What a skill makes of such arguments is `private` too.

        Raises:
            UsageError: a handle of this device that it does not know any more, or where none may be.
        """
        if not self._handles.any_in(args):  # most calls bring none
            return args
        opened: dict[str, Any] = self._handles.resolve(args, self._labels(spec)[0])
        return opened

    # -- out ---------------------------------------------------------------------------------------------------------

    def out(
        self, spec: SkillSpec, value: Any, to: str, *, key: str | None = None, listed: bool = False,
        private: bool = False,
    ) -> Any:  # fmt: skip
        """A result of a skill as another device may have it.

        `key` is that of its invocation, under which equal values get equal handles; `listed` for a step with
        `for_each`; `private` if it was made of what may not leave this device.
        """
        return self.shown(value, self._labels(spec)[1], to, key=key, listed=listed, private=private)

    def keeps(self, spec: SkillSpec, path: Sequence[str], source: Labels | None) -> bool:
        """Whether an argument promises to keep what may not leave this device: such a value, or one made of some."""
        labels = self._labels(spec)[0]
        place = labels.at(path) if labels else None
        return place is not None and (source is None or place.keeps(source))

    def result_labels(self, spec: SkillSpec) -> Labels | None:
        """Where the result of a skill is labelled."""
        return self._labels(spec)[1]

    def shown(
        self, value: Any, labels: Labels | None, to: str, *, key: str | None = None, listed: bool = False,
        private: bool = False,
    ) -> Any:  # fmt: skip
        """A value with such labels as another device may have it."""
        if not labels or to == self._me:
            return value
        to_them: MaySee = partial(self.may_see, to)
        may_see = through(to_them) if private else to_them
        handle = partial(self._handles.mint, key=key)
        if listed and isinstance(value, dict) and isinstance(value.get("result"), list):
            return {**value, "result": [conceal(item, labels, may_see, handle) for item in value["result"]]}
        return conceal(value, labels, may_see, handle)

    def item_out(self, spec: SkillSpec, item: Any, to: str, *, private: bool) -> Any:
        """One item of a streamed result as another device may have it."""
        return self.out(spec, {"result": [item]}, to, private=private)["result"][0]

    def may_see(self, device: str, label: Label) -> bool:
        """Whether a device may have values with that label."""
        if device == self._me or label is Label.PUBLIC:
            return True
        if label is not Label.PERSONAL:
            return False
        member = self._admission.roster.member(device)
        return member is not None and self._policy.current().may_see(member, label.value)

    def _labels(self, spec: SkillSpec) -> tuple[Labels | None, Labels | None]:
        found = self._shapes.get(spec)
        if found is None:
            found = self._shapes[spec] = labels_of(spec.input_schema), labels_of(spec.output_schema)
        return found


def _about(spec: SkillSpec, caller: Caller) -> dict[str, Any]:
    about = {"skill": spec.name, "effect": spec.effect.value, "caller": short(caller.device)}
    if caller.origin and caller.origin != caller.device:
        about["origin"] = short(caller.origin)
    if caller.run:
        about["run"], about["step"] = caller.run, caller.step
    return about
