"""What the daemon answers about trust: the roster, the policy, and what people are asked."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final

from msgpack import packb

from .control_server import Talk, Verb
from .core import arguments
from .core.consent_table import Request
from .core.errors import NoDevice, UsageError
from .core.gate import Caller
from .core.node import Node
from .core.skill import Driving
from .core.trust import Member, Role

RENEW_SECONDS: Final = 20.0


class TrustVerbs:
    """The verbs of one daemon; `roster_changed` takes over what another process of this device wrote."""

    def __init__(self, node: Node, roster_changed: Callable[[], None]) -> None:
        self._node, self._roster_changed = node, roster_changed

    def table(self) -> dict[str, Verb]:
        """Every verb by name."""
        return {
            "roster.reload": self._reload, "roster.renew": self._renew, "policy.explain": self._explain,
            "consent.list": self._list, "consent.answer": self._answer, "consent.grants": self._grants,
            "consent.forget": self._forget,
        }  # fmt: skip

    async def _reload(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        self._roster_changed()
        return {"members": len(self._node.admission.roster.members())}

    async def _renew(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        """Have an owner let this device's new key in (`csr`, base64), or end its old one (`retire`)."""
        node = self._node
        owners = [m for m in node.admission.roster.members() if m.role is Role.OWNER and m.id in node.links.up]
        if not owners:
            raise NoDevice("no owner is here", "only an owner lets a new key in", "slip pair roster says which are")
        deadline = node.clock() + RENEW_SECONDS
        if args.get("retire") is True:
            await node.request(owners[0].id, "slip.rotate", {"retire": True}, deadline)
            return {"retired": node.id}
        csr = b64decode(str(args.get("csr", "")), validate=True)
        told = await node.request(owners[0].id, "slip.rotate", {"csr": csr}, deadline)
        return {"admitted": b64encode(packb(told)).decode(), "owner": owners[0].id, "by": owners[0].name}

    # -- policy --------------------------------------------------------------------------------------------------------

    async def _explain(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        node, skill = self._node, str(args.get("skill", ""))
        spec = node.catalogue.get(skill)
        typed = args.get("text") or {}
        given = {**(args.get("args") or {}), **arguments.read(skill, spec.input_schema, typed)}
        caller = self._member(str(args.get("device", "")))
        origin = self._member(str(args["origin"])) if args.get("origin") else caller
        said = args.get("driving")
        if said is not None and said not in list(Driving):
            raise UsageError(f"driving is {said!r}", f"it may be {', '.join(Driving)}", field="driving")
        driving = None if said is None else Driving(said)
        verdict = node.gate.decide(spec, given, Caller(caller.id, origin.id), driving)
        return {
            "answer": verdict.answer, "rule": verdict.rule, "why": verdict.why, "hint": verdict.hint,
            "device": caller.name, "origin": origin.name, "skill": skill,
        }  # fmt: skip

    def _member(self, named: str) -> Member:
        """A device of the roster by id, name or the beginning of its id."""
        members = self._node.admission.roster.members()
        plain = named.replace("-", "")
        fits = [m for m in members if named and named in (m.id, m.name)]
        fits = fits or [m for m in members if len(plain) >= 4 and m.id.startswith(plain)]
        if len(fits) != 1:
            why = f"{len(fits)} devices are called that" if fits else "the roster has no such device"
            raise UsageError(f"which device is {named!r}?", why, "slip pair roster", field="device")
        return fits[0]

    # -- consent -------------------------------------------------------------------------------------------------------

    async def _list(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        return {"open": [self._shown(request) for request in self._node.gate.consents.open()]}

    def _shown(self, r: Request) -> Mapping[str, Any]:
        name = self._node.name_of
        return {
            "id": r.id, "skill": r.skill, "title": r.title, "effect": r.effect, "args": r.args, "run": r.run,
            "step": r.step, "device": r.device, "device_name": name(r.device), "caller": r.caller,
            "caller_name": name(r.caller), "origin": r.origin, "origin_name": name(r.origin),
            "asked_at": r.asked_at, "seconds_left": max(0.0, r.until - self._node.wall()),
        }  # fmt: skip

    async def _answer(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        answer, request = str(args.get("answer", "")), str(args.get("id", ""))
        device = str(args["device"]) if args.get("device") else None
        stands = await self._node.gate.consents.answer(request, answer, self._node.name, device)
        return {"id": request, "answer": stands.answer, "by": stands.by}

    async def _grants(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        name = self._node.name_of
        return {
            "grants": [
                {**grant, "caller_name": name(grant["caller"]), "origin_name": name(grant["origin"])}
                for grant in self._node.gate.consents.grants()
            ]
        }

    async def _forget(self, args: dict[str, Any], talk: Talk) -> dict[str, Any]:
        self._node.gate.consents.forget(str(args.get("id", "")))
        return {"forgotten": args.get("id")}
