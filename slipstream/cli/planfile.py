"""Reading a plan file: bounded before it is read, and what is no JSON is said with line and column."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Final

from ..core.errors import UsageError
from .parsing import pairs

LIMIT: Final = 1024 * 1024


def add(parser: argparse.ArgumentParser) -> None:
    """The arguments that name a plan."""
    parser.add_argument("file", help="a plan as JSON; - reads it from stdin")
    parser.add_argument("--input", action="append", default=[], metavar="NAME=VALUE", help="an input of the plan")


def request(args: argparse.Namespace) -> dict[str, Any]:
    """The plan and its inputs, as the daemon takes them.

    Raises:
        UsageError: it is too large, cannot be read, or is no JSON.
    """
    return read_plan(args.file, pairs(args.input, "--input city=Munich"))


def read_plan(file: str, typed: Mapping[str, str]) -> dict[str, Any]:
    """The same of a file and of values as they were typed.

    Raises:
        UsageError: as above.
    """
    plan = _parse(file, _read(file))
    defaults = plan.get("inputs") if isinstance(plan, dict) else None
    inputs = {
        name: _typed(value, (defaults or {}).get(name) if isinstance(defaults, dict) else None)
        for name, value in typed.items()
    }
    return {"plan": plan, "inputs": inputs}


def _read(name: str) -> bytes:
    try:
        if name == "-":
            data = sys.stdin.buffer.read(LIMIT + 1)
        else:
            with open(name, "rb") as file:
                # by its size if it tells one; a pipe does not, so what is read is bounded as well
                data = b"" if os.fstat(file.fileno()).st_size > LIMIT else file.read(LIMIT + 1)
                if not data and os.fstat(file.fileno()).st_size > LIMIT:
                    data = bytes(LIMIT + 1)
    except OSError as error:
        raise UsageError(f"cannot read the plan {name}", error.strerror or str(error), "slip run FILE, or -") from None
    if len(data) > LIMIT:
        raise UsageError(f"the plan {name} is too large", f"more than {LIMIT} bytes", "split it")
    return data


def _parse(name: str, data: bytes) -> Any:
    try:
        return json.loads(data)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UsageError(f"the plan {name} is no JSON", f"{error.msg} at {where}", "mend it there") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"the plan {name} is no JSON", str(error)[:200], "a plan is a JSON object in UTF-8") from None


def _typed(text: str, default: Any) -> Any:
    """An input as typed: text where the plan's own value is text, else JSON if it reads as such."""
    if isinstance(default, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
