"""`slip pair invite | join | show | accept`: two devices meet by a code that one shows and the other is told."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import termios
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from ssl import SSLContext
from typing import TypeVar
from urllib.parse import urlsplit

from .. import config as settings
from .. import places
from ..config import Config
from ..control import ask
from ..core import authority
from ..core.errors import Denied, NotRunning, UsageError
from ..core.identity import CERTIFICATE, format_id, make_private
from ..core.journal import Journal
from ..core.trust import Member, Role, Roster
from ..transports.invitation import Invitation
from ..transports.pairing import Listener, dial
from ..transports.pairing_sides import INVITATION_SECONDS, Newcomer, NewcomerSide, OwnerSide, Side, Welcome
from ..transports.pairing_wire import server_of, server_of_key
from ..transports.sockets import announced, bind
from . import output
from .pair import require_answer, role_of, tell_daemon
from .parsing import need

Met = TypeVar("Met")


def main(args: argparse.Namespace, state: Path) -> int:
    """Show a code or use one, as an owner or as a newcomer."""
    code = None
    if args.action in ("join", "accept"):
        code = Invitation.parse(need(args.what, "code", f"slip pair {args.action} CODE (the line with slip:...)"))
        _require_fitting(args.action, code)
    return (_let_in if args.action in ("invite", "accept") else _come_in)(args, state, code)


def _require_fitting(action: str, code: Invitation) -> None:
    if action == "join" and not code.by_owner:
        raise UsageError("that code is of a device that wants to be let in itself", "",
                         "on an owner: slip pair accept CODE", field="code")  # fmt: skip
    if action == "accept" and code.by_owner:
        raise UsageError("that code is an owner's", "", "on the device that is to be let in: slip pair join CODE",
                         field="code")  # fmt: skip


# -- an owner ----------------------------------------------------------------------------------------------------------


def _let_in(args: argparse.Namespace, state: Path, code: Invitation | None) -> int:
    role = Role(args.role or "member")
    if (role is Role.GUEST) != (args.lasts is not None) or (args.profile and role is not Role.GUEST):
        raise UsageError("a guest stays for some time, and only a guest", "", "--role guest --for 2h [--profile valet]")
    require_answer(args)
    owner = authority.Authority.load(state)
    admitted: list[Member] = []

    async def let_in(newcomer: Newcomer) -> Welcome:
        member = Member(
            newcomer.id, args.name or newcomer.name, newcomer.kind, role,
            None if args.lasts is None else time.time() + args.lasts, args.profile or "", owner.identity.id,
        )  # fmt: skip
        if not args.yes and not await _confirmed(member):
            raise Denied("the owner did not let this device in")
        addresses = await asyncio.to_thread(_mesh_addresses, state)
        given = owner.admit(newcomer.csr, name=member.name, kind=member.kind, role=role, until=member.until,
                            profile=member.profile)  # fmt: skip
        admitted.append(member)
        return Welcome(owner.identity.id, given, addresses)

    side = OwnerSide(owner.identity.id, let_in)
    try:
        if code is None:
            _wait(args, settings.load({"state": str(state)}).config, side, partial(server_of, owner.identity))
        else:
            asyncio.run(dial(side, code))
    finally:
        if admitted:  # even if the newcomer hung up then, the roster has it
            tell_daemon(state)
    member = admitted[0]
    if args.json:
        output.show_json({"joined": {"id": member.id, "name": member.name, "kind": member.kind, "role": role.value,
                                     "until": member.until, "profile": member.profile}})  # fmt: skip
    else:
        said = f"{member.name} ({member.kind}) is of this mesh now, as {role_of(member)}"
        output.line(f"{said}: {format_id(member.id)}")
    return 0


async def _confirmed(member: Member) -> bool:
    """What the person at the terminal says to a newcomer; what was typed before the question answers nothing."""
    terminal = sys.stdin.fileno()
    termios.tcflush(terminal, termios.TCIFLUSH)
    print(f"let {member.name} ({member.kind}) in as {role_of(member)}?\n"
          f"  it shows the id {format_id(member.id)}, if it is the one\n  [y/N] ",
          end="", file=sys.stderr, flush=True)  # fmt: skip
    loop = asyncio.get_running_loop()
    typed: asyncio.Future[bytes] = loop.create_future()

    def read() -> None:
        if not typed.done():
            typed.set_result(os.read(terminal, 1000))

    loop.add_reader(terminal, read)
    try:
        return (await typed).strip().lower() in (b"y", b"yes")
    finally:
        loop.remove_reader(terminal)


def _mesh_addresses(state: Path) -> tuple[str, ...]:
    """Where this device's daemon listens, if one runs."""
    try:
        return tuple(ask(state, "status")["device"]["addresses"])
    except NotRunning:
        return ()


# -- a newcomer --------------------------------------------------------------------------------------------------------


def _come_in(args: argparse.Namespace, state: Path, code: Invitation | None) -> int:
    config = settings.load({"state": str(state), "name": args.name, "kind": args.kind}).config
    if (state / CERTIFICATE).exists():
        raise UsageError(f"{state} belongs to a mesh already", "a key is never overwritten",
                         "choose another folder: --state DIR")  # fmt: skip
    make_private(state)  # a code is not used up for a folder that could not hold the key
    asked = authority.request()

    roster: list[Roster] = []

    def settle(welcome: Welcome) -> None:
        roster.append(authority.examine(asked, welcome.admitted, welcome.by))
        try:
            authority.settle(state, asked, welcome.admitted)
        except OSError as error:
            raise UsageError(f"the state folder {state} cannot be written", error.strerror or str(error),
                             "choose another folder: --state DIR") from None  # fmt: skip

    waits = partial(output.note, "the owner is asked to let this device in ...")
    side = NewcomerSide(asked, config.name, config.kind, settle, waits)
    output.note(f"this device is {format_id(asked.id)}")
    if code is None:
        welcome = _wait(args, config, side, partial(server_of_key, authority.shown(asked), asked.key))
    else:
        welcome = asyncio.run(dial(side, code))
    _remember(state, welcome)
    me, owner = roster[0].member(asked.id), roster[0].member(welcome.by)
    assert me is not None
    assert owner is not None
    if args.json:
        output.show_json({"joined": {"id": me.id, "name": me.name, "kind": me.kind, "role": me.role.value,
                                     "until": me.until, "by": {"id": owner.id, "name": owner.name}}})  # fmt: skip
    else:
        output.line(f"{me.name} is of the mesh of {owner.name} now, as {role_of(me)}: {format_id(me.id)}")
        output.note("start it: slip up")
    return 0


def _remember(state: Path, welcome: Welcome) -> None:
    """Where the owner's daemon listens, for this device's own to dial: best at the host where it was met just now."""
    here = (f"tls://{welcome.host}:", f"tls://[{welcome.host}]:")
    met = [address for address in welcome.addresses if address.startswith(here)]
    if address := next(iter((*met, *welcome.addresses)), None):
        with closing(Journal(state / places.JOURNAL, time.time)) as journal:
            journal.remember("known", {**(journal.fact("known") or {}), welcome.by: address})


# -- the side that listens ---------------------------------------------------------------------------------------------


def _wait(args: argparse.Namespace, config: Config, side: Side[Met], context: Callable[[], SSLContext]) -> Met:
    """Show a code and wait for the one that uses it."""
    with ExitStack() as stack:
        try:
            sockets = [stack.enter_context(bound) for bound in bind(config.listen.hosts, 0)]
        except OSError as error:
            raise UsageError(f"cannot listen on {', '.join(config.listen.hosts)}", error.strerror or str(error),
                             "slip config show listen.hosts", field="listen.hosts") from None  # fmt: skip
        hosts = [str(urlsplit(address).hostname) for address in announced(sockets)]
        by_owner = side.role == "owner"
        invitation = Invitation.new(side.id, hosts, sockets[0].getsockname()[1], by_owner=by_owner)
        _show(args, invitation)
        return asyncio.run(Listener(side, invitation, sockets, context(), output.note).run())


def _show(args: argparse.Namespace, invitation: Invitation) -> None:
    code = invitation.code()
    if args.json:
        output.show_json({"code": code, "seconds": INVITATION_SECONDS})
        return
    if sys.stdout.isatty():
        import segno

        segno.make(code.upper(), error="l", boost_error=False, micro=False).terminal(compact=True)
    print(code, flush=True)
    there = "on the new device: slip pair join" if invitation.by_owner else "on an owner: slip pair accept"
    output.note(f"{there} CODE; it lives {INVITATION_SECONDS / 60:g} minutes, works once, and Ctrl-C withdraws it")
