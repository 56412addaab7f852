"""The audit log: whatever is done to its files by somebody without the key is found, and told where."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from shutil import copy, copytree
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.core import audit
from slipstream.core.audit import BEFORE, HEAD, LOG, Audit, audit_key
from slipstream.core.audit_check import Verdict, read, verify
from slipstream.core.errors import SlipError, UsageError

KEY = b"k" * 32


def log(folder: Path, lines: int, *, close: bool = True) -> Audit:
    opened = Audit(folder / LOG, KEY, lambda: 1e9)
    for i in range(lines):
        opened.tell("call", skill="car.locate", caller="abcdefg", n=i)
    if close:
        opened.close()
    return opened


def lines_of(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines(keepends=True)


def fault(folder: Path) -> tuple[str, int]:
    found = verify(folder, KEY)
    assert not found.ok
    return found.file, found.line


def test_what_is_told_is_there_and_chained_and_only_the_owners(tmp_path: Path) -> None:
    log(tmp_path, 2)
    first, second = read(tmp_path)
    assert (first["seq"], first["what"], first["skill"], first["n"]) == (1, "call", "car.locate", 0)
    assert second["prev"] == first["mac"][:32]
    assert all(stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600 for name in (LOG, HEAD))
    assert verify(tmp_path, KEY) == Verdict(2, 0)


def test_it_goes_on_where_the_last_daemon_ended_however_it_ended(tmp_path: Path) -> None:
    for n in range(1, 8):
        log(tmp_path, 30, close=n % 2 == 0)
        assert verify(tmp_path, KEY) == Verdict(30 * n, 0)


def test_another_key_verifies_nothing(tmp_path: Path) -> None:
    log(tmp_path, 3)
    assert not verify(tmp_path, b"x" * 32).ok


CHANGES: list[tuple[str, Callable[[list[bytes]], list[bytes]], int]] = [
    ("a letter changed", lambda x: [*x[:9], x[9].replace(b"call", b"cull"), *x[10:]], 10),
    ("a number changed", lambda x: [*x[:9], x[9].replace(b'"n":9', b'"n":8'), *x[10:]], 10),
    ("the mac changed", lambda x: [*x[:9], x[9][:-10] + b"0000000" + x[9][-3:], *x[10:]], 10),
    ("one removed", lambda x: [*x[:9], *x[10:]], 10),
    ("the first removed", lambda x: x[1:], 1),
    ("the last removed", lambda x: x[:-1], 100),
    ("half of them removed", lambda x: x[:50], 51),
    ("two exchanged", lambda x: [*x[:9], x[10], x[9], *x[11:]], 10),
    ("one put in again", lambda x: [*x[:9], x[3], *x[9:]], 10),
    ("one put in", lambda x: [*x[:9], b'{"seq":10}\n', *x[9:]], 10),
    ("an empty one put in", lambda x: [*x[:9], b"\n", *x[9:]], 10),
    ("one added", lambda x: [*x, b"{}\n"], 101),
    ("spaces in one", lambda x: [*x[:9], x[9].replace(b",", b", ", 1), *x[10:]], 10),
    ("the last end of a line removed", lambda x: [*x[:-1], x[-1][:-1]], 100),
]


@pytest.mark.parametrize(("change", "line"), [c[1:] for c in CHANGES], ids=[c[0] for c in CHANGES])
def test_a_change_is_found_at_its_line(tmp_path: Path, change: Callable[[list[bytes]], list[bytes]], line: int) -> None:
    log(tmp_path, 100)
    (tmp_path / LOG).write_bytes(b"".join(change(lines_of(tmp_path / LOG))))
    assert fault(tmp_path) == (LOG, line)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_no_byte_can_be_changed_removed_or_put_in(data: st.DataObject) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        log(folder, 20)
        before = (folder / LOG).read_bytes()
        at = data.draw(st.integers(0, len(before) - 1))
        end = data.draw(st.integers(at, min(len(before), at + 40)))
        after = before[:at] + data.draw(st.binary(max_size=40)) + before[end:]
        (folder / LOG).write_bytes(after)
        assert verify(folder, KEY).ok == (after == before)


@pytest.mark.parametrize("lines", [63, 64, 127, 128])
def test_of_a_killed_daemon_at_most_63_lines_can_be_cut_off_unnoticed(tmp_path: Path, lines: int) -> None:
    log(tmp_path, lines, close=False)
    whole = lines_of(tmp_path / LOG)
    unnoticed = lines - lines // 64 * 64
    for cut in (unnoticed, unnoticed + 1):
        (tmp_path / LOG).write_bytes(b"".join(whole[: lines - cut]))
        assert verify(tmp_path, KEY).ok == (cut <= unnoticed) or cut > lines
    assert unnoticed <= 63


def test_a_start_does_not_cover_up_what_is_missing(tmp_path: Path) -> None:
    log(tmp_path, 100)
    (tmp_path / LOG).write_bytes(b"".join(lines_of(tmp_path / LOG)[:90]))
    for _ in range(3):
        log(tmp_path, 1)
        assert fault(tmp_path) == (LOG, 91)
    assert read(tmp_path)[-4] | {"prev": "", "mac": ""} == {
        "seq": 101, "time": 1e9, "what": "broken", "why": "lines 91 to 100 were missing", "prev": "", "mac": "",
    }  # fmt: skip


@pytest.mark.parametrize("name", [LOG, HEAD])
def test_a_file_that_was_removed_is_missed_before_and_after_the_next_start(tmp_path: Path, name: str) -> None:
    log(tmp_path, 10)
    (tmp_path / name).unlink()
    assert not verify(tmp_path, KEY).ok
    log(tmp_path, 1)
    found = verify(tmp_path, KEY)
    assert not found.ok
    assert found.file == LOG


@pytest.mark.parametrize("head", [b"", b"garbage\n", b"10 " + b"0" * 64 + b" 1 " + b"0" * 64 + b"\n", b"\xff" * 200])
def test_a_head_that_was_forged_is_found_before_and_after_the_next_start(tmp_path: Path, head: bytes) -> None:
    log(tmp_path, 10)
    (tmp_path / HEAD).write_bytes(head)
    assert fault(tmp_path) == (HEAD, 0)
    log(tmp_path, 1)
    assert fault(tmp_path) == (LOG, 11)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400))
def test_half_a_line_is_closed_off_by_one_that_says_so(cut: int) -> None:
    with TemporaryDirectory() as name:
        folder = Path(name)
        log(folder, 10, close=False)
        whole = lines_of(folder / LOG)
        half = whole[9][: max(1, len(whole[9]) - cut)]
        (folder / LOG).write_bytes(b"".join(whole[:9]) + half)
        assert fault(folder) == (LOG, 10)
        log(folder, 5)
        complete = half == whole[9][:-1]
        assert verify(folder, KEY) == (Verdict(15, 0) if complete else Verdict(15, 1))
        after = lines_of(folder / LOG)
        assert after[9] == half + b"\n"  # it stays
        if not complete:
            assert json.loads(after[10])["what"] == "torn"
            for changed in ([*after[:9], b"x" + after[9], *after[10:]], after[:9] + after[10:]):
                (folder / LOG).write_bytes(b"".join(changed))
                assert not verify(folder, KEY).ok


def test_it_rotates_and_the_chain_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "ROTATE_AT", 4000)
    for n in (30, 30, 30):
        log(tmp_path, n, close=False)
        assert verify(tmp_path, KEY).ok
    old, new = lines_of(tmp_path / BEFORE), lines_of(tmp_path / LOG)
    assert json.loads(new[0])["seq"] == json.loads(old[-1])["seq"] + 1
    assert max((tmp_path / name).stat().st_size for name in (LOG, BEFORE)) <= 4000
    assert [line["seq"] for line in read(tmp_path, 20)] == list(range(71, 91))
    for name, lines in ((BEFORE, old[1:]), (BEFORE, old[:-1]), (BEFORE, []), (LOG, new[1:])):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"".join(lines))
        assert not verify(tmp_path, KEY).ok
        (tmp_path / name).write_bytes(kept)
    (tmp_path / BEFORE).unlink()
    assert fault(tmp_path) == (LOG, 1)


def test_what_closes_half_a_line_off_stays_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log(tmp_path, 10, close=False)
    with (tmp_path / LOG).open("ab") as file:
        file.write(b'{"seq":11,"ti')
    monkeypatch.setattr(audit, "ROTATE_AT", (tmp_path / LOG).stat().st_size)
    log(tmp_path, 5)
    assert (tmp_path / BEFORE).exists()
    assert verify(tmp_path, KEY) == Verdict(16, 1)


class Killed(BaseException):
    """Where a test ends a daemon as `kill -9` would."""


class DyingOs:
    """`os` until so many calls were made; then none does anything any more."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if not callable(real):
            return real

        def call(*args: Any) -> Any:
            self._left -= 1
            if self._left < 0:
                raise Killed
            return real(*args)

        return call


def test_killed_before_any_system_call_it_is_whole_and_has_what_was_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log(tmp_path, 60)
    monkeypatch.setattr(audit, "ROTATE_AT", (tmp_path / LOG).stat().st_size)
    rotated = 0
    for calls in range(1000):
        folder = tmp_path / str(calls)
        folder.mkdir()
        log(folder, 55, close=False)
        told = 55
        monkeypatch.setattr(audit, "os", DyingOs(calls))
        try:
            opened = Audit(folder / LOG, KEY, lambda: 1e9)
            for n in range(20):
                opened.tell("call", n=n)
                told += 1
            opened.close()
        except Killed:
            done = False
        else:
            done = True
        monkeypatch.setattr(audit, "os", os)
        found = verify(folder, KEY)
        assert found.ok, (calls, found)
        assert read(folder)[-1]["seq"] in (told, told + 1)
        log(folder, 3)
        assert verify(folder, KEY).ok, calls
        rotated += (folder / BEFORE).exists()
        if done:
            break
    else:
        raise AssertionError("it never got to its end")
    assert 10 < rotated < calls


def test_a_first_start_that_is_killed_is_no_fault_of_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for calls in range(12):
        folder = tmp_path / str(calls)
        folder.mkdir()
        monkeypatch.setattr(audit, "os", DyingOs(calls))
        with suppress(Killed):
            Audit(folder / LOG, KEY, lambda: 1e9).tell("call")
        monkeypatch.setattr(audit, "os", os)
        log(folder, 3)
        assert verify(folder, KEY).ok, calls


def test_two_histories_by_the_same_key_do_not_fit_together(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    log(one, 10)
    copytree(one, other)
    for folder in (one, other):
        opened = Audit(folder / LOG, KEY, lambda: 1e9)
        for n in range(5):
            opened.tell("call", n=f"{folder.name} {n}")
        opened.close()
        assert verify(folder, KEY).ok
    mixed = [*lines_of(one / LOG)[:12], *lines_of(other / LOG)[12:]]
    copy(other / LOG, one / LOG)
    assert fault(one) == (LOG, 15)  # the head is of the first
    (one / LOG).write_bytes(b"".join(mixed))
    assert fault(one) == (LOG, 13)


def test_a_killed_daemon_loses_no_line_that_was_told(tmp_path: Path) -> None:
    code = """if True:
        import sys, time
        from pathlib import Path
        from slipstream.core.audit import Audit
        log = Audit(Path(sys.argv[1]), b"k" * 32, time.time)
        for n in range(10**9):
            log.tell("call", n=n)
            if n % 100 == 0:
                print(n, flush=True)
    """
    for _ in range(3):
        before = len(lines_of(tmp_path / LOG)) if (tmp_path / LOG).exists() else 0
        command = [sys.executable, "-c", code, str(tmp_path / LOG)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(20):
                told = int(process.stdout.readline())
            process.send_signal(signal.SIGKILL)
            process.wait()
        Audit(tmp_path / LOG, KEY, time.time).close()  # the next start closes a line off that was cut in the middle
        found = verify(tmp_path, KEY)
        assert found.ok, found
        assert found.lines > before + told


def test_a_full_disk_is_an_error_and_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = log(tmp_path, 3, close=False)
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:20]))
    with pytest.raises(SlipError, match="cannot be written") as caught:
        opened.tell("call")
    assert "make room" in caught.value.hint
    monkeypatch.undo()
    opened.tell("call")
    opened.close()
    assert verify(tmp_path, KEY) == Verdict(4, 0)


def test_odd_values_and_endless_ones_make_one_readable_line(tmp_path: Path) -> None:
    opened = log(tmp_path, 0, close=False)
    opened.tell("refused", why="a\nb\x1b[31m\ud800", path=Path("x"), n=float("nan"))
    opened.tell("refused", why="x" * 100_000)
    opened.tell("policy")
    opened.close()
    assert verify(tmp_path, KEY) == Verdict(3, 0)
    odd, endless, _ = lines_of(tmp_path / LOG)
    assert odd.isascii()
    assert b"\x1b" not in odd
    assert json.loads(endless)["cut_from"] > 100_000
    assert len(endless) < audit.LINE_LIMIT
    with pytest.raises(ValueError, match="mac"):
        opened.tell("call", mac="0")


def test_no_log_is_an_error_and_not_a_clean_bill(tmp_path: Path) -> None:
    for look in (lambda: verify(tmp_path, KEY), lambda: read(tmp_path)):
        with pytest.raises(UsageError, match="no audit log"):
            look()
    with pytest.raises(UsageError, match="no key"):
        audit_key(tmp_path)


def test_without_a_path_nothing_is_kept() -> None:
    nowhere = Audit(None, b"", lambda: 0.0)
    nowhere.tell("call", durable=True)
    nowhere.close()
