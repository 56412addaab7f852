"""`slip`: the table of verbs, and what they have in common. Each verb is one module, imported when it is asked for.

A verb's module has `add(parser)`, which declares its arguments, and `main(args) -> int`, which gives the exit code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

VERBS: Final = {
    "up": "start this device's daemon",
    "down": "stop it cleanly",
    "pair": "found a mesh, let devices in, throw them out",
    "status": "health, peers and runs on one page",
    "devices": "list, show, ping or forget devices",
    "skills": "list, show or search the mesh's skills",
    "call": "run one skill, wherever it runs best",
    "plan": "check a plan and show who would do what; run nothing",
    "run": "run a plan, with live progress",
    "runs": "list, show, cancel, resume or move in runs",
    "monitor": "watch the mesh in the terminal, approve, replay",
    "events": "stream what happens",
    "trace": "recorded runs: list, show, replay, export",
    "consent": "list, approve or deny what a person is asked; what is remembered",
    "audit": "list the audit log, or verify that it is as it was written",
    "doctor": "find what is wrong, and say the fix",
    "new": "scaffold: new skill NAME",
    "dev": "hot reload, with a simulated phone and car",
    "demo": "the tour, no hardware needed",
    "llm": "run a model file here: run, info, serve",
    "bench": "measure this device and its links",
    "policy": "show, check, or explain what others may do here",
    "config": "get, set, check, show where from",
}

_COMMON: Final = ("--json", "--no-input", "--state")


def main(argv: Sequence[str]) -> int:
    """Run what the command line asks for; the exit code (experience.md: 0 done, 1 failed, 2 usage, 3 no daemon,
    4 no device, 5 denied, 6 timed out, 130 interrupted)."""
    argv = list(argv)
    try:
        return _run(argv)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader had enough; nothing may be flushed into the closed pipe at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except Exception as error:
        from ..core.errors import SlipError

        if not isinstance(error, SlipError):
            raise
        from .output import show_error

        show_error(error, as_json="--json" in argv)
        return error.exit_code


def _run(argv: list[str]) -> int:
    before: list[str] = []
    while argv and argv[0].startswith("-"):
        option = argv.pop(0)
        if option in ("-h", "--help"):
            print(_help())
            return 0
        if option in ("-V", "--version"):
            from .. import __version__

            print(f"slip {__version__}")
            return 0
        if option.partition("=")[0] not in _COMMON:
            raise _unknown("option", option, ["--help", "--version", *_COMMON])
        before.append(option)
        if option == "--state" and argv:
            before.append(argv.pop(0))
    if not argv:
        print(_help())
        return 2 if before else 0
    verb = argv.pop(0)
    if verb == "help":
        return _run([*argv[:1], "--help"])
    if verb not in VERBS:
        raise _unknown("verb", verb, list(VERBS))
    from importlib import import_module

    from .parsing import Parser

    module = import_module(f".{verb}", __name__)
    parser = Parser(prog=f"slip {verb}", description=VERBS[verb])
    module.add(parser)
    parser.add_common()
    words = [*before, *argv]
    if getattr(module, "PASSES_ON", False):
        args, rest = parser.parse_known_args(words)
        args.rest = rest
    else:
        args = parser.parse_intermixed_args(words)
    code: int = module.main(args)
    sys.stdout.flush()
    return code


def _help() -> str:
    lines = ["slip: one agent across phones and electric cars", "", "usage: slip VERB [ARGUMENTS]", ""]
    lines += [f"  {verb:<9} {what}" for verb, what in VERBS.items()]
    lines += ["", "every verb takes --json, --state DIR, --no-input and --help; start with: slip demo"]
    return "\n".join(lines)


def _unknown(what: str, given: str, known: list[str]) -> Exception:
    from ..core.errors import UsageError
    from .parsing import nearest

    return UsageError(f"unknown {what} {given}", "", nearest(given, known) or "slip --help")
