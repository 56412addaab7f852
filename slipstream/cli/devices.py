"""`slip devices`: who is in the mesh."""

from __future__ import annotations

import argparse

from ..control import ask
from . import output
from .parsing import need, state_of
from .status import devices_table, link

USAGE = "slip devices {} DEVICE (a name or an id: slip devices list)"


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show", "ping", "forget"))
    parser.add_argument("device", nargs="?", help="a name or an id")


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    state = state_of(args)
    if args.action == "list":
        answer = ask(state, "devices")
        if args.json:
            output.show_json(answer)
            return 0
        devices_table(answer["devices"])
        if len(answer["devices"]) == 1:
            output.note("no other device is known here; start one: slip up, on another machine of this mesh")
        return 0
    device = need(args.device, "device", USAGE.format(args.action))
    verb = f"devices.{args.action}"
    answer = ask(state, verb, {"device": device})
    if args.json:
        output.show_json(answer)
    elif args.action == "ping":
        output.line(f"{answer['device']} answered in {answer['rtt_ms']:.3g} ms")
    elif args.action == "forget":
        output.line(f"{answer['forgotten']} is forgotten until it is back")
    else:
        found = answer["device"]
        devices_table([found])
        print()
        output.line(f"id         {found['id']}")
        output.line(f"link       {link(found)}")
        output.line(f"addresses  {', '.join(found['addresses']) or '-'}")
        neighbours = [f"{n} ({q['rtt_ms'] or '?'} ms)" for n, q in found["neighbours"].items()]
        output.line(f"linked to  {', '.join(neighbours) or '-'}")
        output.line(f"skills     {', '.join(o['skill'] for o in found['offers']) or '-'}")
    return 0
