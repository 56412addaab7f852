"""The daemon's clerk: a process that lives for one question, and has the `cryptography` that the daemon does without.

`python -m slipstream.clerk STATE`; the question is a msgpack map on stdin, the answer one on stdout.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgpack

from .core.errors import SlipError
from .core.roster_file import RosterFile


def answer(state: Path, question: dict[str, Any]) -> dict[str, Any]:
    """What the question asks for.

    `take`: check the signatures of statements and keep what is right; `new` is how many were. On an owner, `renew`: let
    the new key in that the device `device` made (its request, `csr`), as what it was; `retire`: throw that key out,
    in whose place a new one came.
    """
    if "take" in question:
        return {"new": len(RosterFile(state).take(question["take"]))}
    from .core.authority import Authority

    owner = Authority.load(state)
    if "renew" in question:
        return owner.renew(question["device"], question["renew"]).to_wire()
    owner.retire(question["retire"])
    return {}


def main() -> None:
    """Answer the question on stdin."""
    try:
        said = answer(Path(sys.argv[1]), msgpack.unpackb(sys.stdin.buffer.read()))
    except SlipError as error:
        said = {"error": error.to_wire()}
    sys.stdout.buffer.write(msgpack.packb(said))


if __name__ == "__main__":
    main()
