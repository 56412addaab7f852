"""`slip doctor`: look at everything that a device needs, and say how to mend what is wrong."""

from __future__ import annotations

import argparse
import os
import re
import select
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Literal

from ..config import Config, load
from ..control import ask
from ..core.errors import NotRunning, SlipError
from ..core.identity import Identity
from ..places import LOCK, state_folder
from . import output

GROUP: Final = "224.0.0.251"  # RFC 6762, 3
PEER_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `fix` says what to type where it is not `ok`."""

    check: str
    state: Literal["ok", "warn", "failed"]
    what: str
    fix: str = ""


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments: none of its own."""


def main(args: argparse.Namespace) -> int:
    """Check one thing after the other; 1 if something must be mended."""
    findings = []
    for finding in examine(args.state):
        findings.append(finding)
        if not args.json:
            mark = {"ok": output.paint("ok", "good"), "warn": output.paint("warn", "busy"),
                    "failed": output.paint("failed", "bad")}[finding.state]  # fmt: skip
            print(f"{mark:<6} {finding.check:<10}", end=" ")
            output.line(finding.what)
            if finding.fix:
                output.line(f"{'':<17}   try: {finding.fix}")
    if args.json:
        output.show_json({"findings": [asdict(finding) for finding in findings]})
    return int(any(finding.state == "failed" for finding in findings))


def examine(state_flag: str | None) -> Iterator[Finding]:
    """Every check in turn; what cannot be checked because of an earlier one is left out."""
    yield _python()
    yield _extensions()
    try:
        state = state_folder(state_flag)
        config = load({"state": str(state)}).config
    except SlipError as error:
        yield Finding("config", "failed", str(error), error.hint)
        return
    yield Finding("config", "ok", "every layer can be read")
    yield from _state(state)
    yield _clock(state)
    up = False
    try:
        daemon = ask(state, "status")
        up = True
        here = ", ".join(peer["name"] for peer in daemon["peers"]) or "nobody"
        yield Finding("daemon", "ok", f"up as {daemon['device']['name']}; here with it: {here}")
    except NotRunning as error:
        yield Finding("daemon", "warn", error.why, "slip up")
    except SlipError as error:
        yield Finding("daemon", "failed", str(error), "end its process, then: slip up")
    if not up:
        yield _port(config)
    yield _multicast(config)
    for device, addresses in config.peers.items():
        for address in addresses:
            yield _peer(device, address)


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{version} on {sys.platform}")


def _extensions() -> Finding:
    try:
        from ..runtime_ext import frames, scheduler
    except ImportError as error:
        return Finding("extension", "failed", str(error), "build it: make test, or pip install -e .")
    return Finding(
        "extension", "ok", f"{frames.__name__.rpartition('.')[2]} and {scheduler.__name__.rpartition('.')[2]} are built"
    )


def _state(state: Path) -> Iterator[Finding]:
    try:
        identity = Identity.load(state)
    except SlipError as error:
        fix = error.hint or "slip up --new-mesh (a mesh of one), or slip demo"
        yield Finding("identity", "failed", str(error), fix)
        return
    yield Finding("identity", "ok", f"{identity.id} in {state}")
    if os.access(state, os.W_OK) and (not (state / LOCK).exists() or os.access(state / LOCK, os.W_OK)):
        free = os.statvfs(state)
        left = free.f_bavail * free.f_frsize // 2**20
        if left < 50:
            yield Finding("state", "warn", f"{left} MiB are free there", f"make room on the disk of {state}")
        else:
            yield Finding("state", "ok", f"{state} can be written, {left} MiB are free")
    else:
        yield Finding("state", "failed", f"{state} cannot be written", f"chown -R {os.geteuid()} {state}")


def _clock(state: Path) -> Finding:
    newest = max((f.stat().st_mtime for f in state.glob("*")), default=0.0) if state.is_dir() else 0.0
    now = time.time()
    if now < newest - 60:
        behind = output.duration(newest - now)
        return Finding("clock", "warn", f"it is {behind} behind what this device wrote earlier", "set the clock: NTP")
    return Finding("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _port(config: Config) -> Finding:
    port = config.listen.port
    for host in config.listen.hosts:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            socket.create_server((host, port), family=family).close()
        except OSError as error:
            if host == "::":  # a machine without IPv6 does without
                continue
            why = f"cannot listen on {host} port {port}: {error.strerror or error}"
            return Finding("port", "failed", why, "slip up --port 0, or slip config set listen.port PORT")
    return Finding("port", "ok", f"{port} is free")


def _multicast(config: Config) -> Finding:
    """Whether a datagram to mDNS's group comes back to this machine, as one to a neighbour would go out."""
    if not config.listen.mdns:
        return Finding("multicast", "ok", "not asked for (listen.mdns is false)")
    fix = "name peers in the config: slip config set peers.ID tls://ADDRESS:PORT"
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ear,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mouth,
    ):
        try:
            ear.bind(("", 0))
            ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(GROUP) + bytes(4))
            mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            mouth.sendto(b"slip doctor", (GROUP, ear.getsockname()[1]))
        except OSError as error:
            return Finding("multicast", "warn", f"mDNS cannot work here: {error.strerror or error}", fix)
        heard, _, _ = select.select([ear], [], [], 1.0)
    if not heard:
        return Finding("multicast", "warn", "what is sent to a multicast group does not come back", fix)
    return Finding("multicast", "ok", "datagrams to mDNS's group come back")


def _peer(device: str, address: str) -> Finding:
    match = re.fullmatch(r"tls://\[?([^\]]+?)\]?:([0-9]+)", address)
    assert match is not None  # the config was checked
    where = f"{device[:7]} at {address}"
    try:
        socket.create_connection((match[1], int(match[2])), PEER_SECONDS).close()
    except OSError as error:
        return Finding("peer", "failed", f"{where}: {error.strerror or error}", "is it up? is a firewall between?")
    return Finding("peer", "ok", f"{where} accepts connections")
