"""`slip plan`: check a plan file and show who would do what, and why; nothing runs."""

from __future__ import annotations

import argparse
from typing import Any

from ..control import ask
from . import output, planfile
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    planfile.add(parser)
    parser.add_argument("--why", action="store_true", help="for each step, what was predicted of it on every device")


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    answer = ask(state_of(args), "plan", planfile.request(args))
    if args.json:
        output.show_json(answer)
        return 0
    plan = answer["plan"]
    energy = "" if plan["joules"] is None else f", {output.energy(plan['joules'])}"
    output.line(f"{plan['goal']}: about {output.duration(plan['seconds'])}{energy}")
    if plan["late"]:
        output.note(f"  likely too late for its deadline: {', '.join(plan['late'])}")
    print()
    output.table(
        ("step", "skill", "on", "from", "to", "why"),
        [
            (s["step"], s["skill"], s["device"], output.duration(s["start"]), output.duration(s["end"]), s["why"])
            for s in plan["steps"]
        ],
    )
    if args.why:
        _show_candidates(plan["steps"])
    else:
        for s in plan["steps"]:
            for device, why in s["refused"].items():
                output.note(f"  {s['step']}: not on {device}: {why}")
    output.note("run it: slip run, with the same arguments")
    return 0


def _show_candidates(steps: list[dict[str, Any]]) -> None:
    for s in steps:
        print()
        output.line(f"{s['step']} ({s['skill']}): {s['why']}")
        output.table(
            ("", "device", "runs", "inputs there", "would end", "takes", "why not"),
            [
                ("→" if c["chosen"] else "", c["device"], *(_at(c[name]) for name in ("seconds", "ready", "end")),
                 None if c["joules"] is None else output.energy(c["joules"]), c["why_not"])
                for c in s["candidates"]
            ],
        )  # fmt: skip
    print()


def _at(seconds: float | None) -> str | None:
    return None if seconds is None else output.duration(seconds)
