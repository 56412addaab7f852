"""The folder that a device's key lies in: open to others, robbed, or half written. It is refused with what mends it, or
recovered; it is never silently another device."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from slipstream.core import authority
from slipstream.core.identity import Identity
from slipstream.core.roster_file import RosterFile

WRITER = """
import sys
from pathlib import Path
from slipstream.core.authority import Authority, request
owner = Authority.load(Path(sys.argv[1]))
for number in range(10_000):
    owner.admit(request().csr, name=f"device {number}", kind="phone")
    print(number, flush=True)
"""


@pytest.fixture
def state(tmp_path: Path) -> Path:
    authority.found(tmp_path / "state", "phone", "phone")
    return tmp_path / "state"


def up(state: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "slipstream", "up", "--state", str(state), "--port", "0", "--no-mdns", "--host",
               "127.0.0.1"]  # fmt: skip
    return subprocess.run(command, env=env, cwd=state.parent, capture_output=True, text=True, timeout=60)


def files(state: Path) -> dict[str, bytes]:
    """What is there, without what no device is known by."""
    return {p.name: p.read_bytes() for p in sorted(state.iterdir()) if p.is_file() and p.name in
            ("device.key", "device.pem", "owner.pem", "root.pem", "roster")}  # fmt: skip


def open_folder(state: Path) -> None:
    state.chmod(0o755)


def open_key(state: Path) -> None:
    (state / "device.key").chmod(0o644)


def open_roster(state: Path) -> None:
    (state / "roster").chmod(0o644)


def lose_key(state: Path) -> None:
    (state / "device.key").unlink()


def lose_roster(state: Path) -> None:
    (state / "roster").unlink()


def cut_roster(state: Path) -> None:
    roster = state / "roster"
    roster.write_bytes(roster.read_bytes()[:-20])


def write_roster_by_hand(state: Path) -> None:
    (state / "roster").write_bytes(bytes(32) + b"\x90")


DAMAGE = [
    (open_folder, "is open to others", "chmod 700"), (open_key, "is open to others", "chmod 600"),
    (open_roster, "is open to others", "chmod 600"), (lose_key, "device.key is missing", "restore"),
    (lose_roster, "no roster", "restore"), (cut_roster, "not what this device wrote", "restore"),
    (write_roster_by_hand, "not what this device wrote", "restore"),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "why", "hint"), DAMAGE, ids=[d[0].__name__ for d in DAMAGE])
def test_a_damaged_folder_is_refused_with_what_mends_it_and_stays_as_it_is(
    bare: Any, state: Path, damage: Any, why: str, hint: str
) -> None:
    damage(state)
    before = files(state)
    done = up(state, bare.env)
    assert done.returncode != 0
    assert why in done.stderr
    assert hint in done.stderr
    assert files(state) == before


def test_a_roster_whose_writer_was_killed_is_the_old_one_or_the_new_one(state: Path) -> None:
    before = Identity.load(state)
    for lines in range(1, 5):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(state)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline() for _ in range(lines)]
            writer.kill()
        assert all(said)
        known = len(RosterFile(state).load().members())
        assert known >= lines
        assert Identity.load(state) == before


def test_half_a_roster_that_lies_beside_the_whole_one_is_not_looked_at(bare: Any) -> None:
    phone = bare.add("phone", "phone")
    whole = (phone.state / "roster").read_bytes()
    half = phone.state / "roster.new"
    half.write_bytes(whole[:50])
    half.chmod(0o600)
    phone.start()
    assert phone.ask("status")["device"]["id"] == phone.id
    phone.end()
    assert (phone.state / "roster").read_bytes() == whole
    late = authority.admit_here(phone.state, phone.folder / "late", "late", "phone")
    assert RosterFile(phone.state).load().member(late.id) is not None
    assert not half.exists()
