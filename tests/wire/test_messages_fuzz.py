"""Whatever arrives: every decoder answers with the one error that it promises, and a connection fed with garbage ends in good order."""

import asyncio
import base64
import contextlib
import json
import os
import socket
import struct
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.descriptors import descriptors
from tests.wire.pairs import bounded, raw_and_peer, settled, until
from unios.core.addresses import split_address
from unios.errors import CallerError, ProtocolError
from unios.kernel import certificates, poller, tokens, trees_protocol
from unios.kernel.certificates import Identity, parse_uri
from unios.limits import FRAME_BYTES_MAX, TREE_FRAME_BYTES_MAX
from unios.store.model import Put, Transaction
from unios.wire import messages
from unios.wire.frames import FrameReader, frame
from unios.wire.messages import Cancel, Credit, Fault, Hello, Item, Message, Reply, Request, agree, decode, encode, pack
from unios.wire.peer import Peer

FEW = settings(max_examples=40, deadline=None)
DEEP = b"\x91" * 200_000
"""An array in an array in an array ..."""

numbers = st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
bodies = values.map(pack)
valid: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello, numbers, numbers, st.text(max_size=10), st.dictionaries(st.text(max_size=8), st.text(max_size=8), max_size=3)),
    st.builds(Request, numbers, st.text(max_size=10), bodies, st.text(max_size=5), st.text(max_size=5), numbers),
    st.builds(Reply, numbers, bodies, st.booleans(), numbers),
    st.builds(Fault, numbers, st.text(max_size=10), st.text(max_size=10)),
    st.builds(Item, numbers, bodies, st.booleans()),
    st.builds(Cancel, numbers),
    st.builds(Credit, numbers, numbers, st.booleans()),
)


def same(left: Message, right: Message) -> bool:
    return encode(left) == encode(right)


# frames


@given(st.lists(st.binary(max_size=300), max_size=8), st.lists(st.integers(0, 400), max_size=12))
def test_frames_come_out_as_they_went_in_however_they_are_cut(payloads: list[bytes], cuts: list[int]) -> None:
    data, reader, found = b"".join(map(frame, payloads)), FrameReader(), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(data)], strict=True):
        found += reader.feed(data[start:end])
    assert found == payloads and reader.pending == 0


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_bytes_that_are_no_frames_give_a_protocol_error_or_wait_for_more(pieces: list[bytes]) -> None:
    reader = FrameReader()
    with contextlib.suppress(ProtocolError):
        for piece in pieces:
            reader.feed(piece)
    assert reader.pending <= FRAME_BYTES_MAX + 4


def test_a_frame_at_the_bound_passes_and_one_byte_more_is_refused_before_it_is_kept() -> None:
    reader = FrameReader()
    assert [len(payload) for payload in reader.feed(frame(bytes(FRAME_BYTES_MAX)))] == [FRAME_BYTES_MAX]
    with pytest.raises(ProtocolError):
        reader.feed(struct.pack(">I", FRAME_BYTES_MAX + 1))
    with pytest.raises(ProtocolError):
        frame(bytes(FRAME_BYTES_MAX + 1))


# messages


@given(valid)
def test_a_message_comes_out_as_it_went_in(message: Message) -> None:
    assert same(decode(encode(message)), message)


@given(st.binary(max_size=200) | values.map(msgspec.msgpack.encode))
def test_garbage_is_a_protocol_error(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data)


@given(valid, st.integers(0, 400), st.integers(1, 255), st.integers(0, 3))
def test_a_damaged_message_is_a_message_or_a_protocol_error(message: Message, at: int, change: int, cut: int) -> None:
    data = bytearray(encode(message))
    data[at % len(data)] ^= change
    with contextlib.suppress(ProtocolError):
        decode(bytes(data[: len(data) - cut]))


@given(valid, st.dictionaries(st.text(max_size=12).map(lambda name: f"x-{name}"), values, max_size=4))
def test_fields_of_a_newer_peer_are_ignored(message: Message, more: dict[str, Any]) -> None:
    fields: dict[str, msgspec.Raw] = msgspec.msgpack.decode(encode(message), type=dict[str, msgspec.Raw])
    assert "type" in fields
    assert same(decode(msgspec.msgpack.encode({**fields, **{name: pack(value) for name, value in more.items()}})), message)
    assert same(decode(msgspec.msgpack.encode({**{name: pack(value) for name, value in more.items()}, **fields})), message)


def test_a_body_may_have_fields_of_a_newer_peer_too() -> None:
    newer = {"compares": [], "then": [{"type": "put", "key": "/a", "value": b"1", "lease": 0, "colour": "red"}], "otherwise": [], "hint": [1, {}]}
    found = msgspec.msgpack.decode(msgspec.msgpack.encode(newer), type=Transaction)
    assert found == Transaction(then=(Put("/a", b"1"),))


NESTED = [
    DEEP,
    b"\x81\xa5extra" + DEEP,
    b"\x84\xa4type\xa7request\xa2id\x01\xa2op\xa1x\xa4body" + DEEP,
    b"\x84\xa4type\xa7request\xa2id\x01\xa2op\xa1x\xa5extra" + DEEP + b"\xc0",
]


@pytest.mark.parametrize("data", NESTED, ids=["array", "no type", "body", "unknown field"])
def test_nesting_without_end_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_nesting_without_end_is_none_of_the_decoders_own_errors() -> None:
    """Why `decode` has to catch it by name."""
    with pytest.raises(RecursionError):
        messages._decoder.decode(NESTED[3])


# versions


@given(numbers, numbers)
def test_greetings_agree_on_a_version_of_both_or_say_what_to_do(low: int, high: int) -> None:
    if low <= messages.PROTOCOL_MAX and high >= messages.PROTOCOL_MIN and low <= high:
        assert max(low, messages.PROTOCOL_MIN) <= agree(Hello(low, high)) <= min(high, messages.PROTOCOL_MAX)
    else:
        with pytest.raises(ProtocolError, match=f"protocol {low} to {high}.*upgrade"):
            agree(Hello(low, high))


@pytest.mark.parametrize("versions", [(2, 9), (0, 0)])
def test_a_peer_of_another_version_is_refused_with_a_sentence(versions: tuple[int, int]) -> None:
    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            await raw.send(Hello(*versions))
            with pytest.raises(ProtocolError, match="upgrade the older"):
                await peer.start()
            assert "upgrade" in await peer.closed()

    bounded(work)


def test_a_newer_peer_that_still_speaks_our_version_is_welcome() -> None:
    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            await raw.send(Hello(0, 99))
            assert (await peer.start()).protocol_max == 99 and peer.protocol == messages.PROTOCOL_MAX

    bounded(work)


# a whole connection


async def answers(call: Any) -> object:
    await call.send(call.op)
    return await call.receive(object)


def feed(data: bytes, *, greet: bool) -> None:
    """Feed a peer that has calls and streams under way; it must end in good order and leave nothing."""

    async def work() -> None:
        before = descriptors()
        async with raw_and_peer(answers) as (raw, peer):
            if greet:
                await raw.send(greet=True)
                await peer.start()
                asked = [asyncio.create_task(peer.call("f")) for _ in range(2)]
                stream = peer.stream("g")
            else:
                asked, stream = [asyncio.create_task(peer.start())], None  # type: ignore[list-item]
            await settled()
            with contextlib.suppress(ConnectionError):
                await raw.send_bytes(data)
                raw.sock.shutdown(socket.SHUT_WR)
            await peer.closed()
            assert all(isinstance(result, BaseException) or greet for result in await asyncio.gather(*asked, return_exceptions=True))
            await until(lambda: not peer._calls)
            assert not peer._waiting
            if stream is not None:
                stream.close()
        assert descriptors() <= before

    bounded(work)


@FEW
@given(st.binary(max_size=400), st.booleans())
def test_a_connection_fed_with_garbage_ends_in_good_order(data: bytes, greet: bool) -> None:
    feed(data, greet=greet)


@FEW
@given(st.lists(st.binary(max_size=60) | values.map(msgspec.msgpack.encode), max_size=5), st.booleans())
def test_a_connection_fed_with_frames_of_garbage_ends_in_good_order(payloads: list[bytes], greet: bool) -> None:
    feed(b"".join(map(frame, payloads)), greet=greet)


near = st.integers(0, 4)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        valid
        | st.one_of(
            st.builds(Request, near, st.sampled_from("fg"), bodies, descriptors=st.integers(0, 1)),
            st.builds(Reply, near, bodies, st.booleans(), st.integers(0, 1)),
            st.builds(Fault, near, st.sampled_from(("denied", "no such code"))),
            st.builds(Item, near, bodies, st.booleans()),
            st.builds(Cancel, near),
            st.builds(Credit, near, near, st.booleans()),
        ),
        max_size=12,
    )
)
def test_a_connection_fed_with_messages_out_of_order_ends_in_good_order(found: list[Message]) -> None:
    feed(b"".join(frame(encode(message)) for message in found), greet=True)


def test_the_check_for_good_order_notices_an_exception_that_nobody_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Peer, "_on_message", lambda _self, _message, _size: 1 / 0)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        bounded(_greet_one)


async def _greet_one() -> None:
    async with raw_and_peer() as (raw, peer):
        starting = asyncio.create_task(peer.start())
        await raw.send(greet=True)
        await settled()
        starting.cancel()


# what the other processes and people send


def test_the_tree_protocol_carries_fields_and_data_however_they_are_cut() -> None:
    sent = [{"a": os.fsdecode(b"\xff\xfe"), "b": [1, None, "ü"]}, {}]
    data = b"".join(map(trees_protocol.encode, sent)) + trees_protocol.encode_data(b"\0\xffraw")
    decoder, found = trees_protocol.Decoder(), []
    for byte in data:
        found += decoder.feed(bytes([byte]))
    assert found == [(sent[0], b""), (sent[1], b""), (None, b"\0\xffraw")]


tree_bodies = st.one_of(
    st.binary(max_size=60),
    st.binary(max_size=60).map(lambda data: b"J" + data),
    st.text(max_size=40).map(lambda text: b"J" + text.encode("utf-16")),
    st.recursive(st.none() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5).map(
        lambda value: b"J" + json.dumps(value).encode()
    ),
)


@given(st.lists(tree_bodies.map(lambda body: struct.pack(">I", len(body)) + body) | st.binary(max_size=60), max_size=6))
def test_the_tree_protocol_raises_nothing_but_garbage(pieces: list[bytes]) -> None:
    decoder = trees_protocol.Decoder()
    with contextlib.suppress(trees_protocol.Garbage):
        for piece in pieces:
            decoder.feed(piece)


@pytest.mark.parametrize(
    "body",
    [b"", b"X", b"J", b"J[1]", b"J" + b"[" * 300_000, b"J" + b"9" * 10_000, b'J{"a":' * 50_000, b"J\xff\xfe", b'J{"a": "\\ud800', b"Jnull"],
    ids=range(10),
)
def test_the_tree_protocol_calls_it_garbage(body: bytes) -> None:
    with pytest.raises(trees_protocol.Garbage):
        trees_protocol.Decoder().feed(struct.pack(">I", len(body)) + body)


def test_a_tree_frame_over_the_bound_is_garbage_before_it_is_kept() -> None:
    for length in (TREE_FRAME_BYTES_MAX + 1, 2**32 - 1, 0):
        with pytest.raises(trees_protocol.Garbage):
            trees_protocol.Decoder().feed(struct.pack(">I", length))
        with pytest.raises(trees_protocol.Garbage):
            trees_protocol.head_length(struct.pack(">I", length))


@FEW
@given(st.binary(max_size=300))
def test_a_client_of_guard_or_init_that_sends_garbage_is_closed_and_nothing_else_happens(data: bytes) -> None:
    loop = poller.Poller()
    left, right = socket.socketpair()
    closed: list[poller.Client] = []
    client = poller.Client(loop, right, lambda _client, _frame: None, closed.append)
    left.sendall(data)
    left.close()
    while client.open:
        loop.turn()
    assert closed == [client]


TOKEN = tokens.TokenText(("10.0.0.1:7000", "[::1]:7001"), "ab" * 32, "cd" * 20)


def test_a_token_comes_out_as_it_went_in_also_with_space_around() -> None:
    assert tokens.decode(f"  {tokens.encode(TOKEN)}\n") == TOKEN


@given(
    st.text(max_size=80)
    | st.text(max_size=80).map(lambda text: tokens.PREFIX + text)
    | st.binary(max_size=80).map(lambda data: tokens.PREFIX + base64.urlsafe_b64encode(data).decode())
    | values.map(lambda value: tokens.PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).decode())
)
def test_what_is_no_token_is_the_callers_mistake(text: str) -> None:
    with contextlib.suppress(CallerError):
        tokens.decode(text)


@given(st.integers(0, 200), st.characters())
def test_a_token_with_a_typing_mistake_is_another_token_or_the_callers_mistake(at: int, character: str) -> None:
    text = tokens.encode(TOKEN)
    at %= len(text)
    for wrong in (text[:at] + character + text[at + 1 :], text[:at], text[:at] + text[at + 1 :]):
        with contextlib.suppress(CallerError):
            tokens.decode(wrong)


def test_a_token_of_nesting_without_end_is_the_callers_mistake() -> None:
    for data in (DEEP, b"\x81\xa5extra" + DEEP):
        with pytest.raises(CallerError):
            tokens.decode(tokens.PREFIX + base64.urlsafe_b64encode(data).decode())


names = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
plain = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)


@given(plain, names.filter(lambda name: not name.startswith("/")), names, st.lists(names, min_size=1, max_size=3))
def test_an_identity_comes_out_of_its_uri_whatever_its_users_are_called(system: str, node: str, machine: str, users: list[str]) -> None:
    identity = Identity(system, node, machine, tuple(users))
    assert parse_uri(identity.uri()) == identity


@given(
    st.text(max_size=80)
    | st.tuples(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20)).map(lambda t: f"unios://{t[0]}/{t[1]}?machine={t[2]}&users=x")
)
def test_a_uri_that_is_no_identity_is_a_protocol_error(uri: str) -> None:
    with contextlib.suppress(ProtocolError):
        found = parse_uri(uri)
        assert found.system and found.node and found.machine


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "unios:",
        "unios://s/n",
        "unios://s/n?machine=&users=a",
        "unios:///n?machine=m&users=a",
        "http://s/n?machine=m&users=a",
        "unios://[/n?machine=m",
    ],
)
def test_a_uri_without_all_of_an_identity_is_a_protocol_error(uri: str) -> None:
    with pytest.raises(ProtocolError):
        parse_uri(uri)


@given(st.dictionaries(st.sampled_from(("subjectAltName", "subject")), st.lists(st.tuples(st.sampled_from(("URI", "DNS")), st.text()), max_size=3)))
def test_a_certificate_without_an_identity_is_a_protocol_error_and_none_is_nobody(certificate: dict[str, Any]) -> None:
    with contextlib.suppress(ProtocolError):
        assert (certificates.identity_of(certificate) is None) == (not certificate)


@given(st.text(max_size=60) | st.tuples(st.text(max_size=20), st.text(max_size=8)).map(":".join) | st.text("[]:0123456789abcdef. -+_", max_size=30))
def test_an_address_is_one_or_the_callers_mistake(text: str) -> None:
    with contextlib.suppress(CallerError):
        host, port = split_address(text, 7000)
        assert isinstance(host, str) and 0 <= port <= 65_535


@pytest.mark.parametrize(
    ("text", "found"),
    [("h", ("h", 9)), ("h:1", ("h", 1)), ("10.0.0.1:65535", ("10.0.0.1", 65_535)), ("[::1]:5", ("::1", 5)), ("::1", ("::1", 9)), ("h:", ("h", 9))],
)
def test_an_address_may_be_written_in_all_these_ways(text: str, found: tuple[str, int]) -> None:
    assert split_address(text, 9) == found


@pytest.mark.parametrize("text", ["", ":", ":80", "h:x", "h:65536", "h:-1"])
def test_what_is_no_address_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(CallerError):
        split_address(text)


@pytest.mark.parametrize("text", ["[", "[]:80", "h: 80", "h:1_0", "h:+5"])
def test_what_only_looks_like_an_address_is_the_callers_mistake(text: str) -> None:
    with pytest.raises(CallerError):
        split_address(text)
