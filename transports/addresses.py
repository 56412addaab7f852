"""The addresses of this machine, and when they change: netlink tells, and a slow poll where netlink is denied."""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

import anyio
from anyio.abc import TaskStatus

_SIOCGIFFLAGS = 0x8913
_UP_AND_RUNNING = 0x1 | 0x40
# netlink(7): RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR
_GROUPS = 0x1 | 0x10 | 0x100


def local_addresses(*, loopback: bool = False) -> list[tuple[str, str]]:
    """The usable addresses of this machine as (interface, address), IPv6 link-local with its scope (`fe80::1%eth0`).

    Usable means that the interface has a carrier and that a socket can be bound to the address: one that IPv6 still
    checks for duplicates (RFC 4862, 5.4) is not listed yet. Loopback is left out unless `loopback` asks for it or
    there is nothing else.
    """
    import ifaddr  # loads ctypes and looks for libc: not on the daemon's way to READY

    ours: list[tuple[str, str]] = []
    looped: list[tuple[str, str]] = []
    for adapter in ifaddr.get_adapters():
        if not _running(adapter.name):
            continue
        for ip in adapter.ips:
            host, scope = (ip.ip[0], ip.ip[2]) if isinstance(ip.ip, tuple) else (ip.ip, 0)
            if _can_bind(host, scope):
                home = looped if is_loopback(host) else ours
                home.append((adapter.name, f"{host}%{adapter.name}" if scope else host))
    return ours + looped if loopback or not ours else ours


def is_loopback(address: str) -> bool:
    """Whether an address is reached from this machine alone."""
    return address == "::1" or address.startswith("127.")


async def watch_addresses(
    changed: Callable[[], None], *, poll: float = 30.0, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """Call `changed` after every change of `local_addresses`; started once it sees each of them. Never returns.

    It sleeps until the kernel speaks of links or addresses; where netlink is denied (Termux) it looks every `poll`
    seconds. What does not change the list, a Wi-Fi scan for one, calls nobody.
    """
    news = _netlink()
    try:
        known = local_addresses(loopback=True)
        task_status.started()
        while True:
            if news is None:
                await anyio.sleep(poll)
            else:
                await anyio.wait_readable(news)
                _drain(news)
            current = local_addresses(loopback=True)
            if current != known:
                known = current
                changed()
    finally:
        if news is not None:
            news.close()


def _netlink() -> socket.socket | None:
    """A socket that becomes readable when links or addresses change, or None where that is not allowed or unknown."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    try:
        news = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError:
        return None
    try:
        news.bind((0, _GROUPS))
    except OSError:
        news.close()
        return None
    return news


def _drain(news: socket.socket) -> None:
    """Read all that is there; the messages are only a reason to look, so losing some (ENOBUFS) loses nothing."""
    with suppress(BlockingIOError):
        while True:
            try:
                news.recv(65536)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise


def _running(interface: str) -> bool:
    """Whether an interface is up and has a carrier; yes where the kernel does not tell (Android's sandbox)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            reply = fcntl.ioctl(probe, _SIOCGIFFLAGS, struct.pack("40s", interface.encode()[:15]))
        except OSError as error:
            return error.errno != errno.ENODEV
    (flags,) = struct.unpack_from("H", reply, 16)
    return bool(flags & _UP_AND_RUNNING == _UP_AND_RUNNING)


def _can_bind(host: str, scope: int) -> bool:
    family, where = (socket.AF_INET6, (host, 0, 0, scope)) if ":" in host else (socket.AF_INET, (host, 0))
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind(where)
    except OSError:
        return False
    return True
