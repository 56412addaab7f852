"""Listening sockets of both families on one port, and where others reach them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from errno import EADDRINUSE, EADDRNOTAVAIL, EAFNOSUPPORT
from typing import Any

from .addresses import local_addresses

_WILDCARDS = ("0.0.0.0", "::")


def address_of(name: tuple[Any, ...]) -> str:
    """A socket's name as an address; an IPv6 link-local one with the name of its interface."""
    host, port = name[:2]
    if ":" not in host:
        return f"tls://{host}:{port}"
    scope = name[3] if len(name) > 3 else 0
    return f"tls://[{host}%{socket.if_indextoname(scope)}]:{port}" if scope else f"tls://[{host}]:{port}"


def tune(connection: socket.socket, silence: float) -> None:
    """Send small things at once, and give a dead peer up after `silence` seconds, not the kernel's fifteen minutes."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    patience = {"TCP_USER_TIMEOUT": int(silence * 1000), "TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 1, "TCP_KEEPCNT": 3}
    for option, value in patience.items():
        if (number := getattr(socket, option, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, number, value)


def bind(hosts: Sequence[str], port: int) -> list[socket.socket]:
    """Listen on every host with one port; a wildcard of a family that this machine lacks is left out.

    Raises:
        OSError: a host cannot be bound.
    """
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for host in hosts:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            common = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(stack.enter_context(socket.create_server((host, common), family=family)))
            except OSError as error:
                if error.errno == EADDRINUSE and sockets and not port:
                    return bind(hosts, port)  # what is free in one family is taken in the other: take another port
                if host not in _WILDCARDS or error.errno not in (EAFNOSUPPORT, EADDRNOTAVAIL):
                    raise
        if not sockets:
            raise OSError(EADDRNOTAVAIL, f"none of {', '.join(hosts)} can be bound")
        stack.pop_all()
        return sockets


def announced(sockets: Sequence[socket.socket]) -> list[str]:
    """Where others reach these sockets: a wildcard stands for every address of its family that this machine has."""
    addresses: list[str] = []
    for name in [bound.getsockname() for bound in sockets]:
        if name[0] in _WILDCARDS:
            ours = [host for _, host in local_addresses() if (":" in host) == (":" in name[0])]
            addresses += [address_of((host, name[1])) for host in ours]
        else:
            addresses.append(address_of(name))
    return addresses
