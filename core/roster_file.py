"""The roster as it lies in a device's state folder.

Laws:
- The file is replaced whole, under a lock: whatever ends a writer, the old roster or the new one is there.
- Each signature was checked once by this device, before it sealed the file with a key that only it has; a start checks
  the seal. So a daemon needs no `cryptography`, and a thousand statements cost it milliseconds.
"""

from __future__ import annotations

import fcntl
import hmac
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgpack

from .errors import ProtocolError, UsageError
from .identity import KEY, ROOT, ROSTER, id_of_pem, id_of_spki, replace_private, require_private
from .trust import Roster, Statement

_LOCK: Final = "roster.lock"
_SEAL: Final = 32
_LIMIT: Final = 8 * 1024 * 1024


class RosterFile:
    """The file `roster` of a state folder."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / ROSTER

    def load(self) -> Roster:
        """What it says.

        Raises:
            UsageError: it is missing, open to others, or not what this device wrote.
        """
        try:
            require_private(self._path, 0o600)
            data = self._path.read_bytes()
        except FileNotFoundError:
            raise UsageError(f"no roster in {self._folder}", "this device does not know who is of its mesh",
                             f"restore {self._path}, or join anew: slip pair join CODE") from None  # fmt: skip
        except OSError as error:
            raise UsageError(f"the roster {self._path} cannot be read", str(error)) from None
        seal, body = data[:_SEAL], data[_SEAL:]
        if len(data) > _LIMIT or not hmac.compare_digest(seal, self._sealed(body)):
            raise UsageError(f"the roster {self._path} is not what this device wrote", "its seal does not fit",
                             "restore it, or join anew: slip pair join CODE")  # fmt: skip
        roster = Roster(self._mesh())
        roster.merge([Statement.from_wire(s) for s in msgpack.unpackb(body)])
        return roster

    def take(self, statements: Iterable[bytes]) -> list[Statement]:
        """Check the signatures of statements and keep those that are right; which are new. Needs `cryptography`.

        Raises:
            UsageError: the file cannot be read or written.
        """
        read = []
        for data in statements:
            try:
                read.append(Statement.from_wire(data))
            except ProtocolError:
                continue  # what cannot be read counts for nothing, whoever sent it
        signed = signed_ones(read)
        with self.held() as roster:
            new = roster.merge(signed)
            if new:
                self.write(roster)
        return new

    @contextmanager
    def held(self) -> Iterator[Roster]:
        """The roster, while no other process of this device may write it."""
        handle = os.open(self._folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self.load() if self._path.exists() else Roster(self._mesh())
        finally:
            os.close(handle)

    def write(self, roster: Roster) -> None:
        """Replace the file; call it inside `held`."""
        body = msgpack.packb([s.to_wire() for s in roster.statements])
        replace_private(self._path, self._sealed(body) + body)

    def _sealed(self, body: bytes) -> bytes:
        try:
            key = (self._folder / KEY).read_bytes()
        except OSError as error:
            raise UsageError(f"no key in {self._folder}", f"{error.filename}: {error.strerror}",
                             "restore device.key, or join anew: slip pair join CODE") from None  # fmt: skip
        return hmac.digest(sha256(b"slipstream roster" + key).digest(), body, "sha256")

    def _mesh(self) -> str:
        return id_of_pem((self._folder / ROOT).read_text("ascii"))


def signed_ones(statements: Iterable[Statement]) -> list[Statement]:
    """Those whose signature is right: P-256, by the key that the signer's id is the hash of."""
    checks: dict[bytes, Callable[[Statement], bool]] = {}
    found = []
    for statement in statements:
        if statement.spki not in checks:
            checks[statement.spki] = _checker(statement.spki)
        if id_of_spki(statement.spki) == statement.signer and checks[statement.spki](statement):
            found.append(statement)
    return found


def _checker(spki: bytes) -> Callable[[Statement], bool]:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_der_public_key

    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm):
        return lambda statement: False
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        return lambda statement: False
    public, algorithm = key, ec.ECDSA(SHA256())

    def right(statement: Statement) -> bool:
        try:
            public.verify(statement.signature, statement.body, algorithm)
        except InvalidSignature:
            return False
        return True

    return right
