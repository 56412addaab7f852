"""Changing one setting in a TOML file without touching the rest, comments and order included."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

from .core.errors import UsageError


def write(path: Path, key: str, value: Any) -> None:
    """Set a dotted key in a config file, made if there is none; replaced whole or not at all.

    Raises:
        UsageError: the file cannot be written, or not without losing something.
    """
    try:
        before = path.read_text("utf-8") if path.exists() else ""
        after = changed(before, key, value)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(f".{path.name}.new")
        fresh.write_text(after, "utf-8")
        os.replace(fresh, path)
    except UsageError as error:
        raise UsageError(f"{path}: {error.what}", error.why, error.hint) from None
    except OSError as error:
        raise UsageError(f"{path} cannot be written", error.strerror or str(error), "choose another layer") from None


def changed(text: str, key: str, value: Any) -> str:
    """The text with the key set; everything else stays as it is.

    Raises:
        UsageError: the text is no TOML, or the value stands there in a form that only a person can change.
    """
    table, _, name = key.rpartition(".")
    wanted = tomllib.loads(text)
    home = wanted
    for part in table.split(".") if table else ():
        home = home.setdefault(part, {})
    home[name] = value
    line = f"{_key(name)} = {_literal(value)}"
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []  # TOML knows no other line ends
    start, end = _section(lines, table)
    if start is None:
        lines += [*([""] if lines else []), f"[{'.'.join(map(_key, table.split('.')))}]", line]
    else:
        pattern = re.compile(rf"\s*({re.escape(name)}|{re.escape(json.dumps(name))})\s*=")
        at = next((i for i in range(start, end) if pattern.match(lines[i])), None)
        if at is None:
            while end > start and not lines[end - 1].strip():
                end -= 1
            lines.insert(end, line)
        else:
            lines[at] = line
    result = "\n".join(lines) + "\n"
    try:
        same = tomllib.loads(result) == wanted
    except tomllib.TOMLDecodeError:
        same = False
    if not same:
        raise UsageError(f"{key} stands there in a form that slip cannot change", hint=f"write it yourself: {line}")
    return result


def _section(lines: list[str], table: str) -> tuple[int | None, int]:
    """The lines of a table, without its header; None where there is no such table."""
    headers = [
        (i, m[1].replace(" ", "")) for i, line in enumerate(lines) if (m := re.match(r"\s*\[([^\[\]]+)\]", line))
    ]
    first = min([i for i, line in enumerate(lines) if re.match(r"\s*\[", line)], default=len(lines))
    if not table:
        return 0, first
    wanted = ".".join(map(_key, table.split(".")))
    for n, (i, name) in enumerate(headers):
        if name in (wanted, table):
            return i + 1, headers[n + 1][0] if n + 1 < len(headers) else len(lines)
    return None, len(lines)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else json.dumps(name)


def _literal(value: Any) -> str:
    """A TOML literal: JSON's strings, numbers, booleans and arrays are TOML's, too."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
