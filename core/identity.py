"""Who a device is: its key, its certificate, and the mesh root that vouches for it.

A device id is base32(SHA-256(SPKI)[:20]), so an id names exactly one key and whoever proves the key is the device.
`cryptography` is imported only where keys and certificates are made: a daemon that only uses them does without its
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
from typing import TYPE_CHECKING, Final, Self

from .errors import UsageError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

KEY: Final = "device.key"
CERTIFICATE: Final = "device.pem"
ROOT: Final = "root.pem"
ROOT_KEY: Final = "root.key"

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
            _require_private(folder, 0o700)
            _require_private(identity.key, 0o600)
            identity.root.stat()
            pem = identity.certificate.read_text("ascii")
        except FileNotFoundError as error:
            raise UsageError(f"no identity in {folder}", f"{error.filename} is missing") from None
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"the identity in {folder} cannot be read", str(error)) from None
        try:
            device_id = id_of_certificate(_der(pem))
        except ValueError as error:
            raise UsageError(f"{identity.certificate} is no certificate", str(error)) from None
        return cls(device_id, identity.certificate, identity.key, identity.root)

    @classmethod
    def create(cls, folder: Path, mesh: Mesh) -> Self:
        """Make a key and have the mesh's root issue its certificate; the folder is made if there is none.

        Raises:
            UsageError: there is an identity already, or others than the owner may read the folder.
        """
        _make_private(folder)
        key = _new_key()
        _write_private(folder / KEY, _key_pem(key))
        _write_private(folder / CERTIFICATE, mesh.issue(key.public_key()))
        _write_private(folder / ROOT, mesh.root_pem)
        return cls.load(folder)


class Mesh:
    """The root of a mesh: a P-256 key and its self-signed certificate. Whoever holds it decides who is a member."""

    def __init__(self, key: EllipticCurvePrivateKey, root: x509.Certificate) -> None:
        self._key, self._root = key, root

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The mesh root that `make_mesh` left in a folder.

        Raises:
            UsageError: there is none, it cannot be read, or others than the owner may read it.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            _require_private(folder, 0o700)
            _require_private(folder / ROOT_KEY, 0o600)
            key = load_pem_private_key((folder / ROOT_KEY).read_bytes(), None)
            root = x509.load_pem_x509_certificate((folder / ROOT).read_bytes())
        except FileNotFoundError as error:
            raise UsageError(f"no mesh root in {folder}", f"{error.filename} is missing") from None
        except (OSError, ValueError, TypeError) as error:
            raise UsageError(f"the mesh root in {folder} cannot be read", str(error)) from None
        if not isinstance(key, EllipticCurvePrivateKey) or key.public_key() != root.public_key():
            raise UsageError(f"the mesh root in {folder} cannot be used", "key and certificate do not belong together")
        return cls(key, root)

    @property
    def root_pem(self) -> bytes:
        """The root's certificate, which every member trusts."""
        return _pem(self._root)

    def issue(self, public_key: EllipticCurvePublicKey) -> bytes:
        """A certificate (PEM) for the device with that P-256 key, for both ends of a link, with SAN `<id>.mesh`.

        Raises:
            UsageError: the key is not on P-256.
        """
        from cryptography import x509
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
        from cryptography.x509.oid import ExtendedKeyUsageOID

        if public_key.curve.name != "secp256r1":
            raise UsageError(f"a key on {public_key.curve.name}", "devices have P-256 keys")
        device_id = id_of_spki(public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
        both_ends = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        host = x509.SubjectAlternativeName([x509.DNSName(host_of(device_id))])
        return _pem(_certificate(device_id, public_key, self._key, self._root.subject, both_ends, host))


def make_mesh(folder: Path) -> Mesh:
    """A new mesh root, kept in `folder`.

    Raises:
        UsageError: there is one already, or others than the owner may read the folder.
    """
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    _make_private(folder)
    key = _new_key()
    name = f"slipstream mesh {os.urandom(4).hex()}"
    itself = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    mesh = Mesh(key, _certificate(name, key.public_key(), key, itself))
    _write_private(folder / ROOT_KEY, _key_pem(key))
    _write_private(folder / ROOT, mesh.root_pem)
    return mesh


def _certificate(
    name: str, public_key: EllipticCurvePublicKey, issuer_key: EllipticCurvePrivateKey, issuer: x509.Name,
    *of_a_device: x509.ExtensionType,
) -> x509.Certificate:  # fmt: skip
    """A certificate with the extensions that OpenSSL's strict mode wants (RFC 5280, 4.2); without more, a root's."""
    from datetime import UTC, datetime

    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.x509.oid import NameOID

    ca = not of_a_device
    usage = x509.KeyUsage(
        digital_signature=not ca, key_cert_sign=ca, crl_sign=ca, content_commitment=False, key_encipherment=False,
        data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
    )  # fmt: skip
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        # a device whose clock is wrong is still let in; what ends a membership is the roster
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=1 if ca else None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    for extension in of_a_device:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(issuer_key, SHA256())


def _pem(certificate: x509.Certificate) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding

    return certificate.public_bytes(Encoding.PEM)


def _new_key() -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.generate_private_key(ec.SECP256R1())


def _key_pem(key: EllipticCurvePrivateKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _der(pem: str) -> bytes:
    """The first certificate of a PEM file."""
    body = pem.partition("-----BEGIN CERTIFICATE-----")[2].partition("-----END CERTIFICATE-----")[0]
    try:
        return a2b_base64(body)
    except BadBase64 as error:
        raise ValueError(str(error)) from None


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _require_private(folder, 0o700)


def _require_private(path: Path, mode: int) -> None:
    """Refuse what anybody but its owner may read or change."""
    found = path.stat()
    if found.st_uid != os.geteuid():
        raise UsageError(f"{path} belongs to another user", "it holds a private key", f"chown {os.geteuid()} {path}")
    if S_IMODE(found.st_mode) & 0o077:
        raise UsageError(f"{path} is open to others", f"its mode is {S_IMODE(found.st_mode):04o}, not {mode:04o}",
                         f"chmod {mode:o} {path}")  # fmt: skip


def _write_private(path: Path, data: bytes) -> None:
    """Write a new file that only its owner may read, and have it on the disk; never over an old one."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise UsageError(f"{path} exists already", "a key is never overwritten", "choose another folder") from None
    with os.fdopen(handle, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
