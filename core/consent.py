"""Asking a person first: questions of this device, put to people wherever they are, and questions of other devices.

Laws:
- The device that runs the skill asks, and its table alone says what stands: the first answer that counts. Whoever
  answers later is told who answered what.
- Written before it is acted on: a question with a key, its answer and what is remembered outlive a restart, and the
  same key (same skill, devices and arguments) is not asked about twice.
- Nobody there, no answer in time, a link that is lost: denied. Only a person allows.
- Level-triggered: a device that appears is told all that is open here, and tells again what a person said there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any, Final

import anyio

from .consent_table import ConsentTable, Request, Stands
from .device import NAME_LIMIT, clean, short
from .errors import Denied, TimedOut, UsageError
from .events import Events
from .readable import readable
from .skill import SkillSpec
from .timers import Timer, Timers

ANSWERS: Final = ("once", "always", "no", "never")
"""What a person may say: yes or no, for this once or remembered for the skill and the devices that want it."""
UNANSWERED: Final = ("nobody", "withdrawn")
"""How a question may end without: its time was up, or nobody wants to know any more."""
OPEN_LIMIT: Final = 64
"""Open questions of one device, and of all callers here."""
CALLER_LIMIT: Final = 16
"""Open questions here for one caller."""
LONGEST: Final = 86_400.0
"""Seconds that a question of another device may be open."""
CONFIRM_SECONDS: Final = 5.0
"""How long the device that asked may take to say what stands."""
_ENDED_LIMIT: Final = 256


@dataclass(slots=True)
class _Open:
    """A question that is open."""

    request: Request
    digest: str = ""
    waiting: int = 0
    reached: bool = False
    """Whether it was put to a device of a person."""
    said: dict[str, Any] | None = None
    """What a person said here to another device's question; it counts once that device confirms."""
    ignored: set[str] = field(default_factory=set)
    timer: Timer | None = None
    stands: Stands | None = None
    ended: anyio.Event = field(default_factory=anyio.Event)


class Consents:
    """The questions that are open on one device; `people` are the other devices here whose owner may answer."""

    def __init__(
        self, me: str, database: sqlite3.Connection, events: Events, clock: Callable[[], float],
        wall: Callable[[], float], timers: Timers, new_id: Callable[[], str],
        send: Callable[[str, dict[str, Any]], None], people: Callable[[], Iterable[str]],
        may_answer: Callable[[str], bool], name_of: Callable[[str], str],
    ) -> None:  # fmt: skip
        self._me, self._events, self._clock, self._wall = me, events, clock, wall
        self._timers, self._new_id, self._send, self._people = timers, new_id, send, people
        self._may_answer, self._name_of = may_answer, name_of
        self._open: dict[tuple[str, str], _Open] = {}
        self._ended: dict[tuple[str, str], Stands] = {}
        self._closed = False
        self._table = ConsentTable(database, wall, new_id)
        for request, digest in self._table.open():  # what was open when this device stopped, for the time that is left
            left = min(request.until - wall(), request.until - request.asked_at)
            self._add(_Open(request, digest), left)

    def close(self) -> None:
        """This device stops: what is open stays open, for its next start."""
        self._closed = True

    # -- asking ------------------------------------------------------------------------------------------------------

    async def ask(
        self, spec: SkillSpec, args: Mapping[str, Any], key: str, caller: str, origin: str, seconds: float,
        run: str = "", step: str = "", on_asking: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Have a person decide; returns when it is allowed. `on_asking` hears when one must be asked, or waited for.

        Raises:
            Denied: a person said no, now or for ever, or nobody answered in time.
        """
        remembered = self._table.remembered(spec.name, caller, origin)
        refused = self._table.remembered(spec.name, caller, caller)  # for whomever it says that it asks
        if refused is not None and refused.answer == "never":
            remembered = refused
        if remembered is not None and remembered.answer == "never":
            raise self._denied(spec.name, remembered, 0, True)
        digest = sha256(repr((spec.name, args, caller, origin)).encode("utf-8", "surrogatepass")).hexdigest()
        entry = self._same(key, digest) if key else None
        if isinstance(entry, Stands):
            if entry.answer in ("once", "always"):
                return
            raise self._denied(spec.name, entry, seconds, True)
        if entry is None:
            if remembered is not None:
                return
            self._require_room(spec, caller)
            on_asking()
            entry = self._begin(spec, args, key, digest, caller, origin, seconds, run, step)
        else:
            on_asking()
        await self._wait(entry)
        assert entry.stands is not None
        if entry.stands.answer not in ("once", "always"):
            open_for = entry.request.until - entry.request.asked_at
            raise self._denied(spec.name, entry.stands, open_for, entry.reached)

    async def _wait(self, entry: _Open) -> None:
        entry.waiting += 1
        try:
            await entry.ended.wait()
        finally:
            entry.waiting -= 1
            if not entry.waiting and entry.stands is None and not self._closed:
                if entry.request.key:
                    self._table.drop(entry.request)
                self._end(entry, "withdrawn", "")
                self._tell_people({"withdrawn": entry.request.id})

    def _same(self, key: str, digest: str) -> _Open | Stands | None:
        """The question that was asked before under a key, or what stands of it."""
        stands = self._table.same(key, digest)
        return stands and (self._open.get((self._me, stands.id)) or stands)

    def _require_room(self, spec: SkillSpec, caller: str) -> None:
        mine = [entry.request for (device, _), entry in self._open.items() if device == self._me]
        if len(mine) >= OPEN_LIMIT or sum(r.caller == caller for r in mine) >= CALLER_LIMIT:
            raise Denied(f"{spec.name} was not approved", "too many questions are open here already",
                         "answer them first: slip consent list", skill=spec.name)  # fmt: skip

    def _begin(
        self, spec: SkillSpec, args: Mapping[str, Any], key: str, digest: str, caller: str, origin: str,
        seconds: float, run: str, step: str,
    ) -> _Open:  # fmt: skip
        now = self._wall()
        request = Request(
            self._new_id(), key, spec.name, clean(spec.title, 200), spec.effect.value, readable(args), caller, origin,
            self._me, clean(run), clean(step), now, now + seconds,
        )  # fmt: skip
        if key:  # without one nothing can come back to it after a restart
            self._table.begin(request, digest)
        entry = _Open(request, digest)
        self._add(entry, seconds)
        for device in self._people():
            self._put(entry, device)
        return entry

    def _add(self, entry: _Open, seconds: float) -> None:
        request = entry.request
        self._open[request.device, request.id] = entry
        entry.timer = self._timers.at(self._clock() + seconds, partial(self._time_is_up, entry))
        self._events.tell("consent.asked", request=request.id, skill=request.skill, device=request.device,
                          caller=request.caller, seconds=seconds)  # fmt: skip

    def _put(self, entry: _Open, device: str) -> None:
        r = entry.request
        entry.reached = True
        assert entry.timer is not None
        left = min(max(0.0, entry.timer.when - self._clock()), LONGEST)
        self._send(device, {"ask": {
            "id": r.id, "skill": r.skill, "title": r.title, "effect": r.effect, "args": r.args, "caller": r.caller,
            "origin": r.origin, "run": r.run, "step": r.step, "seconds": left,
        }})  # fmt: skip

    def _time_is_up(self, entry: _Open) -> None:
        # nothing is written: a row without an answer whose time has passed says the same
        self._end(entry, "nobody", "")
        if entry.request.device == self._me:
            self._tell_people({"settled": {"id": entry.request.id, "answer": "nobody", "by": ""}})

    def _end(self, entry: _Open, answer: str, by: str) -> Stands:
        request = entry.request
        del self._open[request.device, request.id]
        if entry.timer is not None:
            entry.timer.cancel()
        entry.stands = self._ended[request.device, request.id] = Stands(request.id, answer, by)
        while len(self._ended) > _ENDED_LIMIT:
            del self._ended[next(iter(self._ended))]
        self._events.tell("consent.answered", request=request.id, skill=request.skill, device=request.device,
                          answer=answer, by=by)  # fmt: skip
        entry.ended.set()
        return entry.stands

    def _denied(self, skill: str, stands: Stands, seconds: float, reached: bool) -> Denied:
        if stands.answer == "nobody":
            why = f"nobody answered within {seconds:g} s"
            if not reached:
                why += ", and no device of a person who may was here"
            return Denied(f"{skill} was not approved", why, "have somebody there who can answer: slip consent list",
                          skill=skill)  # fmt: skip
        if stands.answer == "never":
            hint = f"on {clean(self._name_of(self._me))}: slip consent grants, then: slip consent forget ID"
            return Denied(f"{skill} was not approved", f"{stands.by} said never", hint, skill=skill)
        return Denied(f"{skill} was not approved", f"{stands.by} said no", "ask them", skill=skill)

    # -- what people say ---------------------------------------------------------------------------------------------

    def open(self) -> list[Request]:
        """The questions that are open, of this device and of others, oldest first."""
        return sorted((entry.request for entry in self._open.values()), key=lambda request: request.asked_at)

    async def answer(self, request_id: str, answer: str, by: str, device: str | None = None) -> Stands:
        """What a person at this device says; what stands then, which somebody else may have said just before.

        With `device`, only to a question of that one: ids are of whoever asks, and may be another's too.

        Raises:
            UsageError: there is no such question, or it was answered already: by whom, and what.
            TimedOut: the device that asked did not confirm it yet; it is told again when it is back.
        """
        if answer not in ANSWERS:
            raise UsageError(f"{answer!r} is no answer", f"it may be {', '.join(ANSWERS)}", field="answer")
        found = [entry for (asker, known), entry in self._open.items()
                 if known == request_id and device in (None, asker)]  # fmt: skip
        if not found:
            raise self._not_open(request_id)
        if len(found) > 1:
            askers = " and ".join(clean(self._name_of(entry.request.device)) for entry in found)
            raise UsageError(f"which question {request_id}?", f"{askers} ask under that id", "answer it there")
        entry = found[0]
        if entry.request.device == self._me:
            return self._settle(entry, answer, clean(by) or clean(self._name_of(self._me)))
        if entry.said is None:
            entry.said = {"id": request_id, "answer": answer, "by": clean(by)}
            self._send(entry.request.device, {"answer": entry.said})
        with anyio.move_on_after(CONFIRM_SECONDS):
            await entry.ended.wait()
        if entry.stands is None:
            raise TimedOut(f"{clean(self._name_of(entry.request.device))} did not confirm the answer yet",
                           "it is told again as soon as it is back", "slip consent list")  # fmt: skip
        return entry.stands

    def _not_open(self, request_id: str) -> UsageError:
        stands = next((s for (_, known), s in self._ended.items() if known == request_id), None)
        if stands is None:
            stands = self._table.find(request_id)
        if stands is None:
            return UsageError(f"no open question {request_id}", "", "slip consent list")
        if stands.answer in ANSWERS:
            return UsageError(f"{request_id} is answered already", f"{stands.by} said {stands.answer}",
                              "slip consent list")  # fmt: skip
        why = "nobody answered in time" if stands.answer == "nobody" else "whoever wanted it does not any more"
        return UsageError(f"{request_id} is not open any more", why, "slip consent list")

    def _settle(self, entry: _Open, answer: str, by: str) -> Stands:
        """The first answer to a question of ours."""
        answers = [(entry, answer)]
        if answer in ("always", "never"):  # what waits for the same is answered with it
            plain = "once" if answer == "always" else "no"
            answers += [(e, plain) for e in self._open.values() if e is not entry and _alike(e.request, entry.request)]
        self._table.settle([(e.request, said) for e, said in answers], by)
        for e, said in answers:
            self._end(e, said, by)
            self._tell_people({"settled": {"id": e.request.id, "answer": said, "by": by}})
        assert entry.stands is not None
        return entry.stands

    # -- what is remembered ------------------------------------------------------------------------------------------

    def grants(self) -> list[dict[str, Any]]:
        """What people here said once for all, newest first: id, skill, caller, origin, answer, by, since."""
        return self._table.grants()

    def forget(self, grant_id: str) -> None:
        """Ask again from now on.

        Raises:
            UsageError: nothing is remembered under that id.
        """
        if not self._table.forget(grant_id):
            raise UsageError(f"nothing is remembered as {grant_id}", "", "slip consent grants")

    # -- other devices -----------------------------------------------------------------------------------------------

    def link_up(self, device: str) -> None:
        """A device is here (again): put to it what is open, and tell it again what people said here."""
        if device in set(self._people()):
            mine = [entry for (asker, _), entry in self._open.items() if asker == self._me]
            self._send(device, {"open": [entry.request.id for entry in mine]})
            for entry in mine:
                self._put(entry, device)
        for (asker, _), entry in list(self._open.items()):
            if asker == device and entry.said is not None:
                self._send(device, {"answer": entry.said})

    def note(self, device: str, content: Mapping[str, Any]) -> None:
        """What another device tells.

        Raises:
            KeyError, TypeError, ValueError: it cannot be read.
        """
        if (asked := content.get("ask")) is not None:
            self._asked(device, _map(asked))
        if (said := content.get("answer")) is not None:
            said = _map(said)
            self._answered(device, _text(said["id"]), _text(said["answer"]), _text(said.get("by", "")))
        if (settled := content.get("settled")) is not None:
            settled = _map(settled)
            self._over(device, _text(settled["id"]), _text(settled["answer"]), _text(settled["by"], 200))
        if (withdrawn := content.get("withdrawn")) is not None:
            self._over(device, _text(withdrawn), "withdrawn", "")
        if (still := content.get("open")) is not None:
            known = {_text(i) for i in still}
            for (asker, i), entry in list(self._open.items()):
                if asker == device and i not in known and entry.said is None:
                    self._over(device, i, "withdrawn", "")

    def _asked(self, device: str, asked: Mapping[str, Any]) -> None:
        seconds = asked["seconds"]
        if type(seconds) not in (int, float) or not 0 <= seconds <= LONGEST:
            raise ValueError("a question that is open for no sensible time")
        now = self._wall()
        request = Request(
            id=_text(asked["id"]), key="", skill=_text(asked["skill"], 200), title=_text(asked["title"], 200),
            effect=_text(asked["effect"]), args=readable(_map(asked["args"])), caller=_text(asked["caller"]),
            origin=_text(asked["origin"]), device=device, run=_text(asked["run"]), step=_text(asked["step"]),
            asked_at=now, until=now + seconds,
        )  # fmt: skip
        if (entry := self._open.get((device, request.id))) is not None:
            if entry.said is not None:
                self._send(device, {"answer": entry.said})
            return  # what a person was shown first stays: nothing is changed under their hands
        if device != self._me and sum(asker == device for asker, _ in self._open) < OPEN_LIMIT:
            self._add(_Open(request), seconds)

    def _answered(self, device: str, request_id: str, answer: str, by: str) -> None:
        if answer not in ANSWERS:
            raise ValueError("an answer that is none")
        entry = self._open.get((self._me, request_id))
        if not self._may_answer(device):
            if entry is not None and device not in entry.ignored:
                entry.ignored.add(device)
                self._events.tell("warning", what=f"{short(device)} answered a question that it may not answer",
                                  why="its answer does not count", hint="")  # fmt: skip
            return
        if entry is not None:
            name = clean(self._name_of(device))
            stands: Stands | None = self._settle(entry, answer, name if by in ("", name) else f"{by} at {name}")
        else:
            stands = self._ended.get((self._me, request_id)) or self._table.find(request_id)
        if stands is None:
            self._send(device, {"withdrawn": request_id})
        else:
            self._send(device, {"settled": {"id": request_id, "answer": stands.answer, "by": stands.by}})

    def _over(self, device: str, request_id: str, answer: str, by: str) -> None:
        entry = self._open.get((device, request_id))
        if answer not in (*ANSWERS, *UNANSWERED):
            raise ValueError("an end that is none")
        if entry is not None and device != self._me:
            self._end(entry, answer, by)

    def _tell_people(self, content: dict[str, Any]) -> None:
        for device in self._people():
            self._send(device, content)


def _alike(one: Request, other: Request) -> bool:
    """Whether what is remembered of the one decides the other."""
    return (one.device, one.skill, one.caller, one.origin) == (other.device, other.skill, other.caller, other.origin)


def _map(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no map")
    return value


def _text(value: Any, limit: int = NAME_LIMIT) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return clean(value, limit)
