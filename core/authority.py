"""Makes keys and certificates, and signs statements: what an owner does, and whoever joins; with `cryptography`.

Each device has one key. An owner has beside its own certificate one as an authority (`owner.pem`, over the same key),
so that a device let in by the phone this morning is believed by the hub that has not heard of it yet. The root's key
signs the first owner in and is forgotten at once: there is nothing to steal, and any owner can do all that it could.
Only short-lived processes import this module's cryptography: the command line, and the daemon's clerk.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from .audit import audit_key
from .device import clean, short
from .errors import ProtocolError, Refused, UsageError
from .identity import (
    AUDIT_KEY,
    CERTIFICATE,
    COMPLETE,
    KEY,
    NEXT,
    OWNER,
    ROOT,
    Identity,
    host_of,
    id_of_pem,
    id_of_spki,
    make_private,
    require_private,
)
from .identity import replace_private as write
from .roster_file import RosterFile, signed_ones
from .trust import Role, Roster, Statement

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey


LINE_LIMIT: Final = 4
"""Keys of one device that are let in at a time: a new one may be asked for again when the answer was lost."""


@dataclass(frozen=True, slots=True)
class Request:
    """A device that wants to be let in: its new key, which stays with it, and what it shows (PKCS #10, RFC 2986)."""

    key: bytes
    csr: bytes

    @property
    def id(self) -> str:
        """The id that it will have."""
        return id_of_request(self.csr)


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a device gets that was let in: PEM certificates with their chains, and the statements of the roster."""

    certificate: bytes
    owner: bytes
    """Its certificate as an authority, if it is an owner; else empty."""
    root: bytes
    statements: list[bytes]

    def to_wire(self) -> dict[str, Any]:
        """It as a map of plain values."""
        return {"certificate": self.certificate, "owner": self.owner, "root": self.root, "statements": self.statements}

    @classmethod
    def from_wire(cls, data: Any) -> Self:
        """What `to_wire` wrote.

        Raises:
            ProtocolError: it is something else.
        """
        try:
            certificate, owner, root = (data[name] for name in ("certificate", "owner", "root"))
            statements = list(data["statements"])
            if not all(type(part) is bytes for part in (certificate, owner, root, *statements)):
                raise TypeError("a part is no bytes")
            return cls(certificate, owner, root, statements)
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolError("what lets a device in cannot be read", f"{type(error).__name__}: {error}") from None


def request() -> Request:
    """A new key, and the request that proves it."""
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    key = _new_key()
    csr = x509.CertificateSigningRequestBuilder().subject_name(_name("device")).sign(key, SHA256())
    return Request(_key_pem(key), csr.public_bytes(Encoding.DER))


def id_of_request(csr: bytes) -> str:
    """The id of the key that a request proves.

    Raises:
        Refused: it proves none.
    """
    return id_of_spki(_spki(_requested(csr)))


def found(folder: Path, name: str, kind: str) -> Identity:
    """Make the first device of a new mesh, an owner.

    Raises:
        UsageError: there is an identity already, or others may read the folder.
    """
    _require_empty(folder)
    root_key, key = _new_key(), _new_key()
    root_name = _name(f"slipstream mesh {os.urandom(4).hex()}")
    root = _certificate(root_name, root_key.public_key(), root_key, root_name, ca=True)
    mesh, me = id_of_spki(_spki(root_key.public_key())), id_of_spki(_spki(key.public_key()))
    owner = _certificate(_owner_name(me), key.public_key(), root_key, root_name, ca=True)
    certificate = _certificate(_name(me), key.public_key(), key, _owner_name(me), ca=False)
    statement = _signed(root_key, Roster(mesh), "add", me, role=Role.OWNER, name=name, device_kind=kind, number=1)
    chain = _pem(certificate) + _pem(owner)
    settle(folder, Request(_key_pem(key), b""), Admitted(chain, _pem(owner), _pem(root), [statement.to_wire()]))
    return Identity.load(folder)


def _require_empty(folder: Path) -> None:
    make_private(folder)
    if (folder / CERTIFICATE).exists():
        raise UsageError(f"{folder} belongs to a mesh already", "a key is never overwritten",
                         "choose another folder: --state DIR")  # fmt: skip


def settle(folder: Path, asked: Request, admitted: Admitted) -> None:
    """Write the identity of a device that was let in; the certificate last, which is what makes it one.

    Raises:
        UsageError: there is an identity already, or others may read the folder.
    """
    _require_empty(folder)
    write(folder / KEY, asked.key)
    write(folder / ROOT, admitted.root)
    if admitted.owner:
        write(folder / OWNER, admitted.owner)
    (folder / "roster").unlink(missing_ok=True)  # of an attempt that was cut off
    RosterFile(folder).take(admitted.statements)
    write(folder / CERTIFICATE, admitted.certificate)


def shown(asked: Request) -> bytes:
    """A certificate (PEM) by which a newcomer that listens proves its key, signed by nobody but that key."""
    key = _key_of(asked.key)
    return _pem(_certificate(_name(asked.id), key.public_key(), key, _name(asked.id), ca=False))


def examine(asked: Request, admitted: Admitted, by: str) -> Roster:
    """The roster that came with what an owner gave, if all of it makes the asking device one of that owner's mesh.

    Raises:
        Refused: it does not fit together.
    """
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        root = x509.load_pem_x509_certificate(admitted.root)
        for pem in (admitted.certificate, *([admitted.owner] if admitted.owner else ())):
            chain = x509.load_pem_x509_certificates(pem)
            for issued, issuer in pairwise([*chain, root]):
                issued.verify_directly_issued_by(issuer)
            if id_of_pem(pem.decode("ascii")) != asked.id:
                raise ValueError("a certificate is of another key")
        roster = Roster(id_of_pem(admitted.root.decode("ascii")))
        roster.merge(signed_ones([Statement.from_wire(s) for s in admitted.statements]))
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm, ProtocolError) as error:
        why = f"{type(error).__name__}: {clean(error, 100)}"
        raise Refused("what the owner sent does not fit together", why) from None
    me, owner = roster.member(asked.id), roster.member(by)
    if me is None or me.by != by or owner is None or owner.role is not Role.OWNER:
        raise Refused("the roster does not say that this device was let in", f"{short(by)} should have signed it")
    return roster


class Authority:
    """An owner, who lets devices in and throws them out."""

    def __init__(self, folder: Path, identity: Identity, key: EllipticCurvePrivateKey, chain: bytes) -> None:
        self._folder, self.identity, self._key, self._chain = folder, identity, key, chain
        self._file = RosterFile(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The owner whose state folder that is.

        Raises:
            UsageError: there is no identity, or it is not an owner's.
        """
        identity = Identity.load(folder)
        try:
            require_private(folder / OWNER, 0o600)
            chain = (folder / OWNER).read_bytes()
        except FileNotFoundError:
            raise UsageError("this device is no owner of its mesh", "only an owner lets devices in and throws them out",
                             "do it on an owner: slip pair roster says which are") from None  # fmt: skip
        return cls(folder, identity, _load_key(identity.key), chain)

    def admit(
        self, csr: bytes, *, name: str, kind: str, role: Role = Role.MEMBER, until: float | None = None,
        profile: str = "",
    ) -> Admitted:  # fmt: skip
        """Let the device in that made the request, and write that into this device's roster.

        Raises:
            Refused: the request proves no key on P-256, or that key was thrown out before.
        """
        with self._file.held() as roster:
            admitted = self._admit(roster, csr, name=name, kind=kind, role=role, until=until, profile=profile)
            self._file.write(roster)
        return admitted

    def _admit(
        self, roster: Roster, csr: bytes, *, name: str, kind: str, role: Role, until: float | None = None,
        profile: str = "", line: str = "",
    ) -> Admitted:  # fmt: skip
        public = _requested(csr)
        device = id_of_spki(_spki(public))
        if roster.revoked(device):
            raise Refused(f"{short(device)} was revoked", "a key that was thrown out stays out", "make a new one")
        owner = b""
        if role is Role.OWNER:
            authority = _certificate(_owner_name(device), public, self._key, self._name(), ca=True)
            owner = _pem(authority) + self._chain
        self._add(roster, "add", device, role=role, name=name, device_kind=kind, until=until, profile=profile,
                  number=roster.next_number(device), line=line)  # fmt: skip
        certificate = _pem(_certificate(_name(device), public, self._key, self._name(), ca=False)) + self._chain
        everything = [s.to_wire() for s in roster.statements]
        return Admitted(certificate, owner, self.identity.root.read_bytes(), everything)

    def revoke(self, device: str) -> Statement:
        """Throw a device out with every key of its line, for ever. What an owner had said counts no more; this one says
        it again.

        Raises:
            UsageError: it is not of this mesh, or this device itself.
        """
        if device == self.identity.id:
            raise UsageError("a device does not throw itself out", "another owner would have to say so",
                             "slip pair revoke, on another owner")  # fmt: skip
        with self._file.held() as roster:
            if not roster.line(device):
                raise UsageError(f"{short(device)} is not of this mesh", "", "slip pair roster")
            self._require_owner(roster)
            statement = _throw_out(self._key, roster, device)
            self._file.write(roster)
        return statement

    def retire(self, device: str) -> Statement:
        """Throw out the key of a device that has a new one, and that key only.

        Raises:
            Refused: it has none.
        """
        with self._file.held() as roster:
            heir = next((m.id for m in roster.line(device) if m.line == device), "")
            if not heir:
                raise Refused(f"{short(device)} has no new key", "it would be out for ever", "slip pair rotate")
            self._require_owner(roster)
            statement = _throw_out(self._key, roster, device, heir)
            self._file.write(roster)
        return statement

    def renew(self, device: str, csr: bytes) -> Admitted:
        """Let the new key of a device in, as what it is; its old one stays until it retires.

        Raises:
            Refused: the request proves no key on P-256, the device is not of this mesh any more, is an owner, which
                does this itself, or has asked for too many keys.
        """
        with self._file.held() as roster:
            known = roster.admitted(device, time.time())
            if known.role is Role.OWNER:
                raise Refused("an owner gives itself a new key", "", "slip pair rotate, on that device")
            if len(roster.line(device)) >= LINE_LIMIT:
                raise Refused(f"{known.name} has {LINE_LIMIT} keys already", "it never came back with the new ones",
                              f"slip pair revoke {known.id}, then let it in anew: slip pair invite")  # fmt: skip
            admitted = self._admit(roster, csr, name=known.name, kind=known.kind, role=known.role, until=known.until,
                                   profile=known.profile, line=device)  # fmt: skip
            self._file.write(roster)
        return admitted

    def rotate(self) -> Identity:
        """Give this owner a new key in place of its own, which is revoked; a daemon must be started anew then."""
        asked = request()
        with self._file.held() as roster:  # nothing of it is written before the new key is whole
            me = roster.admitted(self.identity.id, time.time())
            admitted = self._admit(roster, asked.csr, name=me.name, kind=me.kind, role=me.role)
            _throw_out(_key_of(asked.key), roster, me.id, asked.id)
            statements = [s.to_wire() for s in roster.statements]
            replace_identity(self._folder, asked, replace(admitted, statements=statements))
        return Identity.load(self._folder)

    def _name(self) -> x509.Name:
        return _owner_name(self.identity.id)

    def _add(self, roster: Roster, kind: Literal["add", "revoke"], device: str, **more: Any) -> Statement:
        self._require_owner(roster)
        statement = _signed(self._key, roster, kind, device, **more)
        if not roster.merge([statement]):
            raise UsageError("the roster is full", f"it holds {len(roster.statements)} statements", "make a new mesh")
        return statement

    def _require_owner(self, roster: Roster) -> None:
        me = roster.member(self.identity.id)
        if me is None or me.role is not Role.OWNER:
            raise UsageError("this device is no owner of its mesh any more", "", "slip pair roster")


def replace_identity(folder: Path, asked: Request, admitted: Admitted) -> None:
    """Make a new key ready beside the old one, then take it over: whatever ends this, one of the two is whole."""
    fresh = folder / NEXT
    make_private(fresh)
    settle(fresh, asked, admitted)
    write(fresh / AUDIT_KEY, audit_key(folder))
    write(fresh / COMPLETE, b"")
    Identity.load(folder)  # takes it over


def admit_here(
    owner: Path, folder: Path, name: str, kind: str, *, role: Role = Role.MEMBER, until: float | None = None,
    profile: str = "",
) -> Identity:  # fmt: skip
    """Let a device in whose state lies on this machine too: pairing without the network between.

    Raises:
        UsageError: the one is no owner, the other has an identity already.
    """
    authority = Authority.load(owner)
    _require_empty(folder)
    asked = request()
    settle(folder, asked, authority.admit(asked.csr, name=name, kind=kind, role=role, until=until, profile=profile))
    return Identity.load(folder)


def _throw_out(key: EllipticCurvePrivateKey, roster: Roster, device: str, heir: str = "") -> Statement:
    """Revoke a device with the key of an owner, who says again what the revoked one had said and is to stand."""
    me = id_of_spki(_spki(key.public_key()))
    members, revokes = roster.members(), roster.revokes()
    out = {device} if heir else {device, *(m.id for m in roster.line(device))}
    statement = _signed(key, roster, "revoke", device, keeps=roster.stands_on(me, device), line=heir)
    roster.merge([statement])
    for old in revokes:
        if not roster.revoked(old.subject):
            roster.merge([_signed(key, roster, "revoke", old.subject, keeps=old.keeps, line=old.line)])
    for m in sorted(members, key=lambda m: m.role is not Role.OWNER):  # an owner's word stands again with the owner
        now = roster.member(m.id)
        if m.id not in out and (now is None or replace(now, by=m.by) != m):
            roster.merge([_signed(key, roster, "add", m.id, role=m.role, name=m.name, device_kind=m.kind, until=m.until,
                                  profile=m.profile, number=roster.next_number(m.id), line=m.line)])  # fmt: skip
    return statement


def _signed(
    key: EllipticCurvePrivateKey, roster: Roster, kind: Literal["add", "revoke"], subject: str, *,
    role: Role | None = None, name: str = "", device_kind: str = "", until: float | None = None, profile: str = "",
    number: int = 0, keeps: bytes = b"", line: str = "", clock: Callable[[], float] = time.time,
) -> Statement:  # fmt: skip
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256

    spki = _spki(key.public_key())
    signer = id_of_spki(spki)
    statement = Statement(
        kind=kind, mesh=roster.mesh, signer=signer, seq=roster.next_seq(signer), subject=subject, role=role,
        name=clean(name), device_kind=clean(device_kind), until=until, profile=clean(profile),
        number=number, keeps=keeps, at=float(int(clock())), spki=spki, signature=b"", line=line,
    )  # fmt: skip
    return replace(statement, signature=key.sign(statement.body, ec.ECDSA(SHA256())))


def _requested(csr: bytes) -> EllipticCurvePublicKey:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        read = x509.load_der_x509_csr(csr)
        key = read.public_key()
        right = read.is_signature_valid
    except Exception as error:  # its parser has many ways to say that it is none
        raise Refused("the request cannot be read", type(error).__name__) from None
    if not right or not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Refused("the request proves no P-256 key", "devices have P-256 keys")
    return key


def _certificate(
    subject: x509.Name, public_key: EllipticCurvePublicKey, issuer_key: EllipticCurvePrivateKey, issuer: x509.Name, *,
    ca: bool,
) -> x509.Certificate:  # fmt: skip
    """A certificate with the extensions that OpenSSL's strict mode wants (RFC 5280, 4.2)."""
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import ExtendedKeyUsageOID

    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # a device whose clock is wrong is still let in; what ends a membership is the roster
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if not ca:
        both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        host = x509.SubjectAlternativeName([x509.DNSName(host_of(id_of_spki(_spki(public_key))))])
        builder = builder.add_extension(both_ends, critical=False).add_extension(host, critical=False)
    return builder.sign(issuer_key, SHA256())


def _name(text: str) -> x509.Name:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _owner_name(device: str) -> x509.Name:
    return _name(f"owner {device}")


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _spki(key: EllipticCurvePublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _key_of(pem: bytes) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    key = load_pem_private_key(pem, None)
    assert isinstance(key, EllipticCurvePrivateKey)
    return key


def _load_key(path: Path) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"the key {path} cannot be used", str(error)) from None
    if not isinstance(key, EllipticCurvePrivateKey):
        raise UsageError(f"the key {path} cannot be used", "it is not on P-256")
    return key
