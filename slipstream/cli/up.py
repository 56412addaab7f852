"""`slip up`: be this device's daemon, in the foreground."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..core.errors import UsageError


def add(parser: argparse.ArgumentParser) -> None:
    """Its arguments."""
    parser.add_argument("--name", help="how people call this device (default: the host's name)")
    parser.add_argument("--kind", help="phone, car, hub, ... (default: computer)")
    parser.add_argument("--pack", action="append", metavar="PACK", help="a pack of skills, or a file.py; repeatable")
    parser.add_argument("--port", type=int, help="TCP port; 0 takes a free one (default: 7447)")
    parser.add_argument("--host", action="append", metavar="ADDRESS", help="listen there only; repeatable")
    parser.add_argument("--interface", action="append", metavar="NAME", help="speak mDNS there only; repeatable")
    parser.add_argument("--peer", action="append", metavar="ID=ADDRESS", help="a device at a known address; repeatable")
    parser.add_argument("--no-mdns", action="store_true", help="neither announce nor look for devices by mDNS")
    parser.add_argument("--log", choices=("auto", "json", "plain"), help="form of the log on stderr")
    mesh = parser.add_mutually_exclusive_group()
    mesh.add_argument("--new-mesh", action="store_true", help="be the first device of a new mesh (as slip pair new)")
    mesh.add_argument(
        "--mesh", type=Path, metavar="DIR", help="be let in by the owner whose state folder that is, on this machine"
    )


def main(args: argparse.Namespace) -> int:
    """Run until told to leave."""
    from .output import note

    flags = {
        "name": args.name, "kind": args.kind, "packs": args.pack, "listen.port": args.port, "listen.hosts": args.host,
        "listen.interfaces": args.interface, "listen.mdns": False if args.no_mdns else None,
        "log": "json" if args.json else args.log, "state": _state(args), **_peers(args.peer or []),
    }  # fmt: skip
    from ..daemon import up

    if args.new_mesh:
        note("a new mesh of one; other devices: slip pair invite here, slip pair join CODE there")
        note(f"more devices on this machine: slip up --state OTHER --mesh {flags['state']} --port 0")
    return up(flags, new_mesh=args.new_mesh, mesh=args.mesh)


def _state(args: argparse.Namespace) -> str:
    from .parsing import state_of

    return str(state_of(args))


def _peers(given: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for text in given:
        device, equals, address = text.partition("=")
        if not equals:
            raise UsageError(f"--peer {text} names no address", "", "--peer ID=tls://192.168.1.7:7447")
        found.setdefault(f"peers.{device.replace('-', '')}", []).append(address)
    return found
