"""`slip config`: what this device is told, and where that comes from."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

from .. import config as settings
from .. import policy_file
from ..config_edit import write
from ..core.errors import SlipError, UsageError
from ..places import POLICY, config_files
from . import output
from .parsing import nearest, need, state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="show", choices=("get", "set", "show", "check"))
    parser.add_argument("key", nargs="?", help="a setting like listen.port; check: a file")
    parser.add_argument("value", nargs="?", help="set: what it should be; lists are separated by commas")
    parser.add_argument("--show-origin", action="store_true", help="say which layer each setting comes from")
    layer = parser.add_mutually_exclusive_group()
    layer.add_argument(
        "--user", dest="layer", action="store_const", const="user", help="set it for this user (default)"
    )
    layer.add_argument(
        "--project", dest="layer", action="store_const", const="project", help="set it in ./slipstream.toml"
    )
    layer.add_argument("--system", dest="layer", action="store_const", const="system", help="set it for this machine")


def main(args: argparse.Namespace) -> int:
    """Show, set or check."""
    if args.action == "check":
        return _check(args)
    if args.action == "set":
        return _set(args)
    loaded = settings.load({"state": args.state})
    flat = loaded.flat()
    if args.action == "get":
        key = need(args.key, "setting", "slip config get KEY (slip config show)")
        flat = {name: value for name, value in flat.items() if name == key or name.startswith(f"{key}.")}
        if not flat and key not in settings.fields():
            raise UsageError(f"there is no setting {key}", "", nearest(key, settings.fields()) or "slip config show")
    if args.json:
        shown = {k: {"value": v, "origin": loaded.origin(k)} if args.show_origin else v for k, v in flat.items()}
        output.show_json({"config": shown})
    elif args.action == "get" and list(flat) == [args.key] and not args.show_origin:
        output.line(_said(flat[args.key]))
    else:
        for name, value in flat.items():
            origin = f"  ({loaded.origin(name)})" if args.show_origin else ""
            output.line(f"{name} = {json.dumps(value)}{origin}")
    return 0


def _said(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _set(args: argparse.Namespace) -> int:
    key = need(args.key, "setting", "slip config set KEY VALUE (slip config show)")
    if args.value is None:
        raise UsageError(f"{key} to what?", "", f"slip config set {key} VALUE")
    path = dict(config_files())[args.layer or "user"]
    typed: Any = settings.split(args.value) if key in settings.LISTS or key.startswith("peers.") else args.value
    if key.startswith("settings."):
        try:
            typed = json.loads(args.value)
        except ValueError:
            typed = args.value
    checked = settings.check(settings.Layer("slip config set", {key: typed}))
    value = settings.flatten(checked.model_dump(mode="json")).get(key, typed)
    write(path, key, value)
    if args.json:
        output.show_json({"set": key, "value": value, "file": str(path)})
    else:
        output.note(f"{key} = {json.dumps(value)} in {path}; a running daemon rereads it on SIGHUP")
    return 0


def _check(args: argparse.Namespace) -> int:
    """Check one file, or every layer; the first problem of each is said."""
    problems: list[SlipError] = []
    checked: list[str] = []
    paths = [Path(args.key)] if args.key else [*(path for _, path in config_files()), state_of(args) / POLICY]
    for path in paths:
        try:
            if path.name == POLICY and os.path.lexists(path):
                policy_file.read(path).policy()
            elif path.name == POLICY or (layer := settings.file_layer(path)) is None:
                continue
            else:
                settings.check(layer)
            checked.append(str(path))
        except UsageError as error:
            problems.append(error)
    if args.key and not checked and not problems:
        raise UsageError(f"there is no {args.key}", "", "slip config check, without a file, checks those that count")
    if not args.key and not problems:
        settings.load({"state": args.state})
    if args.json:
        output.show_json({"checked": checked, "problems": [problem.to_wire() for problem in problems]})
    else:
        for problem in problems:
            output.show_error(problem)
        for name in checked:
            output.line(f"{name} ok")
        if not checked and not problems:
            output.note("there is no config file; defaults count: slip config show")
    return 2 if problems else 0
