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
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core.device import short
from slipstream.core.errors import UsageError
from slipstream.core.identity import Identity, Mesh, format_id, id_of_certificate, id_of_spki, make_mesh


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


@pytest.fixture
def mesh(tmp_path: Path) -> Mesh:
    return make_mesh(tmp_path / "mesh")


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


def test_an_issued_certificate_has_what_strict_verification_and_both_ends_need(tmp_path, mesh):
    identity = Identity.create(tmp_path / "phone", mesh)
    certificate = x509.load_pem_x509_certificate(identity.certificate.read_bytes())
    root = x509.load_pem_x509_certificate(mesh.root_pem)
    certificate.verify_directly_issued_by(root)
    extension = certificate.extensions.get_extension_for_class
    assert identity.id == id_of_spki(spki(certificate))
    assert extension(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [f"{identity.id}.mesh"]
    assert extension(x509.BasicConstraints).critical
    assert not extension(x509.BasicConstraints).value.ca
    usages = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert set(extension(x509.ExtendedKeyUsage).value) == usages
    assert not extension(x509.KeyUsage).value.key_cert_sign
    assert (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year) == (1970, 9999)
    assert root.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_only_keys_on_p_256_are_certified(mesh):
    with pytest.raises(UsageError, match="P-256"):
        mesh.issue(ec.generate_private_key(ec.SECP384R1()).public_key())


def test_what_was_created_is_loaded_again(tmp_path, mesh):
    created = Identity.create(tmp_path / "phone", mesh)
    assert Identity.load(tmp_path / "phone") == created
    assert Mesh.load(tmp_path / "mesh").root_pem == mesh.root_pem == created.root.read_bytes()


def test_keys_are_never_overwritten(tmp_path, mesh):
    identity = Identity.create(tmp_path / "phone", mesh)
    key = identity.key.read_bytes()
    for again in (lambda: Identity.create(tmp_path / "phone", mesh), lambda: make_mesh(tmp_path / "mesh")):
        with pytest.raises(UsageError, match="exists already"):
            again()
    assert identity.key.read_bytes() == key


def test_new_keys_and_their_folder_are_for_their_owner_only(tmp_path, mesh):
    identity = Identity.create(tmp_path / "phone", mesh)
    assert identity.key.parent.stat().st_mode & 0o777 == 0o700
    assert identity.key.stat().st_mode & 0o777 == (tmp_path / "mesh" / "root.key").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("name", "mode", "hint"),
    [(".", 0o750, "chmod 700"), (".", 0o701, "chmod 700"), ("device.key", 0o640, "chmod 600"),
     ("device.key", 0o604, "chmod 600"), ("device.key", 0o620, "chmod 600")],
)  # fmt: skip
def test_a_key_that_others_can_reach_is_refused_and_the_hint_mends_it(tmp_path, mesh, name, mode, hint):
    identity = Identity.create(tmp_path / "phone", mesh)
    (tmp_path / "phone" / name).chmod(mode)
    with pytest.raises(UsageError, match=f"its mode is {mode:04o}") as refused:
        Identity.load(tmp_path / "phone")
    assert refused.value.hint.startswith(hint)
    subprocess.run(refused.value.hint.split(), check=True)
    assert Identity.load(tmp_path / "phone") == identity


def test_a_mesh_root_that_others_can_reach_is_refused(tmp_path, mesh):
    (tmp_path / "mesh" / "root.key").chmod(0o644)
    with pytest.raises(UsageError, match="its mode is 0644"):
        Mesh.load(tmp_path / "mesh")


def test_a_new_identity_does_not_go_into_an_open_folder(tmp_path, mesh):
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(UsageError, match="open to others"):
        Identity.create(tmp_path / "open", mesh)
    assert not list((tmp_path / "open").iterdir())


@pytest.mark.parametrize("missing", ["device.key", "device.pem", "root.pem"])
def test_what_is_missing_is_named(tmp_path, mesh, missing):
    Identity.create(tmp_path / "phone", mesh)
    (tmp_path / "phone" / missing).unlink()
    with pytest.raises(UsageError, match=missing):
        Identity.load(tmp_path / "phone")


@pytest.mark.parametrize("text", ["", "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n", "\xff"])
def test_a_certificate_file_that_holds_none_is_refused(tmp_path, mesh, text):
    identity = Identity.create(tmp_path / "phone", mesh)
    identity.certificate.write_text(text, "latin-1")
    with pytest.raises(UsageError):
        Identity.load(tmp_path / "phone")


def test_a_mesh_root_with_the_wrong_certificate_is_refused(tmp_path, mesh):
    make_mesh(tmp_path / "other")
    (tmp_path / "mesh" / "root.pem").write_bytes((tmp_path / "other" / "root.pem").read_bytes())
    with pytest.raises(UsageError, match="do not belong together"):
        Mesh.load(tmp_path / "mesh")


def test_loading_an_identity_does_without_cryptography(tmp_path, mesh):
    Identity.create(tmp_path / "phone", mesh)
    code = (
        "import sys, pathlib; from slipstream.core.identity import Identity;"
        f"Identity.load(pathlib.Path({str(tmp_path / 'phone')!r}));"
        "sys.exit(any(name.split('.')[0] == 'cryptography' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
