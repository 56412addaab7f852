"""What one device shows and another reads: a code with the pinned key, the addresses and the token of one pairing.

`slip:` and base32 of: version and who listens (1 byte), the listener's device id (20), the token (16), its port (2),
the number of IPv4 addresses (1), those (4 each), IPv6 addresses (16 each), and three bytes of SHA-256 over all of it.
Upper and lower case are one, so that a QR needs only its alphanumeric mode (ISO/IEC 18004, 7.4.4) and stays small.
"""

from __future__ import annotations

import os
from base64 import b32decode, b32encode
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, Self

from ..core.errors import UsageError

PREFIX: Final = "slip:"
TOKEN_BYTES: Final = 16
V4_LIMIT, V6_LIMIT = 3, 1
"""How many addresses a code names: more make its QR higher than 25 lines of a terminal."""

_VERSION: Final = 1
_ID, _PORT, _SUM = 20, 2, 3
_FIXED: Final = 1 + _ID + TOKEN_BYTES + _PORT + 1


@dataclass(frozen=True, slots=True)
class Invitation:
    """A pairing that waits for its other side. Whoever knows the token is that side, so it is shown to nobody else."""

    device: str
    """The id of the key of the side that listens."""
    hosts: tuple[str, ...]
    port: int
    by_owner: bool
    """Whether the side that listens is the owner (`invite`), or the newcomer (`show`)."""
    token: bytes = field(repr=False)

    @classmethod
    def new(cls, device: str, hosts: Iterable[str], port: int, *, by_owner: bool) -> Self:
        """An invitation with a token of its own; of the hosts, those that another machine can dial and a code holds.

        Raises:
            UsageError: there is none.
        """
        known = [ip_address(host) for host in hosts if "%" not in host]
        reached = [ip for ip in known if not ip.is_link_local]
        v4, v6 = [ip for ip in reached if ip.version == 4], [ip for ip in reached if ip.version == 6]
        kept = tuple(map(str, (*v4[:V4_LIMIT], *v6[:V6_LIMIT])))
        if not kept:
            raise UsageError("this machine has no address that another one could dial", "", "slip doctor")
        return cls(device, kept, port, by_owner, os.urandom(TOKEN_BYTES))

    def code(self) -> str:
        """The text to paste; in upper case, the text of the QR."""
        packed = sorted((ip_address(host).packed for host in self.hosts), key=len)
        v4 = sum(len(ip) == 4 for ip in packed)
        data = b"".join((
            bytes((_VERSION << 4 | self.by_owner,)), b32decode(self.device.upper()), self.token,
            self.port.to_bytes(_PORT, "big"), bytes((v4,)), *packed,
        ))  # fmt: skip
        return PREFIX + b32encode(data + _sum(data)).decode().rstrip("=").lower()

    @classmethod
    def parse(cls, text: str) -> Self:
        """The invitation that a code says.

        Raises:
            UsageError: it is none, it is cut off, or a letter is wrong.
        """
        said = "".join(text.split()).lower()
        if not said.startswith(PREFIX):
            raise _bad("it does not begin with slip:")
        letters = said.removeprefix(PREFIX).upper()
        try:
            data = b32decode(letters + "=" * (-len(letters) % 8))
        except ValueError:
            raise _bad("it is cut off, or has a letter that no code has") from None
        body, check = data[:-_SUM], data[-_SUM:]
        if len(body) < _FIXED + 4:
            raise _bad("it is too short: a part is missing")
        if _sum(body) != check:
            raise _bad("a letter is wrong or missing: its checksum does not fit")
        return cls._read(body)

    @classmethod
    def _read(cls, body: bytes) -> Self:
        version, by_owner = body[0] >> 4, body[0] & 0x0F
        if version != _VERSION or by_owner > 1:
            raise UsageError("the code is of another version of slip", "", "use the same version on both devices")
        at = 1 + _ID
        token, port, v4 = body[at : at + TOKEN_BYTES], body[at + TOKEN_BYTES : _FIXED - 1], body[_FIXED - 1]
        hosts, split = body[_FIXED:], 4 * v4
        if split > len(hosts) or (len(hosts) - split) % 16 or v4 > V4_LIMIT or len(hosts) > split + 16 * V6_LIMIT:
            raise _bad("its addresses cannot be read")
        found = [str(IPv4Address(hosts[i : i + 4])) for i in range(0, split, 4)]
        found += [str(IPv6Address(hosts[i : i + 16])) for i in range(split, len(hosts), 16)]
        device = b32encode(body[1:at]).decode().lower()
        return cls(device, tuple(found), int.from_bytes(port, "big"), bool(by_owner), token)


def _sum(data: bytes) -> bytes:
    return sha256(data).digest()[:_SUM]


def _bad(why: str) -> UsageError:
    return UsageError("that is no code of slip pair", why, "copy the whole line that begins with slip:", field="code")
