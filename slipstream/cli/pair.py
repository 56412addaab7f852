"""`slip pair`: the first device of a mesh, letting others in and throwing them out, and who is in.

It works on the files of the state folder, whether a daemon runs or not; a daemon that runs is told of every change.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..control import ask
from ..core.device import short
from ..core.errors import NotRunning, UsageError
from . import output
from .parsing import need, seconds, state_of

if TYPE_CHECKING:
    from ..core.identity import Identity
    from ..core.trust import Member, Roster

ACTIONS: Final = {
    "new": ("name", "kind"),
    "invite": ("role", "lasts", "profile", "name", "yes"),
    "join": ("name", "kind"),
    "show": ("name", "kind"),
    "accept": ("role", "lasts", "profile", "name", "yes"),
    "revoke": ("yes",),
    "roster": (),
    "rotate": (),
}
"""Every action, and the options that it takes."""
_FLAGS: Final = {"lasts": "for"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", choices=tuple(ACTIONS))
    parser.add_argument(
        "what", nargs="?", metavar="CODE|DEVICE", help="join, accept: the code; revoke: a name or an id"
    )
    parser.add_argument("--name", help="new, join, show: how people call this device; invite, accept: the other one")
    parser.add_argument("--kind", help="new, join, show: phone, car, hub, ... (default: as configured)")
    parser.add_argument("--role", choices=("owner", "member", "guest"), help="what the new device is (default: member)")
    parser.add_argument("--for", dest="lasts", type=seconds, metavar="TIME", help="how long a guest may stay, like 2h")
    parser.add_argument("--profile", help="what kind of guest, as the policy names them: valet, passenger, ...")
    parser.add_argument("--yes", action="store_true", default=None, help="do not ask")


def main(args: argparse.Namespace) -> int:
    """Do it and show."""
    for option in ("name", "kind", "role", "lasts", "profile", "yes"):
        if getattr(args, option) is not None and option not in ACTIONS[args.action]:
            raise UsageError(f"slip pair {args.action} takes no --{_FLAGS.get(option, option)}", "", "slip pair --help")
    if args.what is not None and args.action not in ("join", "accept", "revoke"):
        raise UsageError(f"slip pair {args.action} takes no {args.what[:60]!r}", "", "slip pair --help")
    state = state_of(args)
    if args.action == "new":
        return _new(args, state)
    if args.action == "roster":
        return _show(args, state)
    if args.action == "revoke":
        return _revoke(args, state)
    if args.action == "rotate":
        return _rotate(args, state)
    from . import pair_code

    return pair_code.main(args, state)


def _new(args: argparse.Namespace, state: Path) -> int:
    from .. import config as settings
    from ..core import authority
    from ..core.identity import format_id

    config = settings.load({"state": str(state), "name": args.name, "kind": args.kind}).config
    me = authority.found(config.state, config.name, config.kind)
    if args.json:
        output.show_json({"device": {"id": me.id, "name": config.name, "kind": config.kind}})
        return 0
    output.line(f"{config.name} ({config.kind}) is the first device of a new mesh: {format_id(me.id)}")
    output.note("start it: slip up; let another one in: slip pair invite")
    return 0


def _show(args: argparse.Namespace, state: Path) -> int:
    roster = _roster(state)
    members = roster.members()
    if args.json:
        output.show_json({
            "mesh": roster.mesh,
            "members": [{"id": m.id, "name": m.name, "kind": m.kind, "role": m.role.value, "until": m.until,
                         "profile": m.profile, "by": None if m.by == roster.mesh else m.by} for m in members],
        })  # fmt: skip
        return 0
    names = {m.id: m.name for m in members}
    output.table(
        ("name", "kind", "role", "until", "id", "let in by"),
        [
            (m.name, m.kind, m.role.value + (f" ({m.profile})" if m.profile else ""), until(m), m.id,
             None if m.by == roster.mesh else names.get(m.by, short(m.by)))
            for m in members
        ],
    )  # fmt: skip
    return 0


def _revoke(args: argparse.Namespace, state: Path) -> int:
    from ..core import authority

    wanted = need(args.what, "device", "slip pair revoke DEVICE (a name or an id: slip pair roster)")
    owner = authority.Authority.load(state)
    roster = _roster(state)
    member = named(roster, wanted)
    if [m.id for m in roster.members() if m.role.value == "owner"] == [member.id]:
        raise UsageError(f"{member.name} is the last owner of this mesh", "nobody could let a device in any more",
                         "make another one first: slip pair invite --role owner")  # fmt: skip
    require_answer(args)
    if not args.yes:
        print(f"throw {member.name} ({member.kind}, {member.id}) out, for ever? [y/N] ", end="", file=sys.stderr)
        sys.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            output.note(f"{member.name} stays")
            return 1
    keys = [m.id for m in roster.line(member.id)]
    owner.revoke(member.id)
    tell_daemon(state)
    if args.json:
        output.show_json({"revoked": {"id": member.id, "name": member.name, "keys": keys}})
    else:
        output.line(f"{member.name} ({member.id}) is out, on every device that hears of it")
    return 0


def _rotate(args: argparse.Namespace, state: Path) -> int:
    from ..core import authority
    from ..core.identity import OWNER, Identity

    before = Identity.load(state)
    if not (state / OWNER).exists():
        after = _renew(state)
    else:
        after = authority.Authority.load(state).rotate()
        tell_daemon(state)
    if args.json:
        output.show_json({"device": after.id, "revoked": before.id})
        return 0
    output.line(f"this device has a new key: {after.id}; the old one, {before.id}, is revoked")
    output.note("a daemon that runs takes it at its next start: slip down, then slip up")
    return 0


def _renew(state: Path) -> Identity:
    """Have an owner that is linked with this device's daemon let a new key in, and then end the old one."""
    from base64 import b64decode, b64encode

    import msgpack

    from ..core import authority
    from ..core.identity import Identity

    asked = authority.request()
    told = ask(state, "roster.renew", {"csr": b64encode(asked.csr).decode()}, timeout=30)
    admitted = authority.Admitted.from_wire(msgpack.unpackb(b64decode(told["admitted"])))
    authority.examine(asked, admitted, told["owner"])
    known = [s.to_wire() for s in _roster(state).statements]
    authority.replace_identity(state, asked, replace(admitted, statements=[*known, *admitted.statements]))
    ask(state, "roster.renew", {"retire": True}, timeout=30)
    return Identity.load(state)


# -- what the actions have in common -----------------------------------------------------------------------------------


def _roster(state: Path) -> Roster:
    from ..core.identity import Identity
    from ..core.roster_file import RosterFile

    Identity.load(state)  # says what is missing better than the roster could
    return RosterFile(state).load()


def named(roster: Roster, wanted: str) -> Member:
    """The member that a name, an id or the beginning of an id means.

    Raises:
        UsageError: none, or several.
    """
    members = roster.members()
    plain = wanted.replace("-", "").lower()
    found = [m for m in members if wanted == m.name or plain == m.id] or [m for m in members if m.id.startswith(plain)]
    found = found or roster.line(plain)[:1]  # an old key of a device that has a new one
    if not plain or not found:
        from .parsing import nearest

        hint = nearest(wanted, [m.name for m in members]) or "slip pair roster"
        raise UsageError(f"no device {wanted[:60]} in this mesh", "", hint, field="device")
    if len(found) > 1:
        ids = ", ".join(short(m.id) for m in found)
        raise UsageError(f"{wanted[:60]} could be {len(found)} devices", ids, "name it by its id: slip pair roster",
                         field="device")  # fmt: skip
    return found[0]


def until(member: Member) -> str | None:
    """When a guest's time is over, as people here read it."""
    return None if member.until is None else f"{datetime.fromtimestamp(member.until):%Y-%m-%d %H:%M}"


def role_of(member: Member) -> str:
    """What a device is, and of a guest until when."""
    return member.role.value + (f" until {until(member)}" if member.until is not None else "")


def require_answer(args: argparse.Namespace) -> None:
    """Whoever is asked must be there to answer.

    Raises:
        UsageError: nobody is, and there was no --yes.
    """
    if not args.yes and (args.no_input or not sys.stdin.isatty()):
        why = "--no-input forbids it" if args.no_input else "no terminal is there to ask at"
        raise UsageError(f"slip pair {args.action} has to ask a person", why, f"slip pair {args.action} --yes")


def tell_daemon(state: Path) -> None:
    """Have the daemon of that state folder take over the roster as it is now; without one, its next start does."""
    with suppress(NotRunning):
        ask(state, "roster.reload")
