"""A policy.toml that somebody or something wrote: a policy, or a UsageError that says where it is wrong."""

from __future__ import annotations

import tempfile
from pathlib import Path

from slipstream.core.errors import UsageError
from slipstream.policy_file import DEFAULT, read

_FILE = Path(tempfile.mkdtemp(prefix="slipstream-fuzz-")) / "policy.toml"


def seeds() -> list[bytes]:
    """The default file, and short ones."""
    rule = '[[rule]]\nwho = ["owner"]\nskills = ["*"]\nthen = "allow"\n'
    full = rule + 'when = "mon-fri 22:00-06:00"\ndriving = ["parked"]\nargs = { seat = ["rear_left", 2] }\n'
    other = '[labels]\npersonal = ["owner"]\n[consent]\nseconds = 30\nanswer = ["kind:phone"]\n'
    return [DEFAULT.read_bytes(), rule.encode(), full.encode(), (full + other).encode()]


def check(data: bytes) -> None:
    """Read it as a file."""
    _FILE.write_bytes(data)
    try:
        policy = read(_FILE).policy()
    except UsageError as error:
        assert _FILE.name in error.what, "the error does not name the file"
        return
    assert all(rule.where for rule in policy.rules), "a rule does not know its line"
