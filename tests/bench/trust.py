"""What a roster costs: read and checked when a daemon starts, worked out with every statement, asked on every call.

A thousand statements of one mesh with real keys and signatures: owners, members, guests, some of them revoked.
`python tests/bench/trust.py [--json]`. The floor of a start is reading the file and unpacking it; what the file's seal
spares it is checking every signature once more.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from timeit import repeat

import msgpack

from slipstream.core.authority import _load_key, _new_key, _signed, found
from slipstream.core.identity import ROSTER, Identity
from slipstream.core.roster_file import RosterFile, signed_ones
from slipstream.core.trust import Role, Roster

NAME = "trust"
STATEMENTS, OWNERS, REVOKED, OWNERS_REVOKED = 1000, 20, 150, 5
TARGET_MS = 150.0
"""For a start with that many statements."""


def mesh(folder: Path) -> tuple[Identity, Roster]:
    """The first owner of a mesh, whose state folder has a roster of a thousand statements."""
    me = found(folder, "phone", "phone")
    file, draw = RosterFile(folder), Random(1)
    roster, keys = file.load(), [_load_key(me.key)]
    owners = [me.id]

    def say(by: int, kind: str, subject: str, **more: object) -> None:
        roster.merge([_signed(keys[by], roster, kind, subject, **more)])  # type: ignore[arg-type]

    for n in range(1, OWNERS):  # each by one of those before it
        key = _new_key()
        owners.append(_signed(key, roster, "add", me.id).signer)
        say(draw.randrange(n), "add", owners[n], role=Role.OWNER, name=f"hub {n}", device_kind="hub", number=1)
        keys.append(key)
    devices = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz234567", k=32))
               for _ in range(STATEMENTS - OWNERS - REVOKED)]  # fmt: skip
    for device in devices:
        guest = draw.random() < 0.3
        say(draw.randrange(OWNERS), "add", device, role=Role.GUEST if guest else Role.MEMBER, name="a device",
            device_kind="phone", until=9e9 if guest else None, number=1)  # fmt: skip
    for device in [*draw.sample(devices, REVOKED - OWNERS_REVOKED), *owners[-OWNERS_REVOKED:]]:
        say(0, "revoke", device)
    file.write(roster)
    return me, roster


def each(call: Callable[[], object], number: int = 1, rounds: int = 25) -> float:
    """The median over rounds of what one call takes, in seconds."""
    return median(repeat(call, number=number, repeat=rounds)) / number


def figures() -> dict[str, float]:
    """All figures, in ms, µs and KiB as their names say.

    Raises:
        AssertionError: what is measured is not what it is said to be.
    """
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as temporary:
        me, roster = mesh(Path(temporary) / "state")
        file, path = RosterFile(Path(temporary) / "state"), Path(temporary) / "state" / ROSTER
        statements = roster.statements
        assert len(statements) == STATEMENTS
        assert file.load().digest == roster.digest
        assert len(signed_ones(statements)) == STATEMENTS

        def again() -> None:
            Roster(roster.mesh).merge(statements)

        return {
            "load_1000_ms": each(file.load) * 1e3,
            "floor_read_ms": each(lambda: msgpack.unpackb(path.read_bytes()[32:])) * 1e3,
            "judge_1000_ms": each(again) * 1e3,
            "signatures_1000_ms": each(lambda: signed_ones(statements), rounds=5) * 1e3,
            "admitted_us": each(lambda: roster.admitted(me.id, 0.0), 1000) * 1e6,
            "vouch_us": each(lambda: roster.vouch(me.id), 1000) * 1e6,
            "file_kib": path.stat().st_size / 1024,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    args = parser.parse_args()
    measured = figures()
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": measured}))
        return
    for name, value in measured.items():
        print(f"{name:24}{value:12.4g}" + (f"   (at most {TARGET_MS:g})" if name == "load_1000_ms" else ""))


if __name__ == "__main__":
    main()
