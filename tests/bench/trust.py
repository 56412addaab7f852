"""What a roster costs: read and checked when a daemon starts, asked on every call, and signed anew by an owner.

A thousand statements of one mesh with real keys and signatures: owners, members, guests, and some of them revoked.
`python tests/bench/trust.py [--json]`. The floor of a start is reading the file and unpacking it; what is spared is
checking every signature once more.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter
from timeit import repeat

import msgpack

from slipstream.core.authority import _new_key, _signed, found
from slipstream.core.roster_file import RosterFile, signed_ones
from slipstream.core.trust import Role, Roster

NAME = "trust"
STATEMENTS, OWNERS, REVOKED = 1000, 20, 150
TARGET_MS = 150.0
ROUNDS = 15


def mesh(folder: Path) -> Roster:
    """Write a roster of a thousand statements into a state folder."""
    found(folder, "phone", "phone")
    file = RosterFile(folder)
    roster, draw = Roster(file.load().mesh), Random(1)
    root, keys = _new_key(), [_new_key() for _ in range(OWNERS)]
    roster = Roster(_signed(root, roster, "add", "x").signer)
    ids = [_signed(key, roster, "add", "x").signer for key in keys]
    for n, owner in enumerate(ids):  # each by one of those before it
        by = root if n == 0 else keys[draw.randrange(n)]
        roster.merge([_signed(by, roster, "add", owner, role=Role.OWNER, name=f"owner {n}", device_kind="hub", number=1)])
    devices = [os.urandom(20).hex()[:32] for _ in range(STATEMENTS - OWNERS - REVOKED)]
    for device in devices:
        guest = draw.random() < 0.3
        roster.merge([_signed(draw.choice(keys), roster, "add", device, role=Role.GUEST if guest else Role.MEMBER,
                              name="a device", device_kind="phone", until=9e9 if guest else None, number=1)])  # fmt: skip
    for device in draw.sample(devices, REVOKED):
        roster.merge([_signed(draw.choice(keys), roster, "revoke", device)])
    return roster
