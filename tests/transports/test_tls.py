from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import anyio
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from slipstream.core import authority
from slipstream.core.errors import LinkLost, UsageError
from slipstream.core.identity import Identity
from slipstream.core.link import Link
from slipstream.transports import sockets, tls
from slipstream.transports.addresses import local_addresses
from slipstream.transports.tls import HIGH_WATER, TlsTransport

pytestmark = pytest.mark.anyio
LOOPBACK = ("127.0.0.1", "::1")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_log(caplog):
    """Strangers must not fill the log: whatever asyncio warns of or cannot handle fails the test."""
    with caplog.at_level(logging.WARNING, "asyncio"):
        yield
        gc.collect(1)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


@dataclass(frozen=True)
class World:
    """Two meshes: ours with a phone, a car and a hub, and the neighbours' with a car."""

    folder: Path
    phone: Identity
    car: Identity
    hub: Identity
    foreign: Identity


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> World:
    folder = tmp_path_factory.mktemp("world")
    phone = authority.found(folder / "phone", "phone", "phone")
    others = [authority.admit_here(folder / "phone", folder / name, name, name) for name in ("car", "hub")]
    return World(folder, phone, *others, authority.found(folder / "foreign", "car", "car"))


class Ear:
    """Keeps what a link tells; each `wait` ends when something new was told."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.pieces: list[bytes] = []
        self.lost: list[LinkLost | None] = []
        self.room = 0
        self._news = anyio.Event()
        link.start(self)

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def data_received(self, data: bytes) -> None:
        assert not self.lost
        self.pieces.append(data)
        self.tell()

    def writable(self) -> None:
        self.room += 1
        self.tell()

    def link_lost(self, reason) -> None:
        self.lost.append(reason)
        self.tell()

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def wait(self, until: Callable[[], object]) -> None:
        while not until():
            await self._news.wait()

    async def end(self) -> LinkLost | None:
        await self.wait(lambda: self.lost)
        await anyio.wait_all_tasks_blocked()
        (reason,) = self.lost
        return reason


class Echo(Ear):
    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self.link.write(data)


class Door:
    """A device that accepts links, and what it refused."""

    def __init__(self) -> None:
        self.address = ""
        self.accepted: list[Ear] = []
        self.refused: list[tuple[str, str]] = []
        self._news = anyio.Event()

    def tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def wait(self, until: Callable[[], object]) -> None:
        while not until():
            await self._news.wait()

    @property
    def where(self) -> tuple[str, int]:
        host, _, port = self.address.removeprefix("tls://").rpartition(":")
        return host.strip("[]"), int(port)


@asynccontextmanager
async def serving(identity: Identity, ear: type[Ear] = Ear, host: str = "127.0.0.1") -> AsyncIterator[Door]:
    door = Door()

    def accept(link: Link) -> None:
        door.accepted.append(ear(link))
        door.tell()

    def refused(address: str, why: str) -> None:
        door.refused.append((address, why))
        door.tell()

    async with TlsTransport(identity, [host], refused=refused).serve(accept) as (door.address,):
        yield door


@asynccontextmanager
async def pair(world: World, ear: type[Ear] = Ear, host: str = "127.0.0.1") -> AsyncIterator[tuple[Ear, Ear]]:
    """A link from the phone to the car, both ends started."""
    async with serving(world.car, ear, host) as door:
        ours = Ear(await TlsTransport(world.phone).dial(door.address, world.car.id))
        await door.wait(lambda: door.accepted)
        (theirs,) = door.accepted
        yield ours, theirs
        for end in (ours, theirs):
            end.link.abort()
            await end.wait(lambda end=end: end.lost)


def raw_context(identity: Identity | None) -> ssl.SSLContext:
    """A client's context that checks nothing of the server and shows the certificate of `identity`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if identity is not None:
        context.load_cert_chain(identity.certificate, identity.key)
    return context


async def open_raw(door: Door, context: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*door.where, ssl=context)


async def knock(door: Door, context: ssl.SSLContext) -> str:
    """Open TLS without our own code and talk; the reason in the alert that comes back."""
    writer = None
    try:
        reader, writer = await open_raw(door, context)
        writer.write(b"x" * 100)
        return (await reader.read()).decode() or "closed"
    except ssl.SSLError as error:
        return error.reason
    finally:
        if writer is not None:
            writer.transport.abort()


def forge(folder: Path, name: str, issuer: Path | None = None) -> Identity:
    """A new key in `folder` with a certificate for `name`, signed by itself or by the owner in `issuer`."""
    folder.mkdir(exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "forged")])
    signer, by, chain = key, subject, b""
    if issuer is not None:
        signer = load_pem_private_key((issuer / "device.key").read_bytes(), None)
        chain = (issuer / "owner.pem").read_bytes()
        by = x509.load_pem_x509_certificate(chain).subject
    certificate = (
        x509.CertificateBuilder(by, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(9999, 12, 31, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(f"{name}.mesh")]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .sign(signer, SHA256())
    )
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "device.key").write_bytes(pem)
    (folder / "device.pem").write_bytes(certificate.public_bytes(Encoding.PEM) + chain)
    return Identity(name, folder / "device.pem", folder / "device.key", folder / "root.pem")


# -- what a link does --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", LOOPBACK)
async def test_both_ends_know_each_other_by_ipv4_and_by_ipv6(world, host):
    async with pair(world, host=host) as (ours, theirs):
        assert isinstance(ours.link, Link)
        assert (ours.link.peer, ours.link.dialled) == (world.car.id, True)
        assert (theirs.link.peer, theirs.link.dialled) == (world.phone.id, False)
        assert theirs.link.address.startswith("tls://[::1]:" if ":" in host else "tls://127.0.0.1:")


async def test_what_one_turn_writes_arrives_as_one_piece_and_its_answer_too(world):
    async with pair(world, Echo) as (ours, theirs):
        for word in (b"one ", b"two ", b"three"):
            ours.link.write(word)
        await ours.wait(lambda: ours.data == b"one two three")
        assert theirs.pieces == ours.pieces == [b"one two three"]


async def test_bytes_wait_for_start_and_so_does_the_goodbye(world):
    links: list[Link] = []
    arrived = anyio.Event()

    def accept(link: Link) -> None:
        links.append(link)
        arrived.set()

    async with TlsTransport(world.car, ["127.0.0.1"]).serve(accept) as (address,):
        ours = Ear(await TlsTransport(world.phone).dial(address, world.car.id))
        ours.link.write(b"early")
        ours.link.close()
        await arrived.wait()
        theirs = Ear(links[0])
        assert await theirs.end() is None
        assert theirs.data == b"early"
        assert await ours.end() is None


async def test_large_transfers_both_ways_at_once_wait_for_room_and_arrive_whole(world):
    size, chunk = 24 * 1024 * 1024, 64 * 1024
    block = bytes(range(256)) * (chunk // 256)

    class Pump(Ear):
        def __init__(self, link: Link) -> None:
            self.left, self.most, self.digest, self.count = size, 0, sha256(), 0
            super().__init__(link)
            self.writable()

        def data_received(self, data: bytes) -> None:
            self.digest.update(data)
            self.count += len(data)
            self.tell()

        def writable(self) -> None:
            super().writable()
            while self.left and not self.link.full():
                self.link.write(block)
                self.left -= chunk
            self.most = max(self.most, self.link._transport.get_write_buffer_size())

    async with serving(world.car, Pump) as door:
        ours = Pump(await TlsTransport(world.phone).dial(door.address, world.car.id))
        await ours.wait(lambda: ours.count == size)
        (theirs,) = door.accepted
        await theirs.wait(lambda: theirs.count == size)
        expected = sha256(block * (size // chunk)).digest()
        assert ours.digest.digest() == theirs.digest.digest() == expected
        assert ours.room > 10
        assert max(ours.most, theirs.most) < 3 * HIGH_WATER
        ours.link.close()
        assert await theirs.end() is None
        assert await ours.end() is None


async def test_a_link_is_full_at_once_when_much_was_written_in_one_turn(world):
    async with pair(world) as (ours, _):
        ours.link.write(b"x" * HIGH_WATER)
        assert ours.link.full()
        await ours.wait(lambda: ours.room)
        assert not ours.link.full()


async def test_close_sends_what_is_queued_and_both_ends_end_in_order(world):
    async with pair(world) as (ours, theirs):
        ours.link.write(b"x" * 5_000_000)
        ours.link.close()
        ours.link.write(b"ignored")
        ours.link.close()
        assert await theirs.end() is None
        assert await ours.end() is None
        assert theirs.data == b"x" * 5_000_000


async def test_a_goodbye_arrives_though_the_other_side_talks_on(world):
    class Chatter(Ear):
        def __init__(self, link: Link) -> None:
            super().__init__(link)
            self.writable()

        def writable(self) -> None:
            while not self.link.full():
                self.link.write(b"chatter" * 10_000)

    async with pair(world, Chatter) as (ours, theirs):
        await ours.wait(lambda: len(ours.data) > 1_000_000)
        ours.link.write(b"why I leave")
        ours.link.close()
        assert await theirs.end() is None
        assert theirs.data == b"why I leave"
        assert await ours.end() is None


async def test_abort_resets_and_both_ends_hear_why(world):
    async with pair(world) as (ours, theirs):
        ours.link.write(b"dropped")
        ours.link.abort()
        ours.link.abort()
        assert "gave it up" in (await ours.end()).why
        assert "reset" in (await theirs.end()).why
        assert theirs.data == b""


async def test_a_link_that_was_lost_before_its_start_says_so_then(world):
    async with serving(world.car) as door:
        link = await TlsTransport(world.phone).dial(door.address, world.car.id)
        link.abort()
        await anyio.wait_all_tasks_blocked()
        assert "gave it up" in (await Ear(link).end()).why


async def test_links_outlive_the_listener(world):
    async with serving(world.car, Echo) as door:
        ours = Ear(await TlsTransport(world.phone).dial(door.address, world.car.id))
        await door.wait(lambda: door.accepted)
    ours.link.write(b"still here")
    await ours.wait(lambda: ours.data == b"still here")
    with pytest.raises(LinkLost, match="refused"):
        await TlsTransport(world.phone).dial(door.address, world.car.id)
    ours.link.close()
    assert await ours.end() is None


async def test_an_end_without_goodbye_is_a_broken_link(world):
    async with serving(world.car) as door:
        _, writer = await open_raw(door, raw_context(world.phone))
        writer.write(b"half a mess")
        await door.wait(lambda: door.accepted)
        (theirs,) = door.accepted
        await theirs.wait(lambda: theirs.data)
        # FIN without close_notify, as a man in the middle would cut a conversation short
        writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
        assert "without a goodbye" in (await theirs.end()).why
        writer.transport.abort()


async def test_a_goodbye_that_is_never_answered_ends_too(world, monkeypatch):
    monkeypatch.setattr(tls, "SILENCE", 0.05)
    async with serving(world.car) as door:
        _, writer = await open_raw(door, raw_context(world.phone))
        await door.wait(lambda: door.accepted)
        writer.transport.pause_reading()
        (theirs,) = door.accepted
        theirs.link.close()
        assert "did not answer the goodbye" in (await theirs.end()).why
        writer.transport.abort()


async def test_a_peer_that_does_not_read_is_given_up(world, monkeypatch):
    monkeypatch.setattr(tls, "QUEUE_LIMIT", 1024 * 1024)
    async with serving(world.car) as door:
        _reader, writer = await open_raw(door, raw_context(world.phone))
        await door.wait(lambda: door.accepted)
        writer.transport.pause_reading()
        (theirs,) = door.accepted
        while not theirs.lost:
            theirs.link.write(b"x" * 200_000)  # as small messages would be, full or not
            await asyncio.sleep(0)
        assert "does not read" in (await theirs.end()).why
        writer.transport.abort()


async def test_damage_on_the_way_breaks_the_link_and_delivers_nothing(world):
    async with pair(world) as (ours, theirs):
        # a record that was never encrypted, from below TLS
        ours.link._transport.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        assert "TLS" in (await theirs.end()).why
        assert theirs.data == b""
        assert (await ours.end()) is not None


async def test_a_receivers_error_ends_its_link_and_is_loud(world):
    loop, errors = asyncio.get_running_loop(), []
    usual = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))
    async with pair(world) as (ours, theirs):
        theirs.data_received = lambda data: 1 / 0
        ours.link.write(b"x")
        assert "division" in (await theirs.end()).why
        assert await ours.end() is not None
    loop.set_exception_handler(usual)
    assert [type(error) for error in errors] == [ZeroDivisionError]


# -- who is let in -----------------------------------------------------------------------------------------------------


async def refusal(world: World, stranger: Callable[[Door], object]) -> str:
    """What the car says of a stranger whom it must refuse."""
    async with serving(world.car) as door:
        with suppress(ssl.SSLError, OSError):
            await stranger(door)
        await door.wait(lambda: door.refused)
        assert door.accepted == []
        assert door.refused[0][0].startswith("tls://127.0.0.1:")
        return door.refused[0][1]


async def test_a_stranger_without_a_certificate_is_refused_and_told(world):
    told = []

    async def stranger(door):
        told.append(await knock(door, raw_context(None)))

    assert "no certificate" in await refusal(world, stranger)
    assert told == ["TLSV13_ALERT_CERTIFICATE_REQUIRED"]


async def test_a_device_of_another_mesh_is_refused_and_told(world):
    told = []

    async def stranger(door):
        told.append(await knock(door, raw_context(world.foreign)))

    assert "not a member of this mesh" in await refusal(world, stranger)
    assert told == ["TLSV1_ALERT_UNKNOWN_CA"]


async def test_a_made_up_certificate_with_a_members_name_is_refused(world, tmp_path):
    forged = forge(tmp_path, world.phone.id)
    assert "not a member" in await refusal(world, lambda door: knock(door, raw_context(forged)))


async def test_a_certificate_of_the_root_for_another_devices_key_is_refused(world, tmp_path):
    forged = forge(tmp_path, world.phone.id, world.folder / "phone")
    why = await refusal(world, lambda door: knock(door, raw_context(forged)))
    assert why == "its certificate names another device than its key does"


async def test_an_owners_certificate_as_an_authority_is_no_device(world):
    owner = Identity("", world.folder / "phone" / "owner.pem", world.phone.key, world.phone.root)
    assert await refusal(world, lambda door: knock(door, raw_context(owner)))


async def test_tls_1_2_is_refused(world):
    context = raw_context(world.phone)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert "does not speak TLS 1.3" in await refusal(world, lambda door: knock(door, context))


@pytest.mark.parametrize("noise", [b"GET / HTTP/1.1\r\n\r\n", bytes(300), b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00"])
async def test_noise_is_refused(world, noise):
    async def stranger(door):
        reader, writer = await open_raw(door, None)
        writer.write(noise)
        await reader.read()
        writer.close()

    assert "does not speak TLS" in await refusal(world, stranger)


async def test_a_stranger_who_leaves_in_the_middle_is_no_link(world):
    async def stranger(door):
        _, writer = await open_raw(door, None)
        writer.write(b"\x16\x03\x01")
        writer.close()

    assert "without a goodbye" in await refusal(world, stranger)


async def test_a_silent_opener_is_cut_off_in_time(world, monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.05)

    async def stranger(door):
        reader, writer = await open_raw(door, None)
        try:
            await reader.read()
        finally:
            writer.transport.abort()

    assert "took too long" in await refusal(world, stranger)


async def test_many_openers_are_refused_at_once_until_the_first_have_had_their_time(world, monkeypatch):
    monkeypatch.setattr(tls, "HALF_OPEN", 3)
    async with serving(world.car) as door:
        idle = [await open_raw(door, None) for _ in range(3)]
        reader, writer = await open_raw(door, None)
        with suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()
        await door.wait(lambda: door.refused)
        assert "too many" in door.refused[0][1]
        monkeypatch.setattr(tls, "YIELD_AFTER", 0.0)
        ours = Ear(await TlsTransport(world.phone).dial(door.address, world.car.id))
        await door.wait(lambda: door.accepted)
        with suppress(ConnectionError):
            assert await idle[0][0].read() == b""
        for _, writer in idle:
            writer.transport.abort()
        ours.link.abort()


async def test_a_crowd_of_strangers_is_one_warning(world, monkeypatch):
    async with serving(world.car) as door:
        monkeypatch.setattr(tls, "TELL_EVERY", 3600)
        for _ in range(20):
            assert await knock(door, raw_context(None)) == "TLSV13_ALERT_CERTIFICATE_REQUIRED"
        assert len(door.refused) == 1
        monkeypatch.setattr(tls, "TELL_EVERY", 0)
        await knock(door, raw_context(None))
        await door.wait(lambda: len(door.refused) == 2)
        assert "(and 19 more)" in door.refused[1][1]


async def test_no_session_is_kept_that_could_be_resumed_later(world):
    async with serving(world.car, Echo) as door:
        reader, writer = await open_raw(door, raw_context(world.phone))
        writer.write(b"x")
        await reader.readexactly(1)  # a ticket would have come before
        session = writer.get_extra_info("ssl_object").session
        assert not session.has_ticket
        writer.transport.abort()


# -- dialling ----------------------------------------------------------------------------------------------------------


async def test_another_device_of_the_mesh_than_the_asked_for_is_refused_by_the_dialler(world):
    async with serving(world.hub) as door:
        with pytest.raises(LinkLost, match="another device of this mesh answered"):
            await TlsTransport(world.phone).dial(door.address, world.car.id)
        await door.wait(lambda: door.refused)
        assert not door.accepted


async def test_a_server_with_a_members_name_and_another_key_is_told_from_it(world, tmp_path):
    forged = forge(tmp_path, world.car.id, world.folder / "phone")
    (tmp_path / "root.pem").write_bytes(world.phone.root.read_bytes())
    async with serving(forged) as door:
        with pytest.raises(LinkLost, match="names another device than its key"):
            await TlsTransport(world.phone).dial(door.address, world.car.id)


async def test_a_server_of_another_mesh_is_refused_by_the_dialler(world):
    async with serving(world.foreign) as door:
        with pytest.raises(LinkLost, match="not a member of this mesh"):
            await TlsTransport(world.phone).dial(door.address, world.foreign.id)


async def test_a_dialler_whom_the_server_refuses_hears_why_on_its_link(world):
    # it trusts our root, but its own certificate is the neighbours'
    stranger = replace(world.foreign, root=world.phone.root)
    async with serving(world.car) as door:
        ours = Ear(await TlsTransport(stranger).dial(door.address, world.car.id))
        ours.link.write(b"hello")
        assert "does not take this device for a member" in (await ours.end()).why
        assert not door.accepted


async def test_a_dial_to_nobody_is_refused(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(LinkLost, match="nobody listens there"):
        await TlsTransport(world.phone).dial(f"tls://127.0.0.1:{port}", world.car.id)


async def test_a_dial_to_somebody_silent_times_out(world, monkeypatch):
    monkeypatch.setattr(tls, "HANDSHAKE_TIMEOUT", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with pytest.raises(LinkLost, match="no answer"):
            await TlsTransport(world.phone).dial(f"tls://127.0.0.1:{silent.getsockname()[1]}", world.car.id)


async def test_a_dial_to_a_server_that_speaks_something_else_says_so(world):
    async def greet(reader, writer):
        writer.write(b"220 mail.example ESMTP\r\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost, match="does not speak TLS"):
            await TlsTransport(world.phone).dial(f"tls://127.0.0.1:{port}", world.car.id)


async def test_what_is_no_device_id_is_not_dialled(world):
    for peer in ("", "car", "x" * 300, world.car.id.upper(), world.car.id + "\0"):
        with pytest.raises(LinkLost, match="no device id"):
            await TlsTransport(world.phone).dial("tls://127.0.0.1:1", peer)


@pytest.mark.parametrize(
    "address",
    ["", "tls://", "tls://127.0.0.1", "tls://127.0.0.1:", "tls://127.0.0.1:65536", "tls://::1:7447", "memory://car",
     "tls://127.0.0.1:1/x", "tls://a b:1", "tls://[::1%]:1"],
)  # fmt: skip
async def test_what_is_no_address_is_not_dialled(world, address):
    with pytest.raises(LinkLost, match="no address"):
        await TlsTransport(world.phone).dial(address, world.car.id)


@pytest.mark.parametrize("name", ["nobody.invalid", "a" * 70 + ".invalid", "..", "-"])
async def test_a_name_that_nobody_has_is_a_lost_link(world, name):
    with pytest.raises(LinkLost):
        await TlsTransport(world.phone).dial(f"tls://{name}:7447", world.car.id)


async def test_a_dial_that_is_cancelled_leaves_no_connection(world):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with anyio.create_task_group() as tasks:
            address = f"tls://127.0.0.1:{silent.getsockname()[1]}"
            tasks.start_soon(TlsTransport(world.phone).dial, address, world.car.id)
            connection, _ = await anyio.to_thread.run_sync(silent.accept)
            tasks.cancel_scope.cancel()
        with connection:
            await anyio.to_thread.run_sync(drain, connection)


def drain(connection: socket.socket) -> None:
    with suppress(ConnectionResetError):
        while connection.recv(65536):
            pass


# -- addresses ---------------------------------------------------------------------------------------------------------


async def test_one_port_serves_both_families(world):
    async with TlsTransport(world.car, LOOPBACK).serve(Ear) as addresses:
        four, six = addresses
        assert four.startswith("tls://127.0.0.1:")
        assert six.startswith("tls://[::1]:")
        assert four.rpartition(":")[2] == six.rpartition(":")[2] != "0"
        for address in addresses:
            (await TlsTransport(world.phone).dial(address, world.car.id)).abort()


async def test_a_wildcard_is_announced_as_the_addresses_of_this_machine(world):
    async with TlsTransport(world.car).serve(Ear) as addresses:
        hosts = {address.removeprefix("tls://").rpartition(":")[0].strip("[]") for address in addresses}
        assert hosts == {host for _, host in local_addresses()}
        assert len({address.rpartition(":")[2] for address in addresses}) == 1


@pytest.mark.parametrize(
    ("name", "address"),
    [(("10.0.0.7", 1), "tls://10.0.0.7:1"), (("fd00::7", 1, 0, 0), "tls://[fd00::7]:1"),
     (("fe80::7", 1, 0, 1), f"tls://[fe80::7%{socket.if_indextoname(1)}]:1")],
)  # fmt: skip
async def test_addresses_have_brackets_and_a_scope_where_ipv6_needs_them(name, address):
    assert sockets.address_of(name) == address
    assert tls._ADDRESS.fullmatch(address)


async def test_a_port_that_is_taken_is_an_error(world):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        transport = TlsTransport(world.car, ["127.0.0.1"], taken.getsockname()[1])
        with pytest.raises(OSError):
            async with transport.serve(Ear):
                pass


async def test_an_identity_whose_files_do_not_fit_is_refused(world):
    with pytest.raises(UsageError, match="cannot be used"):
        TlsTransport(replace(world.phone, key=world.car.key))
