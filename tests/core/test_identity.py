from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.authority import found
from slipstream.core.device import short
from slipstream.core.errors import UsageError
from slipstream.core.identity import Identity, format_id, id_of_certificate, id_of_spki


def self_signed(key, name: str = "somebody") -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(datetime(2000, 1, 1, tzinfo=UTC)).not_valid_after(
        datetime(2001, 1, 1, tzinfo=UTC)
    )
    return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()).public_bytes(
        Encoding.DER
    )


DER = self_signed(ec.generate_private_key(ec.SECP256R1()), "y" * 64)


def spki(certificate: x509.Certificate) -> bytes:
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_an_id_is_the_base32_of_a_hash_cut_to_twenty_bytes():
    # SHA-256("abc") from FIPS 180-2, B.1: ba7816bf 8f01cfea 414140de 5dae2223 b00361a3 ...
    assert id_of_spki(b"abc") == "xj4bnp4pahh6uqkbidpf3lrceoyagynd"


def test_people_read_an_id_in_groups_and_the_first_is_the_short_one():
    device_id = id_of_spki(b"abc")
    assert format_id(device_id) == "xj4bnp4-pahh6uq-kbidpf3-lrceoya-gynd"
    assert format_id(device_id).split("-")[0] == short(device_id)


@pytest.mark.parametrize(
    "key",
    [ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP521R1()),
     ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)],
    ids=["p-256", "p-521", "ed25519", "rsa"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x", "y" * 64])
def test_the_id_read_from_der_is_the_one_that_cryptography_reads(key, name):
    der = self_signed(key, name)
    assert id_of_certificate(der) == id_of_spki(spki(x509.load_der_x509_certificate(der)))


@given(st.binary(max_size=400))
def test_noise_is_no_certificate(noise):
    with pytest.raises(ValueError):
        id_of_certificate(noise)


@given(st.data())
def test_a_damaged_certificate_gives_an_id_or_a_value_error_and_nothing_else(data):
    der = bytearray(DER)
    for _ in range(data.draw(st.integers(1, 4))):
        der[data.draw(st.integers(0, len(der) - 1))] = data.draw(st.integers(0, 255))
    try:
        device_id = id_of_certificate(bytes(der))
    except ValueError:
        return
    assert len(device_id) == 32


@given(st.integers(0, len(DER) - 1))
def test_a_certificate_cut_short_is_refused(size):
    with pytest.raises(ValueError):
        id_of_certificate(DER[:size])


def test_bytes_after_a_certificate_are_refused():
    with pytest.raises(ValueError, match="after the certificate"):
        id_of_certificate(DER + b"\0")


@pytest.mark.parametrize(
    "header",
    [b"\x30\x80", b"\x30\x81\x05", b"\x30\x82\x00\xff", b"\x30\x84\x00\x00\x01\x00", b"\x30\xff", b"\x31\x00", b"\x30"],
    ids=["indefinite", "not shortest", "leading zero", "four bytes", "reserved", "a set", "no length"],
)  # fmt: skip
def test_lengths_and_tags_that_der_forbids_are_refused(header):
    with pytest.raises(ValueError):
        id_of_certificate(header + b"\0" * 300)


def test_a_certificate_with_a_length_that_is_not_the_shortest_is_refused():
    assert DER[:2] == b"\x30\x82"
    with pytest.raises(ValueError, match="not the shortest"):
        id_of_certificate(b"\x30\x83\x00" + DER[2:])


def test_a_part_that_is_longer_than_its_certificate_is_refused():
    assert DER[4:6] == b"\x30\x82"
    with pytest.raises(ValueError, match="longer than what holds it"):
        id_of_certificate(DER[:6] + b"\xff\xff" + DER[8:])


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return found(tmp_path / "phone", "phone", "phone")


@pytest.mark.parametrize(
    ("name", "mode", "hint"),
    [(".", 0o750, "chmod 700"), (".", 0o701, "chmod 700"), ("device.key", 0o640, "chmod 600"),
     ("device.key", 0o604, "chmod 600"), ("device.key", 0o620, "chmod 600")],
)  # fmt: skip
def test_a_key_that_others_can_reach_is_refused_and_the_hint_mends_it(tmp_path, identity, name, mode, hint):
    (tmp_path / "phone" / name).chmod(mode)
    with pytest.raises(UsageError, match=f"its mode is {mode:04o}") as refused:
        Identity.load(tmp_path / "phone")
    assert refused.value.hint.startswith(hint)
    subprocess.run(refused.value.hint.split(), check=True)
    assert Identity.load(tmp_path / "phone") == identity


@pytest.mark.parametrize("missing", ["device.key", "device.pem", "root.pem"])
def test_what_is_missing_is_named_and_nothing_new_is_made(tmp_path, identity, missing):
    (tmp_path / "phone" / missing).unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=missing) as refused:
        Identity.load(tmp_path / "phone")
    assert ("restore" in refused.value.hint) == (missing != "device.pem")
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "\xff"])
def test_a_certificate_file_that_holds_none_is_refused(tmp_path, identity, text):
    identity.certificate.write_text(text, "latin-1")
    with pytest.raises(UsageError):
        Identity.load(tmp_path / "phone")


def test_loading_an_identity_and_its_roster_does_without_cryptography(tmp_path, identity):
    folder = f"pathlib.Path({str(tmp_path / 'phone')!r})"
    code = (
        "import sys, pathlib; from slipstream.core.identity import Identity;"
        "from slipstream.core.roster_file import RosterFile;"
        f"Identity.load({folder}); RosterFile({folder}).load();"
        "sys.exit(any(name.split('.')[0] == 'cryptography' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
