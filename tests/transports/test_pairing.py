"""Pairing over real sockets: both ways round, and everything that must be refused."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import anyio
import pytest
import segno
from hypothesis import given
from hypothesis import strategies as st

from slipstream.core import authority
from slipstream.core.authority import Admitted, Authority
from slipstream.core.errors import Denied, LinkLost, ProtocolError, Refused, SlipError, TimedOut, UsageError
from slipstream.core.identity import Identity
from slipstream.core.roster_file import RosterFile
from slipstream.transports import pairing, pairing_wire
from slipstream.transports.invitation import PREFIX, Invitation
from slipstream.transports.pairing import WRONG_LIMIT, Listener, dial
from slipstream.transports.pairing_sides import INVITATION_SECONDS, Newcomer, NewcomerSide, OwnerSide, Side, Welcome
from slipstream.transports.pairing_wire import LARGER_LIMIT, Wire, server_of, server_of_key
from slipstream.transports.sockets import bind

pytestmark = pytest.mark.anyio
LOOPBACK = "127.0.0.1"


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def asyncio_has_nothing_to_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Strangers must not fill the log: whatever asyncio warns of or cannot handle fails the test."""
    with caplog.at_level(logging.WARNING, "asyncio"):
        yield
        gc.collect(1)
    assert [record.message for record in caplog.records if record.name == "asyncio"] == []


@pytest.fixture
def phone(tmp_path: Path) -> Identity:
    return authority.found(tmp_path / "phone", "phone", "phone")


class Phone:
    """An owner that lets everybody in, unless `answer` says something else."""

    def __init__(self, identity: Identity) -> None:
        self.identity, self.folder = identity, identity.key.parent
        self.asked: list[Newcomer] = []
        self.answer: Callable[[Newcomer], Awaitable[Welcome]] = self.admit
        self.side = OwnerSide(identity.id, self._let_in)
        self.context = server_of(identity)

    async def admit(self, newcomer: Newcomer) -> Welcome:
        given = Authority.load(self.folder).admit(newcomer.csr, name=newcomer.name, kind=newcomer.kind)
        return Welcome(self.identity.id, given, ("tls://127.0.0.1:7447", "tls://[fe80::1%e]:1", "file:///etc/passwd"))

    async def _let_in(self, newcomer: Newcomer) -> Welcome:
        self.asked.append(newcomer)
        return await self.answer(newcomer)

    @property
    def members(self) -> list[str]:
        return [m.name for m in RosterFile(self.folder).load().members()]


class Car:
    """A newcomer."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked = folder, authority.request()
        self.side = NewcomerSide(self.asked, "car", "car", self._settle)
        self.context = server_of_key(authority.shown(self.asked), self.asked.key)

    def _settle(self, welcome: Welcome) -> None:
        authority.examine(self.asked, welcome.admitted, welcome.by)
        authority.settle(self.folder, self.asked, welcome.admitted)

    @property
    def identity(self) -> Identity:
        return Identity.load(self.folder)


@dataclass
class Door:
    """An invitation that is open."""

    invitation: Invitation
    task: asyncio.Task[Any] = field(init=False)
    heard: list[str] = field(default_factory=list)
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def hears(self, said: str) -> None:
        self.heard.append(said)
        self.news.set()

    async def heard_of(self, words: str) -> None:
        """Wait until a stranger was refused for that."""
        while not any(words in said for said in self.heard):
            self.news.clear()
            await self.news.wait()


@asynccontextmanager
async def waiting(who: Phone | Car, token: bytes | None = None) -> AsyncIterator[Door]:
    """The code of one side, while that side waits for the other."""
    side: Side[Any] = who.side
    sockets = bind([LOOPBACK], 0)
    invitation = Invitation.new(side.id, [LOOPBACK], sockets[0].getsockname()[1], by_owner=side.role == "owner")
    invitation = replace(invitation, token=token or invitation.token)
    door = Door(invitation)
    door.task = asyncio.create_task(Listener(side, invitation, sockets, who.context, door.hears).run())
    try:
        yield door
    finally:
        door.task.cancel()
        await asyncio.gather(door.task, return_exceptions=True)


@pytest.fixture
def owner(phone: Identity) -> Phone:
    return Phone(phone)


@pytest.fixture
def car(tmp_path: Path) -> Car:
    return Car(tmp_path / "car")


async def still_lets_in(door: Door, tmp_path: Path) -> None:
    """The invitation is as good as before."""
    late = Car(tmp_path / "late")
    await dial(late.side, door.invitation)
    assert (await door.task).id == late.identity.id


# -- codes -------------------------------------------------------------------------------------------------------------

codes = st.builds(
    Invitation,
    device=st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=32, max_size=32),
    hosts=st.builds(
        lambda v4, v6: tuple(map(str, (*v4, *v6))),
        st.lists(st.ip_addresses(v=4), min_size=1, max_size=3),
        st.lists(st.ip_addresses(v=6), max_size=1),
    ),
    port=st.integers(0, 65535),
    by_owner=st.booleans(),
    token=st.binary(min_size=16, max_size=16),
)


@given(codes, st.integers(0, 200))
def test_a_code_says_what_was_put_in_however_it_was_pasted(invitation: Invitation, at: int) -> None:
    code = invitation.code()
    for pasted in (code, code.upper(), f"  {code[:at]}\n {code[at:]}\n"):
        assert Invitation.parse(pasted) == invitation


@given(codes, st.integers(0), st.sampled_from("abcdefghijklmnopqrstuvwxyz234567"))
def test_a_wrong_letter_in_a_code_is_found(invitation: Invitation, at: int, letter: str) -> None:
    code = invitation.code()
    at = len(PREFIX) + at % (len(code) - len(PREFIX))
    wrong = code[:at] + letter + code[at + 1 :]
    try:
        assert Invitation.parse(wrong) == invitation, "only bits that stand for nothing may differ"
    except UsageError as error:
        assert error.hint


@given(codes, st.integers(0))
def test_a_code_that_was_cut_off_is_refused(invitation: Invitation, at: int) -> None:
    code = invitation.code()
    with pytest.raises(UsageError, match=r"no code of slip pair|another version"):
        Invitation.parse(code[: at % (len(code) - 1)])


@given(st.text() | st.text().map(PREFIX.__add__) | st.text("abc234", max_size=130).map(PREFIX.__add__))
def test_what_is_no_code_is_refused_with_what_to_do(text: str) -> None:
    with pytest.raises(UsageError) as refused:
        Invitation.parse(text)
    assert refused.value.hint


def test_a_code_for_two_addresses_fits_a_terminal() -> None:
    two = Invitation("a" * 32, ("192.168.178.31", "10.0.0.7"), 65535, True, b"\xff" * 16)
    most = replace(two, hosts=(*two.hosts, "172.16.0.1", "2001:db8::1"))
    assert (len(two.code()), len(most.code())) == (87, 119)
    for invitation in (two, most):
        code = segno.make(invitation.code().upper(), error="l", boost_error=False, micro=False)
        assert code.mode == "alphanumeric"
        assert (code.symbol_size()[1] + 1) // 2 <= 25


def test_a_code_names_only_addresses_that_another_machine_can_dial() -> None:
    hosts = ["fe80::1%eth0", "169.254.1.1", "2001:db8::1", "10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]
    invitation = Invitation.new("a" * 32, hosts, 1, by_owner=True)
    assert invitation.hosts == ("10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1")
    with pytest.raises(UsageError, match="no address that another one could dial"):
        Invitation.new("a" * 32, hosts[:2], 1, by_owner=True)


def test_a_token_is_shown_by_no_repr() -> None:
    invitation = Invitation.new("a" * 32, [LOOPBACK], 1, by_owner=True)
    assert repr(invitation.token) not in repr(invitation)


# -- letting in --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_owner", [True, False], ids=["invite and join", "show and accept"])
async def test_a_device_is_let_in_whichever_side_shows_the_code(owner: Phone, car: Car, by_owner: bool) -> None:
    shows, dials = (owner, car) if by_owner else (car, owner)
    async with waiting(shows) as door:
        dialled: Any = await dial(dials.side, Invitation.parse(door.invitation.code()))
        waited = await door.task
    newcomer, welcome = (waited, dialled) if by_owner else (dialled, waited)
    assert owner.asked == [newcomer]
    assert (newcomer.id, newcomer.name, newcomer.kind) == (car.identity.id, "car", "car")
    assert welcome.by == owner.identity.id
    assert welcome.host == LOOPBACK
    assert welcome.addresses == ("tls://127.0.0.1:7447",), "what is no address is dropped"
    for folder in (owner.folder, car.folder):
        assert [m.name for m in RosterFile(folder).load().members()] == ["car", "phone"]
    assert not door.heard


async def test_a_roster_of_many_frames_arrives_whole(owner: Phone, car: Car) -> None:
    for n in range(60):
        Authority.load(owner.folder).admit(authority.request().csr, name="x" * 60, kind=f"kind{n}")
    async with waiting(owner) as door:
        await dial(car.side, door.invitation)
        await door.task
    assert RosterFile(car.folder).load().digest == RosterFile(owner.folder).load().digest


async def test_what_the_owner_says_no_to_is_told_on_both_sides(owner: Phone, car: Car) -> None:
    async def no(newcomer: Newcomer) -> Welcome:
        raise Denied("the owner did not let this device in")

    owner.answer = no
    async with waiting(owner) as door:
        for side in (dial(car.side, door.invitation), door.task):
            with pytest.raises(Denied, match="did not let this device in"):
                await side
    assert not car.folder.exists()
    assert owner.members == ["phone"]


async def test_a_question_is_taken_back_when_the_newcomer_hangs_up(owner: Phone, car: Car) -> None:
    asked, taken_back = anyio.Event(), anyio.Event()

    async def think(newcomer: Newcomer) -> Welcome:
        asked.set()
        try:
            await anyio.sleep_forever()
        finally:
            taken_back.set()

    owner.answer = think
    async with waiting(owner) as door:
        joining = asyncio.create_task(dial(car.side, door.invitation))
        await asked.wait()
        joining.cancel()
        with pytest.raises(SlipError, match="the other side broke it off"):
            await door.task
        assert taken_back.is_set()
        await asyncio.wait([joining])


async def test_an_invitation_that_is_withdrawn_says_so_to_who_waits(owner: Phone, car: Car) -> None:
    asked = anyio.Event()

    async def think(newcomer: Newcomer) -> Welcome:
        asked.set()
        await anyio.sleep_forever()

    owner.answer = think
    async with waiting(owner) as door:
        joining = asyncio.create_task(dial(car.side, door.invitation))
        await asked.wait()
        door.task.cancel()
        with pytest.raises(SlipError, match="the other side broke it off"):
            await joining


async def test_a_newcomer_keeps_nothing_that_does_not_make_it_a_device_of_its_owner(owner: Phone, car: Car) -> None:
    async def for_another_key(newcomer: Newcomer) -> Welcome:
        welcome = await owner.admit(newcomer)
        other = Authority.load(owner.folder).admit(authority.request().csr, name="x", kind="x")
        return replace(welcome, admitted=replace(welcome.admitted, certificate=other.certificate))

    owner.answer = for_another_key
    async with waiting(owner) as door:
        with pytest.raises(Refused, match="does not fit together"):
            await dial(car.side, door.invitation)
        with pytest.raises(LinkLost, match="did not say that it kept it") as told:
            await door.task
    assert car.asked.id in told.value.hint
    assert not car.folder.exists()


def test_what_an_owner_sends_is_examined_before_it_is_kept(tmp_path: Path, phone: Identity) -> None:
    asked = authority.request()
    right = Authority.load(tmp_path / "phone").admit(asked.csr, name="car", kind="car")
    foreign = authority.found(tmp_path / "foreign", "phone", "phone")
    other = Authority.load(tmp_path / "foreign").admit(asked.csr, name="car", kind="car")
    hub = authority.admit_here(tmp_path / "phone", tmp_path / "hub", "hub", "hub")
    assert authority.examine(asked, right, phone.id).member(asked.id)
    wrong: list[tuple[Admitted, str]] = [
        (replace(right, certificate=b""), phone.id), (replace(right, certificate=b"\xff"), phone.id),
        (replace(right, root=foreign.root.read_bytes()), phone.id), (replace(right, root=b""), phone.id),
        (replace(right, certificate=other.certificate), phone.id), (replace(right, statements=[]), phone.id),
        (replace(right, statements=right.statements[:1]), phone.id), (replace(right, statements=[b"\0"]), phone.id),
        (replace(right, statements=other.statements), phone.id), (replace(right, owner=right.root), phone.id),
        (right, foreign.id), (right, hub.id), (right, asked.id),
    ]  # fmt: skip
    for admitted, by in wrong:
        with pytest.raises(Refused):
            authority.examine(asked, admitted, by)


# -- what must be refused ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def relay(door: Door) -> AsyncIterator[tuple[Invitation, list[bytes]]]:
    """Somebody between the two, with a key of its own: the code as its victim dials it, and all that it could read."""
    made, seen, ended = authority.request(), [], anyio.Event()

    async def stand_between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward = await Wire.dial(LOOPBACK, door.invitation.port)

        async def carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while piece := await source.read(4096):
                seen.append(piece)
                sink.write(piece)
            sink.close()

        await asyncio.gather(carry(reader, onward._writer), carry(onward._reader, writer), return_exceptions=True)
        await onward.close()
        ended.set()

    server = await asyncio.start_server(
        stand_between, LOOPBACK, 0, ssl=server_of_key(authority.shown(made), made.key), ssl_shutdown_timeout=1.0
    )
    async with server:
        yield replace(door.invitation, port=server.sockets[0].getsockname()[1]), seen
        await ended.wait()


@pytest.mark.parametrize("by_owner", [True, False])
async def test_a_relay_is_found_out_and_both_sides_say_why(owner: Phone, car: Car, tmp_path: Path, by_owner) -> None:
    shows, dials = (owner, car) if by_owner else (car, owner)
    async with waiting(shows) as door:
        async with relay(door) as (invitation, seen):
            with pytest.raises(Refused, match="another device answers"):
                await dial(dials.side, invitation)
            await door.heard_of("another device answers")
        told = b"".join(seen)
        assert b"refused" in told
        assert not any(
            secret in told for secret in (invitation.token, b"nonce", b"proof", b"csr", dials.side.id.encode())
        )
        assert not owner.asked
        if by_owner:
            await still_lets_in(door, tmp_path)


async def test_a_code_is_of_no_use_when_its_time_is_over(owner: Phone, car: Car, monkeypatch) -> None:
    loop = asyncio.get_running_loop()
    real = loop.time
    async with waiting(owner) as door:
        await asyncio.sleep(0)
        monkeypatch.setattr(loop, "time", lambda: real() + INVITATION_SECONDS - 5)
        wire = await Wire.dial(LOOPBACK, door.invitation.port)
        await wire.send(v=1, id=car.side.id, nonce=bytes(32))
        await wire.read(id=str)
        monkeypatch.setattr(loop, "time", lambda: real() + INVITATION_SECONDS)
        loop.call_soon(lambda: None)
        with pytest.raises(TimedOut, match="the code is too old"):
            await wire.read(None, proof=bytes)
        await wire.close()
        with pytest.raises(TimedOut, match="the code is too old"):
            await door.task
        with pytest.raises(LinkLost, match="nobody waits") as refused:
            await dial(car.side, door.invitation)
        assert "older than ten minutes" in refused.value.why


async def test_a_code_works_once(owner: Phone, car: Car, tmp_path: Path) -> None:
    asked, go_on = anyio.Event(), anyio.Event()

    async def slowly(newcomer: Newcomer) -> Welcome:
        asked.set()
        await go_on.wait()
        return await owner.admit(newcomer)

    owner.answer = slowly
    async with waiting(owner) as door:
        early = await Wire.dial(LOOPBACK, door.invitation.port)  # it is there before the code is used
        await early.send(v=1, id=car.side.id, nonce=bytes(32))
        await early.read(nonce=bytes)
        joining = asyncio.create_task(dial(car.side, door.invitation))
        await asked.wait()
        with pytest.raises(Refused, match="the code was used"):
            await early.read(None, proof=bytes)
        await early.close()
        with pytest.raises(LinkLost, match="nobody waits"):
            await dial(Car(tmp_path / "second").side, door.invitation)
        go_on.set()
        await joining
        await door.task
    assert owner.members == ["car", "phone"]


async def test_a_wrong_token_is_refused_and_the_right_one_is_still_good(owner: Phone, car: Car, tmp_path: Path) -> None:
    async with waiting(owner) as door:
        with pytest.raises(Denied, match="the token is wrong"):
            await dial(car.side, replace(door.invitation, token=bytes(16)))
        await door.heard_of("the token is wrong")
        await still_lets_in(door, tmp_path)


async def test_ten_thousand_guesses_get_three_tries(owner: Phone, car: Car) -> None:
    async with waiting(owner) as door:
        why: dict[str, int] = {}
        for guess in range(10_000):
            try:
                await dial(car.side, replace(door.invitation, token=guess.to_bytes(16, "big")))
            except SlipError as error:
                why[error.what.partition(" at ")[0]] = why.get(error.what.partition(" at ")[0], 0) + 1
        assert why == {
            "the token is wrong": WRONG_LIMIT - 1, "the code does not count any more": 1,
            "nobody waits": 10_000 - WRONG_LIMIT,
        }  # fmt: skip
        with pytest.raises(Denied, match="does not count any more"):
            await door.task
        with pytest.raises(LinkLost):
            await dial(car.side, door.invitation)
    assert not owner.asked


async def test_guesses_at_the_same_time_get_no_more(owner: Phone, car: Car) -> None:
    async with waiting(owner) as door:
        guesses = [dial(car.side, replace(door.invitation, token=bytes((n,) * 16))) for n in range(50)]
        ended = await asyncio.gather(*guesses, return_exceptions=True)
        assert all(isinstance(e, SlipError) for e in ended)
        with pytest.raises(Denied, match="does not count any more"):
            await door.task
    assert not owner.asked


async def test_a_recorded_proof_is_worth_nothing_in_another_conversation(
    owner: Phone, car: Car, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    real = Wire._write

    def record(wire: Wire, message: dict[str, Any]) -> None:
        if wire.key:
            said.append(message)
        real(wire, message)

    async with waiting(owner) as door:
        with monkeypatch.context() as patch:
            patch.setattr(Wire, "_write", record)
            await dial(car.side, door.invitation)
        await door.task
    greeting, proof = said[:2]
    assert set(proof) == {"proof"}
    async with waiting(owner, door.invitation.token) as again:
        wire = await Wire.dial(LOOPBACK, again.invitation.port)
        await wire.send(**greeting)
        await wire.read(nonce=bytes)
        await wire.send(**proof)
        with pytest.raises(Denied, match="the token is wrong"):
            await wire.read(proof=bytes)
        await wire.close()
        await still_lets_in(again, tmp_path)


async def test_a_listener_gives_no_proof_that_could_be_reflected_to_it(owner: Phone, tmp_path: Path) -> None:
    async with waiting(owner) as door:
        wire = await Wire.dial(LOOPBACK, door.invitation.port)
        await wire.send(v=1, id=owner.identity.id, nonce=bytes(32))
        said = await wire.read(id=str, nonce=bytes)
        assert set(said) == {"v", "id", "nonce"}
        await wire.send(proof=said["nonce"])
        with pytest.raises(Denied):
            await wire.read(proof=bytes)
        await wire.close()
        await still_lets_in(door, tmp_path)


async def test_an_impostor_that_has_the_key_but_not_the_token_lets_nobody_in(owner: Phone, car: Car) -> None:
    async def pretend(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        wire = Wire(reader, writer, "")
        await wire.read(v=int, id=str, nonce=bytes)
        await wire.send(v=1, id=owner.identity.id, nonce=bytes(32))
        await wire.read(proof=bytes)
        await wire.send(proof=bytes(32))
        with pytest.raises(Denied):
            await wire.read(csr=bytes)
        await wire.close()

    server = await asyncio.start_server(pretend, LOOPBACK, 0, ssl=owner.context, ssl_shutdown_timeout=1.0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(Denied, match="does not know the token"):
            await dial(car.side, Invitation.new(owner.identity.id, [LOOPBACK], port, by_owner=True))


async def test_a_request_for_another_key_than_the_one_that_proved_the_token_is_refused(owner: Phone, car: Car) -> None:
    class Liar(NewcomerSide):
        id = "b" * 32

    async with waiting(owner) as door:
        for side in (dial(Liar(car.asked, "car", "car", lambda w: None), door.invitation), door.task):
            with pytest.raises(Refused, match="the request is for another key"):
                await side
    assert not owner.asked


async def test_tls_1_2_is_refused_by_both_sides(owner: Phone, car: Car, tmp_path: Path) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    async with waiting(owner) as door:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection(LOOPBACK, door.invitation.port, ssl=old)
        await door.heard_of("TLS 1.3")
        await still_lets_in(door, tmp_path)

    def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        raise AssertionError("a handshake came about")

    owner.context.minimum_version, owner.context.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    async with await asyncio.start_server(nothing, LOOPBACK, 0, ssl=owner.context) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(LinkLost, match="no pairing with"):
            await dial(car.side, Invitation.new(owner.identity.id, [LOOPBACK], port, by_owner=True))


async def test_two_hundred_silent_connections_do_not_keep_the_joiner_out(owner: Phone, car: Car) -> None:
    async with waiting(owner) as door:
        with ExitStack() as stack:
            silent = [socket.create_connection((LOOPBACK, door.invitation.port)) for _ in range(100)]
            for one in silent:
                stack.enter_context(one)
            shaken = [await Wire.dial(LOOPBACK, door.invitation.port) for _ in range(50)]
            silent = [socket.create_connection((LOOPBACK, door.invitation.port)) for _ in range(50)]
            for one in silent:
                stack.enter_context(one)
            await dial(car.side, door.invitation)
            assert (await door.task).id == car.identity.id
            for wire in shaken:
                wire.abort()
    assert len(door.heard) <= 8


async def test_a_crowd_from_one_address_pushes_nobody_out_that_came_from_another(
    owner: Phone, car: Car, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Wire.read
    with ExitStack() as crowd:

        async def read(wire: Wire, *args: Any, **fields: type) -> dict[str, Any]:
            if wire.key and fields.keys() & {"nonce", "proof"}:  # as the joiner waits, fifty others come
                for _ in range(50):
                    other = socket.create_connection((LOOPBACK, door.invitation.port), source_address=("127.0.0.2", 0))
                    crowd.enter_context(other)
            return await real(wire, *args, **fields)

        async with waiting(owner) as door:
            monkeypatch.setattr(pairing, "TRIES", 1)
            monkeypatch.setattr(Wire, "read", read)
            await dial(car.side, door.invitation)
            assert (await door.task).id == car.identity.id


def sized(size: int) -> bytes:
    return size.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        (sized(16 * 1024 + 1), "too long"), (sized(2**32 - 1), "too long"), (sized(LARGER_LIMIT), "too long"),
        (b"GET / HTTP/1.1\r\n\r\n", "too long"), (sized(3) + b"\xc1\xc1\xc1", "cannot be read"), (sized(0), "cannot"),
        (sized(1) + b"\x90", "a map is needed"), (sized(2) + b"\x80\x80", "cannot be read"),
        (sized(16384) + b"\x91" * 16384, "cannot be read"), (sized(5) + b"\xdf\xff\xff\xff\xff", "cannot be read"),
        (sized(1) + b"\x80", "another message"), (sized(5) + b"\x81\xa1v\xa11", "another message"),
    ],
)  # fmt: skip
async def test_what_is_no_message_is_refused_with_the_reason(
    owner: Phone, tmp_path: Path, sent: bytes, words: str
) -> None:
    async with waiting(owner) as door:
        wire = await Wire.dial(LOOPBACK, door.invitation.port)
        wire._writer.write(sent)
        with pytest.raises(ProtocolError, match=words) as refused:
            await wire.read(nonce=bytes)
        await wire.close()
        await door.heard_of(str(refused.value)[:40])
        await still_lets_in(door, tmp_path)


@pytest.mark.parametrize(
    "greeting",
    [
        {"v": 2, "id": "a" * 32, "nonce": bytes(32)}, {"v": 1, "id": "", "nonce": bytes(32)},
        {"v": 1, "id": "../" * 10 + "aa", "nonce": bytes(32)}, {"v": 1, "id": "a" * 32, "nonce": b""},
        {"v": True, "id": "a" * 32, "nonce": bytes(32)}, {"proof": bytes(32)}, {"csr": b""}, {"refused": 7},
    ],
)  # fmt: skip
async def test_whoever_does_not_greet_is_refused(owner: Phone, tmp_path: Path, greeting: dict[str, Any]) -> None:
    async with waiting(owner) as door:
        wire = await Wire.dial(LOOPBACK, door.invitation.port)
        await wire.send(**greeting)
        with pytest.raises(SlipError):
            await wire.read(nonce=bytes)
        await wire.close()
        await still_lets_in(door, tmp_path)


async def test_bytes_that_are_no_tls_are_refused(owner: Phone, tmp_path: Path) -> None:
    async with waiting(owner) as door:
        _, writer = await asyncio.open_connection(LOOPBACK, door.invitation.port)
        writer.write(b"\x1b]0;evil\x07\n" * 100)
        await door.heard_of("refused")
        writer.close()
        await still_lets_in(door, tmp_path)


async def test_who_says_nothing_is_given_up_after_its_time(
    owner: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairing_wire, "HANDSHAKE_SECONDS", 0.01)
    async with waiting(owner) as door:
        with socket.create_connection((LOOPBACK, door.invitation.port)):
            await door.heard_of("handshake")
            monkeypatch.undo()
            await still_lets_in(door, tmp_path)


async def test_names_that_steer_a_terminal_are_cleaned(owner: Phone, car: Car) -> None:
    evil = replace(car.side, name="\x1b]0;evil\x07\u202ecar")
    async with waiting(owner) as door:
        await dial(evil, door.invitation)
        assert (await door.task).name == "]0;evilcar"


async def test_an_address_that_does_not_answer_does_not_matter(owner: Phone, car: Car) -> None:
    async with waiting(owner) as door:
        await dial(car.side, replace(door.invitation, hosts=("127.0.0.2", LOOPBACK)))
        await door.task
