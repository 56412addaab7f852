"""The daemon on its own terms: how soon it is ready, how soon two know of each other, and what it costs while idle.

Real `slip up` processes of one throw-away mesh on loopback. `python tests/bench/daemon.py [--json]`.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import SimpleQueue
from statistics import median
from threading import Thread
from typing import Any

from slipstream import control
from slipstream.core import authority
from slipstream.core.errors import NotRunning

NAME = "daemon"
STARTS, MEETINGS, IDLE_SECONDS, KILLS = 8, 20, 20.0, 5


class Daemon:
    """A `slip up`, and what it tells: (wall time, event)."""

    def __init__(self, folder: Path, name: str, kind: str) -> None:
        self.state = folder / name
        self.name, self.kind, self._folder = name, kind, folder
        self.heard: SimpleQueue[Mapping[str, Any]] = SimpleQueue()

    def start(self) -> tuple[float, float]:
        """Start it; when that was, and the seconds until READY=1 came from it (sd_notify(3))."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            where = self._folder / f"{self.name}.notify"
            where.unlink(missing_ok=True)
            ready.bind(str(where))
            ready.settimeout(20)
            began, wall = time.perf_counter(), time.time()
            # warm means with cached byte code, as on any machine that does not forbid it
            kept = {k: v for k, v in os.environ.items()
                    if not k.startswith("SLIPSTREAM_") and k != "PYTHONDONTWRITEBYTECODE"}  # fmt: skip
            command = [
                sys.executable, "-m", "slipstream", "up", "--state", str(self.state), "--name", self.name,
                "--kind", self.kind, "--pack", self.kind,
                "--port", "0", "--host", "127.0.0.1", "--interface", "127.0.0.1",
            ]  # fmt: skip
            told = {"NOTIFY_SOCKET": str(where), "XDG_CONFIG_HOME": str(self._folder)}
            nowhere = subprocess.DEVNULL
            self.process = subprocess.Popen(command, env=kept | told, cwd=self._folder, stdout=nowhere, stderr=nowhere)
            while b"READY=1" not in ready.recv(4096):
                continue
            return wall, time.perf_counter() - began

    def listen(self) -> None:
        """Hear everything that it tells, from its start on."""
        Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        try:
            with control.talk(self.state, "events", {"since": 0}) as lines:
                for line in lines:
                    if (event := line.get("event")) is not None:
                        self.heard.put(event)
        except NotRunning:
            return

    def until(self, true: Callable[[Mapping[str, Any]], bool]) -> float:
        """The wall time of the first event that it is about."""
        while True:
            event = self.heard.get(timeout=30)
            if true(event):
                return float(event["time"])

    def end(self, number: int = signal.SIGTERM) -> float:
        """Send it a signal and wait for its end; when that was sent."""
        at = time.time()
        self.process.send_signal(number)
        self.process.wait(10)
        return at

    def used(self) -> tuple[float, int]:
        """Seconds of processor time, and voluntary context switches of all threads, so far."""
        pid = self.process.pid
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        switches = 0
        for status in Path(f"/proc/{pid}/task").glob("*/status"):
            for line in status.read_text().splitlines():
                if line.startswith("voluntary_ctxt_switches"):
                    switches += int(line.split()[1])
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), switches

    def rss(self) -> float:
        """Resident memory in MB."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def figures(args: Any = None) -> dict[str, float]:
    """All figures of one run."""
    with tempfile.TemporaryDirectory(prefix="slipstream-bench-") as name:
        folder = Path(name)
        a, b, c = (Daemon(folder, kind, kind) for kind in ("hub", "car", "phone"))
        authority.found(a.state, a.name, a.kind)
        for daemon in (b, c):
            authority.admit_here(a.state, daemon.state, daemon.name, daemon.kind)
        try:
            return measure(a, b, c)
        finally:
            for daemon in (a, b, c):
                if daemon.process.poll() is None:
                    daemon.end(signal.SIGKILL)


def measure(a: Daemon, b: Daemon, c: Daemon) -> dict[str, float]:
    for daemon in (a, b, c):  # warms the caches
        daemon.start()
        daemon.end()
    starts = []
    for _ in range(STARTS):
        starts.append(a.start()[1])
        a.end()
    a.start()
    a.listen()
    meetings, since_ready, leaves, kills = [], [], [], []
    for i in range(MEETINGS):
        began, ready = b.start()
        b.heard = SimpleQueue()
        b.listen()
        met = max(a.until(lambda e: joined(e, "car")), b.until(lambda e: joined(e, "hub")))
        meetings.append(met - began)
        since_ready.append(met - began - ready)
        killed = i < KILLS
        at = b.end(signal.SIGKILL if killed else signal.SIGTERM)
        (kills if killed else leaves).append(a.until(lambda e: e["kind"] == "device.left" and e["name"] == "car") - at)
    for daemon in (b, c):
        daemon.start()
    for name in ("car", "phone"):
        a.until(lambda e, name=name: joined(e, name))  # type: ignore[misc]
    time.sleep(3)  # what follows a meeting is not idleness
    before = a.used()
    time.sleep(IDLE_SECONDS)
    after = a.used()
    found = {
        "ready_p50_ms": median(starts) * 1e3,
        "meet_p50_s": median(meetings),
        "meet_after_ready_p50_s": median(since_ready),
        "leave_p50_s": median(leaves),
        "kill_p50_s": median(kills),
        "idle_rss_mb": a.rss(),
        "idle_cpu_percent": (after[0] - before[0]) / IDLE_SECONDS * 100,
        "idle_wakeups_per_s": (after[1] - before[1]) / IDLE_SECONDS,
    }
    for daemon in (a, b, c):
        daemon.end()
    return found


def joined(event: Mapping[str, Any], name: str) -> bool:
    return event["kind"] == "device.joined" and event["name"] == name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    found = figures(args := parser.parse_args())
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, "figures": {k: round(v, 3) for k, v in found.items()}}))
    else:
        for key, value in found.items():
            print(f"{key:24}{value:10.3f}")


if __name__ == "__main__":
    main()
