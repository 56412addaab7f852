"""A throw-away mesh: real daemons, each in a process of its own with its own key, port and state, on loopback only.

The first one is its owner and lets the others in, as `slip pair` does, only without a network between them.

They are told nothing but what is given here: no config file of the person, no variable of the environment. They end
with whoever started them, whatever ends that: a signal, an error, `kill -9`.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Final

from .. import control
from ..core import authority
from ..core.errors import NotRunning, SlipError, TimedOut
from ..core.identity import Identity
from ..places import socket_of

LOOPBACK: Final = "127.0.0.1"
STOP_SECONDS: Final = 3.0
_PR_SET_PDEATHSIG: Final = 1


@dataclass(slots=True)
class Heard:
    """A device told something (an event of it), or its process ended (`code`)."""

    device: str
    at: float
    """`time.time()` at the device, or here when its process ended."""
    event: Mapping[str, Any] = field(default_factory=dict)
    code: int | None = None


@dataclass(slots=True)
class Daemon:
    """One device."""

    name: str
    id: str
    folder: Path
    process: subprocess.Popen[bytes]
    began: float
    port: int = 0
    killed: bool = False
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=8))

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "state"

    @property
    def log(self) -> str:
        """The last lines of its log."""
        return "\n".join(self.tail)


class Devices:
    """The daemons of one throw-away mesh; what happens on any of them is in `heard`, in the order of arrival."""

    def __init__(self, folder: Path, *, keep: bool = False) -> None:
        self.folder, self._keep = folder, keep
        self.daemons: dict[str, Daemon] = {}
        self.heard: SimpleQueue[Heard] = SimpleQueue()
        self.names: dict[str, str] = {}
        """The devices' names by id."""
        self._owner: Path | None = None

    def __enter__(self) -> Devices:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if not self._keep or kind is not None:
            self.close()

    def start(
        self, name: str, kind: str, packs: Iterable[str], *, flags: Iterable[str] = (), config: str = ""
    ) -> Daemon:
        """Start a device; `config` is what its slipstream.toml says. It is up once its `node.started` is heard."""
        folder = self.folder / name
        folder.mkdir(mode=0o700)
        if self._owner is None:
            self._owner = folder / "state"
            authority.found(self._owner, name, kind)
        else:
            authority.admit_here(self._owner, folder / "state", name, kind)
        identity = Identity.load(folder / "state")
        self.names[identity.id] = name
        (folder / "slipstream.toml").write_text(config, encoding="utf-8")
        command = [
            sys.executable, "-m", "slipstream", "up", "--state", str(folder / "state"), "--name", name, "--kind", kind,
            "--port", "0", "--host", LOOPBACK, "--interface", LOOPBACK,
            *(word for pack in packs for word in ("--pack", pack)), *flags,
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=folder, env=self._environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, start_new_session=True, preexec_fn=None if self._keep else _end_with_parent(),
        )  # fmt: skip
        daemon = self.daemons[name] = Daemon(name, identity.id, folder, process, time.time())
        Thread(target=self._read_log, args=(daemon,), daemon=True).start()
        return daemon

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("SLIPSTREAM_") and k != "NOTIFY_SOCKET"}
        nothing = str(self.folder)  # there is no slipstream/config.toml in it
        return {**kept, "XDG_CONFIG_HOME": nothing, "SLIPSTREAM_LOG": "json"}

    def wait(self, until: Callable[[Heard], bool], seconds: float, what: str) -> None:
        """Go through what is heard until `until` says that it was enough.

        Raises:
            TimedOut: it did not come to that in time.
            SlipError: a device ended that nobody killed.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                heard = self.heard.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                raise TimedOut(f"{what} did not happen within {seconds:g} s", self._logs(), "slip doctor") from None
            if heard.code is not None and not self.daemons[heard.device].killed:
                raise SlipError(f"the {heard.device} ended with exit code {heard.code}",
                                self.daemons[heard.device].log)  # fmt: skip
            if until(heard):
                return

    def kill(self, name: str) -> int:
        """End a device with SIGKILL, as a pulled plug would; the id of its process."""
        daemon = self.daemons[name]
        daemon.killed = True
        daemon.process.kill()
        return daemon.process.pid

    def close(self) -> None:
        """End every device and leave nothing behind."""
        for daemon in self.daemons.values():
            daemon.killed = True
            daemon.process.send_signal(signal.SIGCONT)
            daemon.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for daemon in self.daemons.values():
            try:
                daemon.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                daemon.process.kill()
                daemon.process.wait()
        for daemon in self.daemons.values():
            place = socket_of(daemon.state).parent
            if not place.is_relative_to(self.folder):  # below XDG_RUNTIME_DIR; a killed daemon left its socket there
                shutil.rmtree(place, ignore_errors=True)
                with suppress(OSError):
                    place.parent.rmdir()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read_log(self, daemon: Daemon) -> None:
        """Read what a daemon logs, until its process ends; it can be asked once it said that it is ready."""
        assert daemon.process.stderr is not None
        with daemon.process.stderr as log:
            for line in log:
                daemon.tail.append(line.decode("utf-8", "replace").rstrip())
                if line.startswith(b"{") and json.loads(line).get("kind") == "ready":
                    Thread(target=self._listen, args=(daemon,), daemon=True).start()
        self.heard.put(Heard(daemon.name, time.time(), code=daemon.process.wait()))

    def _listen(self, daemon: Daemon) -> None:
        with suppress(NotRunning):  # its process ended: whoever reads its log says so
            with control.talk(daemon.state, "events", {"since": 0}) as lines:
                for line in lines:
                    if (event := line.get("event")) is not None:
                        self.heard.put(Heard(daemon.name, event["time"], event))

    def _logs(self) -> str:
        return "\n".join(f"{name}: {daemon.log}" for name, daemon in self.daemons.items())


def _end_with_parent() -> Callable[[], None]:
    """What lets a new process get SIGTERM when its parent is gone (prctl(2)); Linux only, elsewhere it does nothing."""
    if sys.platform != "linux":
        return lambda: None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(0)

    return ask
