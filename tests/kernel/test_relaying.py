"""Relays between kernels: bytes of a local socket go through a request to another kernel's local socket, bounded both ways, and nothing is left behind."""

import asyncio
import contextlib
import gc
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

import pytest

from tests.descriptors import descriptors
from tests.wire.pairs import bounded, peers, raw_and_peer, settled, until
from unios.kernel import relaying
from unios.limits import SEND_AHEAD_BYTES, STREAM_WINDOW_BYTES, WIDE_CHUNK_BYTES
from unios.wire.messages import Item, Request, pack
from unios.wire.peer import Call, Peer

BOUND = STREAM_WINDOW_BYTES + WIDE_CHUNK_BYTES + SEND_AHEAD_BYTES + 4 * 1024 * 1024
"""What may be under way at most: the window, a piece over it, what is ahead, and what Linux holds of the two sockets."""


@dataclass
class Relayed:
    """Two programs, their kernels between them."""

    program: socket.socket
    server: socket.socket
    asker: Peer
    answerer: Peer
    asked: asyncio.Task[None]

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self.program, data)

    async def receive(self, sock: socket.socket, count: int) -> bytes:
        got = b""
        while len(got) < count:
            more = await asyncio.get_running_loop().sock_recv(sock, count - len(got))
            if not more:
                break
            got += more
        return got


@contextlib.asynccontextmanager
async def relayed() -> AsyncIterator[Relayed]:
    far, server = socket.socketpair()

    async def relay(call: Call) -> object:
        await relaying.relay_asked(far, call)
        return None

    async with peers(relay) as (asker, answerer):
        program, near = socket.socketpair()
        program.setblocking(False)
        server.setblocking(False)
        asked = asyncio.create_task(relaying.relay_stream(near, asker.stream("ports.relay")))
        try:
            yield Relayed(program, server, asker, answerer, asked)
        finally:
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)
            for sock in (program, server, far, near):
                sock.close()


def relaying_test(work: Callable[[Relayed], Awaitable[None]]) -> None:
    """Run it, and fail if a descriptor is left behind."""

    async def main() -> None:
        gc.collect()  # what tests before this one left is theirs
        before = descriptors()
        async with relayed() as relay:
            await work(relay)
        await settled()
        gc.collect()
        assert descriptors() <= before

    bounded(main)


async def fill(sock: socket.socket, limit: int) -> int:
    """Send until nothing more is taken for a while, and return how much was."""
    sent, quiet = 0, 0
    piece = bytes(64 * 1024)
    while sent < limit and quiet < 50:
        try:
            sent += sock.send(piece)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            await asyncio.sleep(0.001)
    return sent


async def drain(sock: socket.socket, count: int) -> int:
    got = 0
    while got < count:
        got += len(await asyncio.get_running_loop().sock_recv(sock, 1 << 20))
    return got


def test_bytes_arrive_as_they_were_both_ways_whatever_their_sizes() -> None:
    async def work(relay: Relayed) -> None:
        for size in (1, 200, 255, 256, 65_535, 65_536, 1_000_000):
            data = os.urandom(size)
            sending = asyncio.create_task(relay.send(data))
            assert await relay.receive(relay.server, size) == data
            await sending
            back = asyncio.create_task(asyncio.get_running_loop().sock_sendall(relay.server, data))
            assert await relay.receive(relay.program, size) == data
            await back

    relaying_test(work)


def test_a_small_message_costs_no_task_and_no_wait_for_a_round_of_the_loop() -> None:
    async def work(relay: Relayed) -> None:
        await relay.send(b"once")
        await relay.receive(relay.server, 4)
        before = len(asyncio.all_tasks())
        relay.program.send(b"ping")
        rounds = 0
        while True:
            with contextlib.suppress(BlockingIOError):
                assert relay.server.recv(10) == b"ping"
                break
            rounds += 1
            await asyncio.sleep(0)
        assert rounds <= 3
        assert len(asyncio.all_tasks()) == before

    relaying_test(work)


def test_a_server_that_does_not_read_stops_the_program_that_sends() -> None:
    async def work(relay: Relayed) -> None:
        sent = await fill(relay.program, 4 * BOUND)
        assert STREAM_WINDOW_BYTES < sent < BOUND
        assert await drain(relay.server, sent) == sent
        assert await fill(relay.program, 64 * 1024) == 64 * 1024

    relaying_test(work)


def test_a_program_that_does_not_read_stops_the_server_that_sends() -> None:
    async def work(relay: Relayed) -> None:
        sent = await fill(relay.server, 4 * BOUND)
        assert STREAM_WINDOW_BYTES < sent < BOUND
        assert await drain(relay.program, sent) == sent
        assert await fill(relay.server, 64 * 1024) == 64 * 1024

    relaying_test(work)


def test_one_relay_that_is_not_read_does_not_hold_up_another_of_the_same_link() -> None:
    async def work(relay: Relayed) -> None:
        await fill(relay.program, 4 * BOUND)
        far, server = socket.socketpair()
        near, program = socket.socketpair()
        program.setblocking(False)
        server.setblocking(False)

        async def second(call: Call) -> object:
            await relaying.relay_asked(far, call)
            return None

        relay.answerer.handler = second
        other = asyncio.create_task(relaying.relay_stream(near, relay.asker.stream("ports.relay")))
        program.send(b"hello")
        assert await relay.receive(server, 5) == b"hello"
        server.close()
        await other
        program.close()
        far.close()

    relaying_test(work)


def test_a_small_message_goes_between_the_pieces_of_a_flood_on_the_same_link() -> None:
    async def work(relay: Relayed) -> None:
        flooding = asyncio.create_task(relay.send(bytes(64 << 20)))
        taken = 0
        while taken < 8 << 20:
            taken += len(await asyncio.get_running_loop().sock_recv(relay.server, 1 << 20))
        far, server = socket.socketpair()
        near, program = socket.socketpair()
        program.setblocking(False)
        server.setblocking(False)

        async def second(call: Call) -> object:
            await relaying.relay_asked(far, call)
            return None

        relay.answerer.handler = second
        other = asyncio.create_task(relaying.relay_stream(near, relay.asker.stream("ports.relay")))
        hearing = asyncio.create_task(relay.receive(server, 5))
        program.send(b"hello")
        before = taken
        while not hearing.done():
            taken += len(await asyncio.get_running_loop().sock_recv(relay.server, 1 << 20))
        assert hearing.result() == b"hello"
        assert taken - before < BOUND
        while taken < 64 << 20:
            taken += len(await asyncio.get_running_loop().sock_recv(relay.server, 1 << 20))
        await flooding
        server.close()
        await other
        program.close()
        far.close()

    relaying_test(work)


def test_a_program_that_has_no_more_to_say_still_hears_the_answer() -> None:
    async def work(relay: Relayed) -> None:
        await relay.send(b"the question")
        relay.program.shutdown(socket.SHUT_WR)
        assert await relay.receive(relay.server, 100) == b"the question"
        relay.server.send(b"the answer")
        assert await relay.receive(relay.program, 10) == b"the answer"
        relay.server.close()
        assert await relay.receive(relay.program, 1) == b""
        await relay.asked

    relaying_test(work)


def test_what_a_server_said_before_it_died_is_heard_and_then_the_end() -> None:
    async def work(relay: Relayed) -> None:
        relay.server.send(b"last words")
        relay.server.close()
        assert await relay.receive(relay.program, 100) == b"last words"
        await relay.asked

    relaying_test(work)


def test_what_a_program_said_before_it_died_is_heard_and_then_the_end() -> None:
    async def work(relay: Relayed) -> None:
        data = os.urandom(300_000)
        await relay.send(data)
        relay.program.close()
        assert await relay.receive(relay.server, 1_000_000) == data
        relay.server.close()
        await relay.asked

    relaying_test(work)


def test_a_program_that_dies_while_it_is_sent_to_ends_the_relay() -> None:
    async def work(relay: Relayed) -> None:
        await fill(relay.server, 4 * BOUND)
        relay.program.close()
        await relay.asked
        await until(lambda: not relay.answerer._calls)

    relaying_test(work)


def test_what_a_program_said_before_it_left_is_heard_though_an_answer_to_it_found_nobody() -> None:
    async def work(relay: Relayed) -> None:
        data = os.urandom(1_000_000)
        await relay.send(data)
        relay.program.close()
        await settled()
        relay.server.send(b"too late")
        for _ in range(100):  # it has come back to where nobody is any more
            await asyncio.sleep(0.001)
        assert await relay.receive(relay.server, len(data) + 1) == data
        relay.server.close()
        await relay.asked

    relaying_test(work)


def test_a_program_that_has_gone_is_not_sent_to_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relaying, "SESSION_KEPT_S", 0.05)

    async def work(relay: Relayed) -> None:
        await relay.send(b"send me all")
        await relay.receive(relay.server, 11)
        await fill(relay.server, 4 * BOUND)
        relay.program.close()
        await relay.asked
        await until(lambda: not relay.answerer._calls)

    relaying_test(work)


def test_a_link_that_breaks_ends_both_sides() -> None:
    async def work(relay: Relayed) -> None:
        await relay.send(b"hello")
        await relay.receive(relay.server, 5)
        relay.asker.close("broken")
        assert await relay.receive(relay.program, 1) == b""
        assert await relay.receive(relay.server, 1) == b""
        await relay.asked

    relaying_test(work)


def test_a_flood_in_both_directions_at_once_comes_through_whole() -> None:
    async def work(relay: Relayed) -> None:
        size = 12 << 20
        loop = asyncio.get_running_loop()
        await asyncio.gather(
            relay.send(bytes(size)), loop.sock_sendall(relay.server, bytes(size)), drain(relay.server, size), drain(relay.program, size)
        )
        stream = next(iter(relay.asker._streams.values()))
        assert stream._window.room > 0

    relaying_test(work)


def test_credit_adds_up_to_what_was_sent_after_many_small_messages() -> None:
    async def work(relay: Relayed) -> None:
        stream = next(iter(relay.asker._streams.values()))
        for _ in range(2_000):
            await relay.send(bytes(300))
            await relay.receive(relay.server, 300)
        call = next(iter(relay.answerer._calls.values()))[0]
        await until(lambda: stream._window.room + call._inbox._owed == STREAM_WINDOW_BYTES)

    relaying_test(work)


def test_an_item_that_is_no_bytes_ends_the_relay_and_not_the_link() -> None:
    async def main() -> None:
        far, server = socket.socketpair()
        ended = asyncio.Event()

        async def relay(call: Call) -> object:
            await relaying.relay_asked(far, call)
            ended.set()
            return None

        async with raw_and_peer(relay) as (raw, peer):
            starting = asyncio.create_task(peer.start())
            await raw.send(Request(1, "ports.relay"), Item(1, pack([1, 2])), greet=True)
            await ended.wait()
            await starting
            assert not peer.is_closed
        server.close()

    bounded(main)
