"""`slip policy`: what this device lets others do, and by which line."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..control import ask
from ..core.errors import UsageError
from . import output
from .parsing import need, pairs, state_of

if TYPE_CHECKING:
    from ..policy_file import Read, RuleText

EXPLAIN = "slip policy explain DEVICE SKILL [NAME=VALUE ...]"
_STYLES = {"allow": "good", "ask": "busy", "refuse": "bad"}


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="show", choices=("show", "explain", "check"))
    parser.add_argument("subject", nargs="?", metavar="DEVICE", help="who would call; check: a file")
    parser.add_argument("skill", nargs="?", help="explain: what it would call here")
    parser.add_argument("argument", nargs="*", metavar="NAME=VALUE", help="explain: with which arguments")
    parser.add_argument("--on-behalf-of", metavar="DEVICE", help="explain: for which other device it would call")
    parser.add_argument("--driving", choices=("parked", "idling", "moving"), help="explain: if the vehicle did that")


def main(args: argparse.Namespace) -> int:
    """Explain, show or check."""
    if args.action == "explain":
        return _explain(args)
    if args.skill is not None:
        raise UsageError(f"slip policy {args.action} has no use for {args.skill}", "", EXPLAIN)
    if args.action == "check":
        return _check(args)
    if args.subject is not None:
        raise UsageError(f"slip policy show has no use for {args.subject}", "", f"slip policy check {args.subject}")
    return _show(args)


def _explain(args: argparse.Namespace) -> int:
    request = {
        "device": need(args.subject, "device", EXPLAIN), "skill": need(args.skill, "skill", EXPLAIN),
        "text": pairs(args.argument, "seat=passenger"), "origin": args.on_behalf_of, "driving": args.driving,
    }  # fmt: skip
    answer = ask(state_of(args), "policy.explain", request)
    if args.json:
        output.show_json(answer)
        return 0
    print(output.paint(f"{answer['answer']:<7}", _STYLES[answer["answer"]]), end=" ")
    output.line(answer["why"])
    output.line(f"by      {answer['rule']}")
    if answer["hint"]:
        output.line(f"hint    {answer['hint']}")
    return 0


def _show(args: argparse.Namespace) -> int:
    found = _read(state_of(args))
    text = found.text
    if args.json:
        rules = [
            {"line": line, **rule.model_dump(exclude_none=True)}
            for line, rule in zip(found.lines, text.rule, strict=True)
        ]
        more = {"labels": text.labels.model_dump(), "consent": text.consent.model_dump()}
        output.show_json({"file": str(found.path), "rules": rules, **more})
        return 0
    output.line(str(found.path))
    print()
    rows = [
        (line, rule.then, ", ".join(rule.who), _only(rule), " ".join(rule.skills))
        for line, rule in zip(found.lines, text.rule, strict=True)
    ]
    output.table(("line", "then", "who", "only", "skills"), rows)
    print()
    output.line(f"personal values  {', '.join(text.labels.personal) or 'nobody'}")
    output.line(f"asked            {', '.join(text.consent.answer)}, for {output.duration(text.consent.seconds)}")
    output.note("the first rule that fits decides; what none allows is refused")
    return 0


def _only(rule: RuleText) -> str:
    """The conditions of a rule in words."""
    args = [f"{name}={'|'.join(map(str, values))}" for name, values in (rule.args or {}).items()]
    return "; ".join(filter(None, ("|".join(rule.effects or ()), "|".join(rule.driving or ()), rule.when, *args)))


def _read(state: Path) -> Read:
    from ..places import POLICY
    from ..policy_file import read

    own = state / POLICY
    # a link to nothing is a file that cannot be read, not one that is not there
    return read(own if os.path.lexists(own) else None)


def _check(args: argparse.Namespace) -> int:
    from ..policy_file import read

    found = read(Path(args.subject)) if args.subject else _read(state_of(args))
    answer: dict[str, Any] = {"file": str(found.path), "rules": len(found.lines)}
    if args.json:
        output.show_json(answer)
    else:
        output.line(f"{found.path} ok, {len(found.lines)} rules")
    return 0
