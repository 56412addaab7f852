"""Keys, certificates and statements as they are really made, and what a state folder is after anything broke."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from slipstream.core import authority, identity, roster_file
from slipstream.core.authority import LINE_LIMIT, Authority, admit_here, found, request
from slipstream.core.errors import Refused, UsageError
from slipstream.core.identity import Identity, host_of
from slipstream.core.roster_file import RosterFile
from slipstream.core.trust import Role, Statement


def context(who: Identity, protocol: int) -> ssl.SSLContext:
    made = ssl.SSLContext(protocol)
    made.minimum_version, made.verify_mode = ssl.TLSVersion.TLSv1_3, ssl.CERT_REQUIRED
    made.verify_flags |= ssl.VERIFY_X509_STRICT
    made.load_cert_chain(who.certificate, who.key)
    made.load_verify_locations(who.root)
    return made


def shake_hands(client: Identity, server: Identity) -> None:
    """A mutual TLS 1.3 handshake in memory, verified as strictly as OpenSSL can."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    from_client, from_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        context(client, ssl.PROTOCOL_TLS_CLIENT).wrap_bio(to_client, from_client, server_hostname=host_of(server.id)),
        context(server, ssl.PROTOCOL_TLS_SERVER).wrap_bio(to_server, from_server, server_side=True),
    )
    left = set(ends)
    for _ in range(4):
        for end in ends:
            try:
                end.do_handshake()
                left.discard(end)
            except ssl.SSLWantReadError:
                pass
            to_server.write(from_client.read())
            to_client.write(from_server.read())
    assert not left


@pytest.fixture
def phone(tmp_path: Path) -> Identity:
    return found(tmp_path / "phone", "phone", "phone")


def names(folder: Path) -> list[str]:
    return [m.name for m in RosterFile(folder).load().members()]


def test_devices_let_in_by_different_owners_prove_themselves_to_each_other(tmp_path: Path, phone: Identity) -> None:
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    tablet = admit_here(tmp_path / "hub", tmp_path / "tablet", "tablet", "tablet", role=Role.OWNER)
    watch = admit_here(tmp_path / "tablet", tmp_path / "watch", "watch", "watch")
    car = admit_here(tmp_path / "phone", tmp_path / "car", "car", "car")
    for one, other in ((phone, hub), (car, watch), (watch, phone), (tablet, car), (phone, tablet)):
        shake_hands(one, other)


def test_devices_of_two_meshes_do_not(tmp_path: Path, phone: Identity) -> None:
    with pytest.raises(ssl.SSLError):
        shake_hands(phone, found(tmp_path / "other", "phone", "phone"))


def test_an_issued_certificate_has_what_strict_verification_and_both_ends_need(phone: Identity) -> None:
    certificate, owner = x509.load_pem_x509_certificates(phone.certificate.read_bytes())
    root = x509.load_pem_x509_certificate(phone.root.read_bytes())
    certificate.verify_directly_issued_by(owner)
    owner.verify_directly_issued_by(root)
    extension = certificate.extensions.get_extension_for_class
    assert extension(x509.SubjectAlternativeName).value.get_values_for_type(x509.DNSName) == [f"{phone.id}.mesh"]
    assert not extension(x509.BasicConstraints).value.ca
    usages = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH}
    assert set(extension(x509.ExtendedKeyUsage).value) == usages
    assert not extension(x509.KeyUsage).value.key_cert_sign
    assert (certificate.not_valid_before_utc.year, certificate.not_valid_after_utc.year) == (1970, 9999)


def test_the_key_of_the_root_is_nowhere(tmp_path: Path, phone: Identity) -> None:
    keys = [path for path in tmp_path.rglob("*") if path.is_file() and b"PRIVATE KEY" in path.read_bytes()]
    assert keys == [phone.key]
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))


def test_a_member_lets_nobody_in(tmp_path: Path, phone: Identity) -> None:
    admit_here(tmp_path / "phone", tmp_path / "car", "car", "car")
    with pytest.raises(UsageError, match="no owner"):
        admit_here(tmp_path / "car", tmp_path / "friend", "friend", "phone")
    assert not (tmp_path / "friend").exists()


def test_an_identity_is_never_overwritten(tmp_path: Path, phone: Identity) -> None:
    key = phone.key.read_bytes()
    for again in (lambda: found(tmp_path / "phone", "x", "x"),
                  lambda: admit_here(tmp_path / "phone", tmp_path / "phone", "x", "x")):  # fmt: skip
        with pytest.raises(UsageError, match="belongs to a mesh already"):
            again()
    assert phone.key.read_bytes() == key


def test_a_new_identity_does_not_go_into_an_open_folder(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    with pytest.raises(UsageError, match="open to others"):
        found(tmp_path / "open", "phone", "phone")
    assert not list((tmp_path / "open").iterdir())


def test_a_request_that_proves_no_p_256_key_is_refused(tmp_path: Path, phone: Identity) -> None:
    owner = Authority.load(tmp_path / "phone")
    right = request().csr
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    other = builder.sign(ec.generate_private_key(ec.SECP384R1()), SHA256()).public_bytes(Encoding.DER)
    for wrong in (b"", b"\0" * 300, right[:-1], right[:-3] + bytes((right[-3] ^ 1,)) + right[-2:], other):
        with pytest.raises(Refused):
            owner.admit(wrong, name="x", kind="x")
    assert names(tmp_path / "phone") == ["phone"]


def test_who_was_revoked_is_not_let_in_again_with_the_same_key(tmp_path: Path, phone: Identity) -> None:
    owner, asked = Authority.load(tmp_path / "phone"), request()
    owner.admit(asked.csr, name="car", kind="car")
    owner.revoke(asked.id)
    assert names(tmp_path / "phone") == ["phone"]
    with pytest.raises(Refused, match="was revoked"):
        owner.admit(asked.csr, name="car", kind="car")
    with pytest.raises(UsageError, match="not of this mesh"):
        owner.revoke(asked.id)


def test_a_thief_who_had_his_stolen_key_renewed_is_out_with_every_key_of_it(tmp_path: Path, phone: Identity) -> None:
    owner = Authority.load(tmp_path / "phone")
    admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    car = admit_here(tmp_path / "phone", tmp_path / "car", "car", "car")
    first, second = request(), request()
    owner.renew(car.id, first.csr)
    owner.renew(first.id, second.csr)
    owner.retire(car.id)
    assert names(tmp_path / "phone") == ["car", "car", "hub", "phone"]
    # another owner throws out the one who let the new keys in, and says again that they are of one line
    statements = [s.to_wire() for s in RosterFile(tmp_path / "phone").load().statements]
    RosterFile(tmp_path / "hub").take(statements)
    other = Authority.load(tmp_path / "hub")
    other.revoke(phone.id)
    assert {m.id for m in RosterFile(tmp_path / "hub").load().line(first.id)} == {first.id, second.id}
    for folder, by, old in (("phone", owner, car.id), ("hub", other, second.id)):
        by.revoke(old)
        assert "car" not in names(tmp_path / folder)
    assert names(tmp_path / "phone") == ["hub", "phone"]
    assert names(tmp_path / "hub") == ["hub"]


def test_a_key_without_another_in_its_place_does_not_retire(tmp_path: Path, phone: Identity) -> None:
    car = admit_here(tmp_path / "phone", tmp_path / "car", "car", "car")
    with pytest.raises(Refused, match="has no new key"):
        Authority.load(tmp_path / "phone").retire(car.id)
    assert names(tmp_path / "phone") == ["car", "phone"]


def test_a_device_is_given_a_few_new_keys_and_an_owner_gives_itself_one(tmp_path: Path, phone: Identity) -> None:
    owner = Authority.load(tmp_path / "phone")
    car = admit_here(tmp_path / "phone", tmp_path / "car", "car", "car")
    for _ in range(LINE_LIMIT - 1):
        owner.renew(car.id, request().csr)
    with pytest.raises(Refused, match="car has 4 keys already"):
        owner.renew(car.id, request().csr)
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    with pytest.raises(Refused, match="an owner gives itself a new key"):
        owner.renew(hub.id, request().csr)


def test_an_owner_that_was_revoked_signs_nothing_any_more(tmp_path: Path, phone: Identity) -> None:
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    revoke = Authority.load(tmp_path / "phone").revoke(hub.id)
    assert RosterFile(tmp_path / "hub").take([revoke.to_wire()]) == [revoke]
    for act in (lambda o: o.revoke(phone.id), lambda o: o.admit(request().csr, name="friend", kind="phone")):
        with pytest.raises(UsageError, match="no owner of its mesh any more"):
            act(Authority.load(tmp_path / "hub"))


def test_an_owner_that_does_not_know_that_it_was_revoked_lets_in_nobody_whom_others_believe(
    tmp_path: Path, phone: Identity
) -> None:
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub", role=Role.OWNER)
    Authority.load(tmp_path / "phone").revoke(hub.id)
    admitted = Authority.load(tmp_path / "hub").admit(request().csr, name="friend", kind="phone")
    assert RosterFile(tmp_path / "phone").take(admitted.statements)
    assert names(tmp_path / "phone") == ["phone"]


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_statement_that_is_signed_wrongly_counts_for_nothing(tmp_path: Path, phone: Identity) -> None:
    admitted = Authority.load(tmp_path / "phone").admit(request().csr, name="car", kind="car")
    real = Statement.from_wire(admitted.statements[-1])
    stranger = Statement.from_wire(
        RosterFile(found(tmp_path / "x", "x", "x").key.parent).load().statements[0].to_wire()
    )
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub")
    file = RosterFile(hub.key.parent)
    before = file.load().digest
    for forged in (
        replace(real, name="van"), replace(real, role=Role.OWNER), replace(real, seq=9), replace(real, signature=b""),
        replace(real, signer=stranger.signer, spki=stranger.spki), replace(real, spki=stranger.spki, seq=7),
        replace(real, spki=b"", seq=8), stranger,
    ):  # fmt: skip
        assert file.take([forged.to_wire()]) == []
    assert file.take([b"", b"\x00", b"\x93\xc4\x00\xc4\x00\xc4\x00"]) == []
    assert file.load().digest == before


def test_a_roster_that_somebody_else_wrote_is_refused_with_the_fix(tmp_path: Path, phone: Identity) -> None:
    path = tmp_path / "phone" / "roster"
    whole = path.read_bytes()
    for broken in (b"", whole[:-1], whole[:32] + b"\x90", bytes((whole[0] ^ 1,)) + whole[1:]):
        path.write_bytes(broken)
        with pytest.raises(UsageError, match="not what this device wrote") as refused:
            RosterFile(tmp_path / "phone").load()
        assert "slip pair join" in refused.value.hint
    path.write_bytes(whole)
    path.chmod(0o644)
    with pytest.raises(UsageError, match="open to others"):
        RosterFile(tmp_path / "phone").load()
    path.unlink()
    with pytest.raises(UsageError, match="no roster in"):
        RosterFile(tmp_path / "phone").load()


def calls_that_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], at: int) -> bool:
    """Do it, and pull the plug at its nth call that changes what is on the disk; whether it came that far."""

    class Plug(BaseException):
        pass

    left = at

    def cut(real: Callable[..., object]) -> Callable[..., object]:
        def call(*args: object, **more: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Plug
            return real(*args, **more)

        return call

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "open", "unlink", "rmdir", "mkdir"):
            patch.setattr(os, name, cut(getattr(os, name)))
        try:
            act()
        except Plug:
            return True
    return False


def test_a_plug_pulled_anywhere_in_a_write_leaves_the_old_roster_or_the_new_one(
    tmp_path: Path, phone: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    owner = Authority.load(tmp_path / "phone")
    for at in range(100):
        before = names(tmp_path / "phone")
        cut = calls_that_write(monkeypatch, lambda: owner.admit(request().csr, name="x", kind="x"), at)
        after = names(tmp_path / "phone")
        assert after in (before, sorted([*before, "x"]))
        if not cut:
            assert at > 3
            break


def test_a_plug_pulled_anywhere_in_a_rotation_leaves_one_whole_identity(
    tmp_path: Path, phone: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub")
    seen = set()
    for at in range(300):
        before = Identity.load(tmp_path / "phone").id
        owner = Authority.load(tmp_path / "phone")
        cut = calls_that_write(monkeypatch, owner.rotate, at)
        after = Identity.load(tmp_path / "phone")
        roster = RosterFile(tmp_path / "phone").load()
        shake_hands(after, hub)
        assert not (tmp_path / "phone" / "next").exists()
        seen.add(after.id == before)
        if not cut:
            assert roster.revoked(before)
            break
        assert roster.member(after.id) is not None
    assert seen == {True, False}


def test_the_modules_that_a_daemon_reads_its_trust_with_are_the_ones_tested_here() -> None:
    assert authority.RosterFile is roster_file.RosterFile
    assert roster_file.require_private is identity.require_private
