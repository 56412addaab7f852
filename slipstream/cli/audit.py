"""`slip audit`: who did what here and who let them. It reads the state folder; no daemon is needed."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from typing import Any

from ..core.audit import audit_key
from ..core.audit_check import read, verify
from ..core.errors import SlipError, UsageError
from . import output
from .parsing import state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "verify"))
    parser.add_argument("--last", type=int, default=50, metavar="N", help="how many lines (50)")


def main(args: argparse.Namespace) -> int:
    """Read and show; `verify` gives 1 if the log is not as it was written."""
    state = state_of(args)
    if args.action == "verify":
        verdict = verify(state, audit_key(state))
        if args.json:
            output.show_json({"ok": verdict.ok, **asdict(verdict)})
        elif verdict.ok:
            torn = f"; {verdict.torn} half written by a killed daemon and closed off" if verdict.torn else ""
            output.line(f"{verdict.lines} lines are as they were written{torn}")
        else:
            where = f"{verdict.file}, line {verdict.line}" if verdict.line else verdict.file
            raise SlipError("the audit log is not as it was written", f"{where}: {verdict.why}",
                            f"keep a copy of {state / verdict.file}, and look who could write there")  # fmt: skip
        return int(not verdict.ok)
    if args.last < 1:
        raise UsageError(f"--last {args.last} is no number of lines", "", "like --last 50", field="last")
    lines = read(state, args.last)
    if args.json:
        output.show_json({"lines": lines})
    elif lines:
        output.table(("seq", "when", "what", "about"), map(_row, lines))
    else:
        output.note("nothing was decided yet")
    return 0


def _row(line: dict[str, Any]) -> tuple[object, ...]:
    frame = ("seq", "time", "what", "prev", "mac")
    about = " ".join(f"{name}={_brief(value)}" for name, value in line.items() if name not in frame)
    when = line.get("time")
    sane = isinstance(when, (int, float)) and 0 <= when < 1e11  # whoever changed a line may have put anything there
    shown = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when)) if sane else "-"
    return line.get("seq"), shown, line.get("what"), about


def _brief(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
