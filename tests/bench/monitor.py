"""What the monitor costs: processor, memory, how soon it shows something, and how soon a key is answered.

`python tests/bench/monitor.py [--seconds 10] [--json]`. The monitor is the real one, in a pseudo-terminal of 120 x 40;
the daemon is a stand-in on a real socket, which says at 4 Hz what one would of 50 (then 2,000) devices, a run of 200
steps, and 500 events a second. Beside it the same Textual with an empty screen: what no monitor on it can be below.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import json
import os
import pty
import random
import select
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

NAME = "monitor"
COLUMNS, ROWS = 120, 40
STEPS, EVENTS, RATE = 200, 500, 4
KEYS = 40
EMPTY = """
from textual.app import App
App(ansi_color=True).run()
"""


# -- a daemon that has much to say -------------------------------------------------------------------------------------


class Scene:
    """Rows and events as a daemon's, moving all the time."""

    def __init__(self, devices: int) -> None:
        self._random = random.Random(1)
        self.devices = [f"{i:04x}{i:060x}" for i in range(devices)]
        self.busy = self.devices[:50]
        self._event = 0
        now = time.time()
        self._steps: dict[str, dict[str, Any]] = {}
        for i in range(STEPS):
            at = now + (i // 8) * 1.5
            device = self.busy[i % len(self.busy)]
            self._steps[f"s{i}"] = {
                "run": "r1", "step": f"s{i}", "skill": f"nav.part{i % 9}", "state": "waiting", "device": device,
                "needs": [f"s{i - 8}"] if i >= 8 else [], "reads": [f"s{i - 8}"] if i >= 8 else [], "began": None,
                "ended": None, "start": at, "end": at + 1.2, "planned": [device, at, at + 1.2], "attempt": 0,
                "fraction": 0.0, "note": "", "why": "the only device that has it", "error": None, "size": 1200,
            }  # fmt: skip

    def _device(self, i: int) -> dict[str, Any]:
        roll = self._random
        return {
            "id": self.devices[i], "name": f"device-{i}", "kind": ("phone", "car", "hub")[i % 3],
            "state": "self" if i == 0 else "linked", "via": None, "rtt_ms": roll.uniform(1, 20), "bandwidth": 4e6,
            "battery": roll.random(), "charging": False, "load": roll.random(), "slots": 4, "skills": 11,
            "running": roll.randrange(4), "sessions": 0, "simulated": True, "leaving": False, "seen": time.time(),
            "radio": "wifi", "address": "tls://127.0.0.1:7447",
        }  # fmt: skip

    def rows(self, whole: bool) -> dict[str, Any]:
        count = len(self.devices) if whole else len(self.busy)
        rows: dict[str, Any] = {f"device/{self.devices[i]}": self._device(i) for i in range(count)}
        now = time.time()
        for name, step in self._steps.items():
            if step["state"] == "waiting" and step["start"] <= now:
                step["state"], step["began"] = "running", now
            elif step["state"] == "running":
                step["fraction"] = min(1.0, (now - step["began"]) / 1.2)
                if step["fraction"] == 1.0:
                    step["state"], step["ended"] = "done", now
            elif step["state"] == "done" and now - step["ended"] > 8:
                length = step["end"] - step["start"]
                step.update(state="waiting", began=None, ended=None, start=now + 4, end=now + 4 + length)
            rows[f"step/r1/{name}"] = dict(step)
        if whole:
            rows["self/"] = {"id": self.devices[0], "name": "device-0", "kind": "phone", "mode": "rw", "began": now,
                             "simulated": True}  # fmt: skip
        rows["run/r1"] = {"run": "r1", "goal": "a long way", "state": "running", "began": now - 20, "ended": None,
                          "owner": self.devices[0], "steps": list(self._steps), "makespan": 40.0, "why": "scheduled",
                          "moved": 0, "gain": 0.0, "error": None}  # fmt: skip
        return rows

    def events(self, count: int) -> list[dict[str, Any]]:
        found = []
        for _ in range(count):
            self._event += 1
            i = self._event % STEPS
            device = self.busy[i % len(self.busy)]
            found.append({"seq": self._event, "time": time.time(), "kind": "step.progress", "run": "r1",
                          "step": f"s{i}", "skill": f"nav.part{i % 9}", "device": device, "name": f"device-{i % 50}",
                          "fraction": (self._event % 100) / 100, "note": "rolling"})  # fmt: skip
        return found


async def _daemon(path: str, devices: int) -> None:
    scene = Scene(devices)

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        request = json.loads(await reader.readline())
        if request["verb"] != "watch":
            writer.write(b'{"v":1,"end":true,"error":{"code":"usage","what":"not here"}}\n')
            writer.close()
            return
        seq = 0
        try:
            while True:
                frame = {"v": 1, "schema": 1, "seq": seq, "time": time.time(), "whole": seq == 0,
                         "rows": scene.rows(seq == 0), "events": scene.events(EVENTS // RATE)}  # fmt: skip
                writer.write(json.dumps(frame, separators=(",", ":")).encode() + b"\n")
                await writer.drain()
                seq += 1
                await asyncio.sleep(1 / RATE)
        except ConnectionError:
            return

    server = await asyncio.start_unix_server(client, path)
    print("ready", flush=True)
    async with server:
        await server.serve_forever()


@contextmanager
def daemon(state: Path, devices: int) -> Iterator[None]:
    """The stand-in, in a process of its own."""
    command = [sys.executable, __file__, "--daemon", str(state), "--devices", str(devices)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield
    finally:
        process.kill()
        process.wait()


# -- a terminal --------------------------------------------------------------------------------------------------------


class Terminal:
    """A process in a pseudo-terminal."""

    def __init__(self, command: list[str], env: Mapping[str, str]) -> None:
        self.began = time.perf_counter()
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.execvpe(command[0], command, {**env})
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        os.kill(self._pid, signal.SIGWINCH)
        self.said = b""
        self.bytes = 0

    def read(self, seconds: float) -> None:
        """Take what it draws, for so long."""
        until = time.perf_counter() + seconds
        while (left := until - time.perf_counter()) > 0:
            self._take(left)

    def until(self, text: bytes, seconds: float = 20.0) -> float:
        """Seconds until it draws a text that it had not drawn before now."""
        began, self.said = time.perf_counter(), b""
        while text not in self.said:
            if time.perf_counter() - began > seconds:
                raise SystemExit(f"it did not draw {text!r} within {seconds:g} s; it drew {self.said[-2000:]!r}")
            self._take(0.5)
        return time.perf_counter() - began

    def _take(self, seconds: float) -> None:
        if select.select([self._fd], [], [], seconds)[0]:
            found = os.read(self._fd, 65536)
            self.bytes += len(found)
            self.said = (self.said + found)[-200_000:]

    def press(self, key: bytes) -> None:
        os.write(self._fd, key)

    def cpu(self) -> float:
        """Seconds of processor so far."""
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> float:
        """Resident, in MB."""
        status = Path(f"/proc/{self._pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


def _share(terminal: Terminal, seconds: float) -> float:
    """Percent of a core."""
    before = terminal.cpu()
    began = time.perf_counter()
    terminal.read(seconds)
    return 100 * (terminal.cpu() - before) / (time.perf_counter() - began)


def measure(seconds: float) -> dict[str, float]:
    """All figures."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="slip-bench-") as folder:
        state = Path(folder)
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLIPSTREAM_") and k != "XDG_RUNTIME_DIR"}
        env |= {"TERM": "xterm-256color", "XDG_CONFIG_HOME": folder}
        command = [sys.executable, "-m", "slipstream", "monitor", "--state", str(state)]
        for devices, tag in ((50, ""), (2000, "_2000_devices")):
            with daemon(state, devices):
                starts = []
                for _ in range(5 if devices == 50 else 1):
                    terminal = Terminal(command, env)
                    terminal.until(b"device-1")
                    starts.append(time.perf_counter() - terminal.began)
                    if len(starts) < 5 and devices == 50:
                        terminal.close()
                figures[f"start_to_data_ms{tag}"] = 1000 * median(starts)
                terminal.read(2.0)
                figures[f"mesh_cpu_percent{tag}"] = _share(terminal, seconds)
                for key, view in ((b"2", "plan"), (b"4", "log")):
                    terminal.press(key)
                    terminal.read(2.0)
                    figures[f"{view}_cpu_percent{tag}"] = _share(terminal, seconds)
                terminal.press(b"1")
                terminal.read(1.0)
                waits = []
                for _ in range(KEYS):
                    terminal.press(b"?")
                    waits.append(terminal.until(b"Everywhere"))
                    terminal.press(b"?")
                    waits.append(terminal.until(b"DEVICE"))
                waits.sort()
                figures[f"key_to_paint_p95_ms{tag}"] = 1000 * waits[int(len(waits) * 0.95)]
                figures[f"memory_mb{tag}"] = terminal.memory()
                terminal.close()
        terminal = Terminal([sys.executable, "-c", EMPTY], env)
        terminal.read(2.0)
        figures["empty_textual_cpu_percent"], figures["empty_textual_memory_mb"] = (
            _share(terminal, 3),
            terminal.memory(),
        )
        terminal.close()
    return figures


WANTED = {
    "start_to_data_ms": 500, "mesh_cpu_percent": 6, "plan_cpu_percent": 6, "log_cpu_percent": 6, "memory_mb": 70,
    "mesh_cpu_percent_2000_devices": 8, "key_to_paint_p95_ms": 50,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(prog="slip bench monitor", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long each view is looked at")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--daemon", help=argparse.SUPPRESS)
    parser.add_argument("--devices", type=int, default=50, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.daemon:
        asyncio.run(_daemon(f"{args.daemon}/rw.sock", args.devices))
        return
    figures = measure(args.seconds)
    if args.json:
        print(json.dumps({"v": 1, "bench": NAME, **{k: round(v, 2) for k, v in figures.items()}}))
        return
    for name, value in figures.items():
        wanted = f"   at most {WANTED[name]}" if name in WANTED else ""
        print(f"{name:<34} {value:8.1f}{wanted}")


if __name__ == "__main__":
    main()
