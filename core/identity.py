"""Who a device is: its key, its certificate, and the root of its mesh.

A device id is base32(SHA-256(SPKI)[:20]), so an id names exactly one key and whoever proves the key is the device.
Keys and certificates are made in authority.py, with `cryptography`: a daemon that only uses them does without its
10 MB, and reads the id of a peer from the certificate's DER by itself.
"""

from __future__ import annotations

import os
from base64 import b32encode
from binascii import Error as BadBase64
from binascii import a2b_base64
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE
from typing import Final, Self

from .errors import UsageError

KEY: Final = "device.key"
CERTIFICATE: Final = "device.pem"
OWNER: Final = "owner.pem"
ROOT: Final = "root.pem"
ROSTER: Final = "roster"
AUDIT_KEY: Final = "audit.key"
MOVED: Final = (KEY, CERTIFICATE, OWNER, ROSTER, AUDIT_KEY)
COMPLETE: Final = "complete"
NEXT: Final = "next"
"""The folder inside the state folder where a new key is made ready; its file `complete` says that it is."""

_SEQUENCE, _INTEGER, _BIT_STRING, _VERSION = 0x30, 0x02, 0x03, 0xA0


def id_of_spki(spki: bytes) -> str:
    """The device id of a public key, given as a DER SubjectPublicKeyInfo: 32 characters of `a-z2-7`."""
    return b32encode(sha256(spki).digest()[:20]).decode().lower()


def id_of_certificate(der: bytes) -> str:
    """The device id of the key in a DER certificate (RFC 5280, 4.1). It proves nothing: the handshake does.

    Raises:
        ValueError: it is no certificate.
    """
    start, end = _open(der, 0, len(der), _SEQUENCE)
    if end != len(der):
        raise ValueError("bytes after the certificate")
    at, end = _open(der, start, end, _SEQUENCE)
    if der[at:end][:1] == bytes((_VERSION,)):
        at = _open(der, at, end, _VERSION)[1]
    # serialNumber, then signature, issuer, validity and subject
    for tag in (_INTEGER, _SEQUENCE, _SEQUENCE, _SEQUENCE, _SEQUENCE):
        at = _open(der, at, end, tag)[1]
    inner, spki_end = _open(der, at, end, _SEQUENCE)
    inner = _open(der, inner, spki_end, _SEQUENCE)[1]
    if _open(der, inner, spki_end, _BIT_STRING)[1] != spki_end:
        raise ValueError("bytes after the public key")
    return id_of_spki(der[at:spki_end])


def id_of_pem(pem: str) -> str:
    """The device id of the key in the first certificate of a PEM file.

    Raises:
        ValueError: it holds none.
    """
    return id_of_certificate(_der(pem))


def _open(der: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Where the content of the DER element at `at` starts and ends; it must have that tag and lie before `end`."""
    if end - at < 2 or der[at] != tag:
        raise ValueError(f"no element with tag {tag:#04x} at byte {at}")
    size, start = der[at + 1], at + 2
    if size > 0x7F:
        count = size & 0x7F
        # X.690, 10.1: definite lengths in the fewest bytes; no certificate needs more than three
        if not 1 <= count <= 3 or end - start < count:
            raise ValueError(f"a bad length at byte {at}")
        size = int.from_bytes(der[start : start + count], "big")
        start += count
        if size < 0x80 or size >> (8 * (count - 1)) == 0:
            raise ValueError(f"a length that is not the shortest at byte {at}")
    if size > end - start:
        raise ValueError(f"the element at byte {at} is longer than what holds it")
    return start, start + size


def host_of(device_id: str) -> str:
    """The name that a device's certificate is for."""
    return f"{device_id}.mesh"


def format_id(device_id: str) -> str:
    """A device id in groups of seven, as people read and compare it; the first group is what `device.short` shows."""
    return "-".join(device_id[i : i + 7] for i in range(0, len(device_id), 7))


@dataclass(frozen=True, slots=True)
class Identity:
    """This device: its id, and the PEM files that prove it; the certificate's holds its chain, without the root."""

    id: str
    certificate: Path
    key: Path
    root: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The identity that lies in a state folder.

        Raises:
            UsageError: there is none, it cannot be read, or others than the owner may read folder or key.
        """
        identity = cls("", folder / CERTIFICATE, folder / KEY, folder / ROOT)
        try:
            require_private(folder, 0o700)
            _finish_rotation(folder)
            require_private(identity.key, 0o600)
            identity.root.stat()
            pem = identity.certificate.read_text("ascii")
        except FileNotFoundError as error:
            hint = "slip pair join CODE (another device lets this one in), or slip pair new (the first one)"
            if identity.certificate.exists():  # it was a device once: it must not silently become another one
                hint = f"restore {error.filename}; or move {folder} away, and then: slip pair join CODE"
            raise UsageError(f"no identity in {folder}", f"{error.filename} is missing", hint) from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the identity in {folder} cannot be read", str(error)) from None
        try:
            device_id = id_of_pem(pem)
        except ValueError as error:
            raise UsageError(f"{identity.certificate} is no certificate", str(error)) from None
        return cls(device_id, identity.certificate, identity.key, identity.root)


def _der(pem: str) -> bytes:
    """The first certificate of a PEM file."""
    body = pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
    try:
        return a2b_base64(body)
    except BadBase64 as error:
        raise ValueError(str(error)) from None


def make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    require_private(folder, 0o700)


def require_private(path: Path, mode: int) -> None:
    """Refuse what anybody but its owner may read or change."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to another user", "it holds a private key", f"chown {os.geteuid()} {path}")
    if S_IMODE(found.st_mode) & 0o077:
        raise UsageError(f"{path} is open to others", f"its mode is {S_IMODE(found.st_mode):04o}, not {mode:04o}",
                         f"chmod {mode:o} {path}")  # fmt: skip


def replace_private(path: Path, data: bytes) -> None:
    """Put a file that only its owner may read in the place of another one, at once and on the disk."""
    fresh = path.with_name(f"{path.name}.new")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _finish_rotation(folder: Path) -> None:
    """Take over a new key that was made ready, or drop one that was not: whatever ended the rotation."""
    fresh = folder / NEXT
    if not fresh.is_dir():
        return
    if (fresh / COMPLETE).exists():
        for name in MOVED:
            if (fresh / name).exists():
                os.replace(fresh / name, folder / name)
        _sync(folder)
    for file in (*fresh.iterdir(), fresh):
        if file.name != COMPLETE and file != fresh:
            file.unlink()
    (fresh / COMPLETE).unlink(missing_ok=True)
    fresh.rmdir()
