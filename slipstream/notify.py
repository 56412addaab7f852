"""Telling the service manager how we are: sd_notify(3), over its datagram socket."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


def notify(*said: str) -> None:
    """Send assignments such as `READY=1`; without NOTIFY_SOCKET nobody asked, and one that is gone does not listen."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        # a manager that went away must not take the daemon with it
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager, suppress(OSError):
            manager.connect("\0" + path[1:] if path.startswith("@") else path)
            manager.sendall("\n".join(said).encode())


def watchdog_seconds() -> float | None:
    """How often `WATCHDOG=1` is due: half of what the manager allows (sd_watchdog_enabled(3)); None: not at all."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 2e6 if mine and usec.isdigit() and int(usec) else None
