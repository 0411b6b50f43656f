"""What came together and is taken in together: nothing of it is begun that nobody would end, nothing is taken for whole that is not, nobody waits for what
is lost."""

import asyncio
import os
import socket
from collections.abc import Callable

import msgspec
import pytest

from tests.wire.pairs import Raw, bounded, echo, for_ever, peers, raw_and_peer, settled, until
from unios.errors import CallerError, InternalError, OutcomeUnknown, ProtocolError, UniosError
from unios.limits import FRAME_BYTES_MAX, SEND_QUEUE_BYTES_MAX
from unios.wire.allowances import Allowance
from unios.wire.messages import Fault, Hello, Item, Reply, Request, pack
from unios.wire.peer import Call, Peer
from unios.wire.transport import SocketTransport


def test_what_came_with_the_message_that_ended_the_connection_is_not_begun() -> None:
    """Nobody would end it: the requests of a connection are cancelled when it ends, and it has."""

    async def work() -> None:
        begun: list[str] = []

        async def notes(call: Call) -> object:
            begun.append(call.op)
            return await for_ever(call)

        def at_once(call: Call) -> bool:
            if call.op == "end it":
                call.peer.close("that was all")
            return call.op == "end it"

        async with raw_and_peer(notes) as (raw, peer):
            peer._at_once = at_once
            starting = asyncio.create_task(peer.start())
            await raw.send(greet=True)
            await starting
            await raw.send(Request(1, "end it"), Request(2, "x"), Request(3, "y"))
            await peer.closed()
            await settled()
            assert not begun and not peer._calls

    bounded(work)


def test_who_reads_what_is_cut_off_for_its_size_never_takes_it_for_whole() -> None:
    """He may be slow to hear of it, in a task of his own, when the end of the items has come too."""

    async def work() -> None:
        read: list[object] = []
        readers: list[asyncio.Task[None]] = []

        async def relays(call: Call) -> object:
            async def reads() -> None:
                try:
                    while (item := await call.receive(msgspec.Raw)) is not None:
                        read.append(len(bytes(item)))
                    read.append("the end")
                except UniosError as error:
                    read.append(type(error))

            readers.append(asyncio.create_task(reads()))
            return await for_ever(call)

        allowance = Allowance(10_000)
        left, right = socket.socketpair()
        peer, raw = Peer(SocketTransport(right), relays, held=lambda _user: allowance), Raw(left)
        try:
            starting = asyncio.create_task(peer.start())
            await raw.send(Request(1, "x"), greet=True)
            await starting
            await until(lambda: bool(readers))
            await settled()
            await raw.send(Item(1, pack(bytes(6_000))), Item(1, pack(bytes(6_000))), Item(1, pack(b"more")), Item(1, end=True))
            await readers[0]
            assert read == [OutcomeUnknown]
            await until(lambda: not peer._calls)
            assert not allowance.taken
            assert isinstance(await raw.receive(), Hello)
            fault = await raw.receive()
            assert isinstance(fault, Fault) and fault.code == OutcomeUnknown.code
        finally:
            peer.close()
            left.close()
            await settled()

    bounded(work)


def test_what_fails_waits_for_one_who_does_not_read_as_what_succeeds_does() -> None:
    """Else faults would pile up for one who is trusted, and a stranger who is only slow would be cut off."""

    async def fails(call: Call) -> object:
        raise CallerError("no")

    async def work() -> None:
        for allowance in (None, Allowance(1_000_000)):
            left, right = socket.socketpair()
            peer, raw = Peer(SocketTransport(right), fails, allowance=allowance), Raw(left)
            try:
                starting = asyncio.create_task(peer.start())
                await raw.send(greet=True)
                await starting
                while not peer.outbox.is_full(0):
                    peer.send(Reply(7, pack(os.urandom(1024 * 1024))), sequence=0)
                queued = peer.outbox.queued()
                await raw.send(*(Request(number, "x") for number in range(1, 101)))
                await until(lambda peer=peer: len(peer._calls) == 100)  # type: ignore[misc]
                await settled()
                assert peer.outbox.queued() == queued > SEND_QUEUE_BYTES_MAX and not peer.is_closed
                faults = 0
                while faults < 100:
                    faults += isinstance(await raw.receive(), Fault)
            finally:
                peer.close()
                left.close()
                await settled()

    bounded(work)


def test_an_answer_that_cannot_be_sent_is_a_fault_also_without_a_task() -> None:
    """Silence would leave its asker waiting for ever, and an exception whoever answers several."""

    async def work() -> None:
        taken: list[Call] = []

        def at_once(call: Call) -> bool:
            if call.op == "large":
                call.answer(bytes(FRAME_BYTES_MAX))
            if call.op == "none":
                call.answer(object())
            if call.op == "defect":
                raise KeyError("x")
            taken.append(call)
            return True

        async with peers(at_once=at_once) as (asker, answerer):
            with pytest.raises(ProtocolError, match="limit"):
                await asker.call("large")
            for op in ("none", "defect"):
                with pytest.raises(InternalError):
                    await asker.call(op)
            later = asyncio.create_task(asker.call("later"))
            await until(lambda: taken[-1].op == "later")
            taken[-1].answer(bytes(FRAME_BYTES_MAX))
            with pytest.raises(ProtocolError, match="limit"):
                await later
            assert not answerer._calls and not answerer.is_closed

    bounded(work)


def loudly() -> list[BaseException]:
    """Return where the loop notes what nobody has caught."""
    failures: list[BaseException] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context["exception"]))
    return failures


def test_a_defect_while_something_is_taken_in_ends_the_connection_and_is_seen() -> None:
    """What came with it is lost: who waits for that would wait for ever."""

    async def work() -> None:
        async with raw_and_peer() as (raw, peer):
            failures = loudly()
            starting = asyncio.create_task(peer.start())
            await raw.send(greet=True)
            await starting
            done: list[str] = []

            def told(_answer: object) -> None:
                peer.afterwards(lambda: done.append("with it"))
                raise KeyError("a defect")

            peer.ask("f", None, object, told, timeout_ms=60_000)
            asked = asyncio.create_task(peer.call("g"))
            await settled()
            await raw.send(Reply(1, pack(None)), Reply(2, pack("lost")))
            with pytest.raises(OutcomeUnknown, match="could not be taken in"):
                await asked
            assert [type(error) for error in failures] == [KeyError] and done == ["with it"]
            peer.afterwards(lambda: done.append("later"))
            await settled()
            assert done == ["with it", "later"]

    bounded(work)


def test_of_what_is_done_when_all_has_been_taken_in_one_that_fails_keeps_no_other_from_it() -> None:
    async def work() -> None:
        async with raw_and_peer(echo) as (raw, peer):
            failures = loudly()
            starting = asyncio.create_task(peer.start())
            await raw.send(greet=True)
            await starting
            done: list[str] = []

            def note(what: str) -> Callable[[], None]:
                def noted() -> None:
                    done.append(what)
                    if what == "b":
                        raise KeyError(what)

                return noted

            def at_once(_call: Call) -> bool:
                for what in "abcd":
                    peer.afterwards(note(what))
                return False

            peer._at_once = at_once
            await raw.send(Request(1, "echo", pack(1)))
            await until(lambda: len(done) == 4)
            assert done == list("abcd") and [type(error) for error in failures] == [KeyError] and not peer.is_closed

    bounded(work)
