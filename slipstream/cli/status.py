"""`slip status`: health, peers and runs on one page."""

from __future__ import annotations

import argparse
from typing import Any

from ..control import ask
from . import output
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments: none of its own."""


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    answer = ask(state_of(args), "status")
    if args.json:
        output.show_json(answer)
        return 0
    me = answer["device"]
    simulated = ", simulated" if me["simulated"] else ""
    output.line(f"{me['name']} ({me['kind']}{simulated})  up {output.duration(answer['seconds'])}  {me['id']}")
    output.line(f"  {me['skills']} skills  {', '.join(me['addresses']) or 'no address'}")
    output.line(f"  state {answer['state']}  process {answer['pid']}")
    if answer["peers"]:
        print()
        devices_table(answer["peers"])
    else:
        output.note("no other device is here; slip up on another one, or slip doctor if one should be")
    if answer["runs"]:
        print()
        rows = [(r["run"], r["state"], f"{r['done']}/{r['steps']}", r["goal"]) for r in answer["runs"]]
        output.table(("run", "state", "steps", "goal"), rows, 1)
    for run in answer["interrupted"]:
        output.line(f"run {run} was interrupted: slip runs resume {run}")
    return 0


def devices_table(devices: list[dict[str, Any]]) -> None:
    """Devices, one a line."""
    output.table(
        ("device", "kind", "state", "link", "load", "battery", "skills", "id"),
        [
            (d["name"] + (" (simulated)" if d["simulated"] else ""), d["kind"], _state(d), link(d),
             output.percent(d["load"]), output.percent(d["battery"]), d["skills"], d["id"][:7])
            for d in devices
        ],
        2,
    )  # fmt: skip


def _state(device: dict[str, Any]) -> str:
    if device["seen_seconds_ago"] is not None:
        return f"left {output.duration(device['seen_seconds_ago'])} ago"
    return "leaving" if device["leaving"] else str(device["state"])


def link(device: dict[str, Any]) -> str:
    """How a device is reached."""
    if device["via"]:
        return f"via {device['via']}"
    return "-" if device["rtt_ms"] is None or device["state"] == "absent" else f"{device['rtt_ms']:.3g} ms"
