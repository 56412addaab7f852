"""`slip skills`: what the mesh can do."""

from __future__ import annotations

import argparse
from typing import Any

from ..control import ask
from . import output
from .parsing import need, state_of


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("action", nargs="?", default="list", choices=("list", "show", "search"))
    parser.add_argument("what", nargs="*", help="show: a skill's name; search: words")


def main(args: argparse.Namespace) -> int:
    """Ask and show."""
    state = state_of(args)
    if args.action == "show":
        skill = need(" ".join(args.what), "skill", "slip skills show NAME (slip skills list)")
        answer = ask(state, "skills.show", {"skill": skill})
        if args.json:
            output.show_json(answer)
        else:
            _show(answer["skill"])
        return 0
    found = ask(state, "skills")["skills"]
    if args.action == "search":
        words = need(" ".join(args.what), "words", "slip skills search WORDS").lower().split()
        found = [s for s in found if all(word in _text(s) for word in words)]
    if args.json:
        output.show_json({"skills": found})
    elif found:
        rows = [(s["name"], s["effect"], ", ".join(s["devices"]), _first(s["description"])) for s in found]
        output.table(("skill", "effect", "on", "what it does"), rows)
    elif args.action == "search":
        output.note(f"no skill fits {' '.join(words)!r}; all of them: slip skills list")
    else:
        output.note("no device offers a skill; load a pack: slip up --pack phone")
    return 0


def _text(skill: dict[str, Any]) -> str:
    return " ".join((skill["name"], skill["description"], *skill["phrases"])).lower()


def _first(description: str) -> str:
    return (description.splitlines() or [""])[0]


def _show(skill: dict[str, Any]) -> None:
    output.line(f"{skill['name']}  ({skill['effect']})  on {', '.join(skill['devices']) or 'no device now'}")
    output.value(skill["description"])
    print()
    required = skill["inputSchema"].get("required", [])
    arguments = skill["inputSchema"].get("properties", {})
    rows = [
        (name, _type(a), "yes" if name in required else f"no: {a.get('default')!r}", a.get("description"))
        for name, a in arguments.items()
    ]
    if rows:
        output.table(("argument", "type", "needed", "what"), rows)
    else:
        output.line("it takes no arguments")
    gives = skill["outputSchema"].get("properties", {})
    output.line(f"gives: {', '.join(f'{name} ({_type(s)})' for name, s in gives.items()) or 'nothing'}")
    typed = " ".join(f"{name}=..." for name in required)
    output.note(f"call it: slip call {skill['name']} {typed}")


def _type(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    kind = str(schema.get("type", "anything"))
    bounds = [f"{word} {schema[key]}" for key, word in _BOUNDS.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


_BOUNDS = {"minimum": ">=", "maximum": "<=", "exclusiveMinimum": ">", "exclusiveMaximum": "<"}
