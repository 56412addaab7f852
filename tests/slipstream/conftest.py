"""Real daemons in processes of their own, on loopback, in folders that are thrown away."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SKILLS = '''
import anyio
from collections.abc import AsyncIterator
from pydantic import BaseModel
from slipstream import Context, Effect, Pack, SlipError, skill

ended = anyio.Event()

class Said(BaseModel):
    text: str
    times: int = 1

@skill("test.echo", effect=Effect.READ)
async def echo(ctx: Context, text: str, times: int = 1, loud: bool = False) -> Said:
    """Say it again."""
    return Said(text=(text.upper() if loud else text) * times, times=times)

@skill("test.wait", effect=Effect.READ)
async def wait(ctx: Context) -> int:
    """Tell how far it is, then wait until it is cancelled."""
    await ctx.progress(0.25, "waiting")
    try:
        await anyio.sleep_forever()
    finally:
        ended.set()

@skill("test.ended", effect=Effect.READ)
async def was_ended(ctx: Context) -> bool:
    """Wait until `test.wait` has ended."""
    await ended.wait()
    return True

@skill("test.count", effect=Effect.READ)
async def count(ctx: Context, to: int) -> AsyncIterator[int]:
    """Count."""
    for i in range(to):
        yield i

@skill("test.fail", effect=Effect.READ)
async def fail(ctx: Context) -> int:
    """Fail."""
    raise ValueError("\\x1b]0;evil\\x07 no")

@skill("test.refuse", effect=Effect.READ)
async def refuse(ctx: Context) -> int:
    """Refuse."""
    from slipstream.core.errors import Denied
    raise Denied("nobody may do that", "it is a test")

@skill("test.block", effect=Effect.READ)
async def block(ctx: Context) -> int:
    """Block the event loop."""
    import time
    time.sleep(60)

@skill("test.picture", effect=Effect.READ)
async def picture(ctx: Context) -> bytes:
    """Give bytes."""
    return b"\\x00\\xff"

pack = Pack("test", (echo, wait, was_ended, count, fail, refuse, block, picture))
'''
PATIENCE = 60.0
"""A net below waits that end by themselves; no test depends on it."""


class Daemon:
    """`slip up` with a state folder of its own; each (re)start waits for READY=1 on the service manager's socket."""

    def __init__(self, folder: Path, env: dict[str, str], flags: tuple[str, ...]) -> None:
        folder.mkdir()
        self.state, self.log = folder / "state", folder / "log"
        self._flags = flags
        self._manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        name = f"\0slipstream-test-{os.getpid()}-{folder}"[:100]
        self._manager.bind(name)
        self._manager.settimeout(PATIENCE)
        self.env = {**env, "NOTIFY_SOCKET": f"@{name[1:]}"}
        self.process: subprocess.Popen[bytes]

    def start(self, *more: str) -> Daemon:
        """Start it, and wait until it is ready."""
        flags = ("--host", "127.0.0.1", "--port", "0", "--no-mdns", "--log", "json", *self._flags, *more)
        command = [sys.executable, "-m", "slipstream", "up", "--state", str(self.state), *flags]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, env=self.env, stderr=log, stdin=subprocess.DEVNULL)
        assert self.heard().startswith("READY=1"), self.log.read_text()
        return self

    def heard(self) -> str:
        """The next message to the service manager; `died` when there will be none."""
        ended = os.pidfd_open(self.process.pid)
        try:
            ready, _, _ = select.select([self._manager, ended], [], [], PATIENCE)
            return self._manager.recv(1000).decode() if self._manager in ready else "died"
        finally:
            os.close(ended)

    def reload(self) -> str:
        """Have it read its config again; what it says when it has."""
        self.process.send_signal(signal.SIGHUP)
        assert self.heard().startswith("RELOADING=1\nMONOTONIC_USEC=")
        return self.heard()

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """What its log has of that kind."""
        return [e for e in map(json.loads, self.log.read_text().splitlines()) if e["kind"] == kind]

    def end(self, number: int = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; the exit code."""
        self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self._manager.setblocking(False)
        try:
            while True:
                self._manager.recv(1000)
        except BlockingIOError:
            self._manager.settimeout(PATIENCE)
        return code

    def close(self) -> None:
        """Leave nothing behind."""
        if hasattr(self, "process") and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._manager.close()


@pytest.fixture(scope="session")
def clean_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a machine that was told nothing; byte code is kept, so that starts are warm."""
    home = tmp_path_factory.mktemp("home")
    ours = ("SLIPSTREAM_", "XDG_", "PYTHON")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    dropped = ("NO_COLOR", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
    return {
        **{name: value for name, value in kept.items() if name not in dropped}, "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"), "XDG_STATE_HOME": str(home / "state"),
        "PYTHONPYCACHEPREFIX": str(home / "pycache"), "PYTHONWARNINGS": "error",
    }  # fmt: skip


Make = Callable[..., Daemon]


@pytest.fixture(scope="session")
def skills_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The skills above, as a file that `--pack` takes."""
    path = tmp_path_factory.mktemp("skills") / "skills.py"
    path.write_text(SKILLS)
    return path


@pytest.fixture
def make(tmp_path: Path, clean_env: dict[str, str]) -> Iterator[Make]:
    """Make daemons, not started yet, by name; whatever still runs at the end of the test is killed."""
    made: list[Daemon] = []

    def one(name: str, *flags: str, **env: str) -> Daemon:
        made.append(Daemon(tmp_path / name, {**clean_env, **env}, flags))
        return made[-1]

    yield one
    for daemon in made:
        daemon.close()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str], skills_file: Path) -> Iterator[Daemon]:
    """A daemon that the tests of a module share: a mesh of one, with the skills above."""
    folder = tmp_path_factory.mktemp("alone") / "d"
    daemon = Daemon(folder, clean_env, ("--name", "alone", "--kind", "hub", "--pack", str(skills_file)))
    try:
        yield daemon.start("--new-mesh")
    finally:
        daemon.close()


@pytest.fixture
def slip(clean_env: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run `slip` in a process of its own, to its end."""

    def run(*args: str, state: Path | None = None, **more: Any) -> subprocess.CompletedProcess[str]:
        env = {**clean_env, **({"SLIPSTREAM_STATE": str(state)} if state else {}), **more.pop("env", {})}
        command = [sys.executable, "-m", "slipstream", *args]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=PATIENCE, **more)

    return run
