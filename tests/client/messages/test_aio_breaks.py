"""The asyncio twins while connections break at the worst moments, owners talk nonsense, nobody listens, and handlers raise whatever there is to raise."""

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, NoReturn

import pytest

from tests.client.messages.rig import Rig
from tests.client.messages.test_line import HELLO, packed
from unios.client.messages import aio, aio_port, aio_server
from unios.errors import CallerError, Denied, NotFound, OutcomeUnknown, UniosError
from unios.limits import SESSIONS_PER_USER_MAX
from unios.wire.messages import Cancel, Reply
from unios.wire.values import encode as value_of

Work = Callable[[], Awaitable[None]]


def run(work: Work) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(main())


async def until(condition: Callable[[], Any], what: str) -> None:
    for _ in range(4_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError(f"not within 20 s: {what}")


class Owner:
    """Listens by hand, on the rig's port "p": what it says to each connection is the test's."""

    def __init__(self, rig: Rig, says: Callable[[int, socket.socket], None]) -> None:
        self.connections = 0
        self._says = says
        rig.listening["p"] = self._accepted  # type: ignore[assignment]

    def _accepted(self, _stamp: object, sock: socket.socket, _node: str) -> None:
        self.connections += 1
        threading.Thread(target=self._serve, args=(self.connections, sock), daemon=True).start()

    def _serve(self, number: int, sock: socket.socket) -> None:
        with sock:
            try:
                self._says(number, sock)
            except OSError:
                pass


def end(sock: socket.socket) -> None:
    sock.shutdown(socket.SHUT_RDWR)


def greet_and(then: bytes, sock: socket.socket) -> None:
    sock.recv(65_536)
    sock.sendall(packed(HELLO) + then)


class Slow:
    """A handler that never answers, and notes that it was cancelled."""

    cancelled = False

    async def __call__(self) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise


def test_an_owner_that_ends_right_after_its_greeting_is_connected_to_again(rig: Rig) -> None:
    def says(number: int, sock: socket.socket) -> None:
        greet_and(b"", sock)
        if number > 3:
            sock.recv(65_536)
            sock.sendall(packed(Reply(1, value_of("answered", trusted=True).body)))
            sock.recv(65_536)
        end(sock)

    Owner(rig, says)

    async def work() -> None:
        port = await aio.connect("p", timeout=10)
        # idempotent: the call may be written before the end is seen, and each of these owners has forgotten what came before
        assert await port.options(timeout=10, idempotent=True).f() == "answered"
        port.close()

    run(work)


def test_an_owner_that_ends_while_what_is_under_way_is_sent_again_is_connected_to_again(rig: Rig) -> None:
    def says(number: int, sock: socket.socket) -> None:
        greet_and(b"", sock)
        if number == 1:
            sock.recv(65_536)
        if number == 4:
            data = b""
            while b"\xa2op\xa1f" not in data:  # what stands before it may come with it
                data += sock.recv(65_536)
            sock.sendall(packed(Reply(1, value_of("answered", trusted=True).body)))
            sock.recv(65_536)
        end(sock)

    Owner(rig, says)

    async def work() -> None:
        port = await aio.connect("p", timeout=10)
        assert await port.options(timeout=10, idempotent=True).f() == "answered"
        port.close()

    run(work)


def test_an_owner_that_takes_nothing_when_it_is_asked_again_is_connected_to_again(rig: Rig) -> None:
    over = threading.Event()

    def says(number: int, sock: socket.socket) -> None:
        sock.recv(65_536)
        if number in (2, 3):
            sock.shutdown(socket.SHUT_RD)
            sock.sendall(packed(HELLO))
            over.wait(20)
        else:
            sock.sendall(packed(HELLO))
            sock.recv(65_536)
            if number > 3:
                sock.sendall(packed(Reply(1, value_of("answered", trusted=True).body)))
                over.wait(20)
        end(sock)

    Owner(rig, says)

    async def work() -> None:
        port = await aio.connect("p", timeout=10)
        try:
            assert await port.options(timeout=5, idempotent=True).f() == "answered"
        finally:
            over.set()
            port.close()

    run(work)


@pytest.mark.parametrize("say", [Cancel(1), Reply(1, value_of(1, trusted=True).body, more=True), Reply(1, value_of(1, trusted=True).body, False, 3)])
def test_an_owner_that_talks_nonsense_ends_what_waits_for_it_and_is_not_asked_for_ever(rig: Rig, say: Any) -> None:
    def says(_number: int, sock: socket.socket) -> None:
        greet_and(b"", sock)
        sock.recv(65_536)
        sock.sendall(packed(say))
        sock.recv(65_536)

    owner = Owner(rig, says)

    async def work() -> None:
        port = await aio.connect("p", timeout=10)
        with pytest.raises(OutcomeUnknown, match="no answer to f came"):
            await port.options(idempotent=True).f()
        assert owner.connections == 1
        port.close()

    run(work)


@pytest.mark.parametrize("greeting", [b"\x00\x00\x00\x01x", packed(Cancel(1)), b""])
def test_who_greets_with_nonsense_or_not_at_all_is_given_up_at_the_deadline(rig: Rig, greeting: bytes) -> None:
    def says(_number: int, sock: socket.socket) -> None:
        sock.sendall(greeting)
        sock.recv(1 << 20)
        sock.recv(1 << 20)

    owner = Owner(rig, says)

    async def work() -> None:
        with pytest.raises(UniosError):
            await aio.connect("p", timeout=0.3)

    run(work)
    assert owner.connections < 20


def test_a_deadline_holds_while_nobody_listens(rig: Rig) -> None:
    async def work() -> None:
        server = await aio.listen("p", {"one": lambda value: value, "items": lambda: iter([1])})
        port = await aio.connect("p", timeout=10)
        assert await port.one(1) == 1
        await server.close()
        rig.cut()
        await until(lambda: port._ends.line is None, "the break is seen")
        hasty = port.options(timeout=0.2)
        with pytest.raises(NotFound, match="nobody listens"):
            await hasty.one(2)
        with pytest.raises(NotFound, match="nobody listens"):
            await hasty.send("one", 3)
        with pytest.raises(NotFound, match="nobody listens"):
            await anext(hasty.stream("items"))
        patient = asyncio.ensure_future(port.one(4))
        await asyncio.sleep(0.05)
        assert not patient.done()
        server = await aio.listen("p", {"one": lambda value: value})
        assert await patient == 4
        port.close()
        await server.close()

    run(work)


def test_a_callee_that_never_answers_ends_at_the_deadline_and_is_cancelled(rig: Rig) -> None:
    slow = Slow()

    async def work() -> None:
        async with await aio.listen("p", {"slow": slow, "one": lambda value: value}), await aio.connect("p", timeout=10) as port:
            with pytest.raises(OutcomeUnknown, match="no answer to slow in time"):
                await port.options(timeout=0.2).slow()
            await until(lambda: slow.cancelled, "the handler is cancelled")
            assert await port.one(1) == 1

    run(work)


def test_a_deadline_holds_though_the_owner_never_greets(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_port, "HELLO_TIMEOUT_MS", 60_000)
    owner = Owner(rig, lambda _number, sock: (sock.recv(1 << 20), sock.recv(1 << 20)))  # type: ignore[arg-type,return-value]

    async def work() -> None:
        with pytest.raises(OutcomeUnknown, match="not reached in time"):
            await aio.connect("p", timeout=0.2)

    run(work)
    assert owner.connections == 1


def test_who_connects_and_says_nothing_is_dropped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aio_server, "HELLO_TIMEOUT_MS", 100)

    async def work() -> None:
        async with await aio.listen("p", {}):
            silent, _nothing = rig.pair("p")
            dribbling, _nothing = rig.pair("p")
            dribbling.sendall(packed(HELLO)[:5])
            for sock in (silent, dribbling):
                sock.settimeout(10)
                assert await asyncio.to_thread(sock.recv, 100) == b""
                sock.close()

    run(work)


def test_nobody_drives_out_the_sessions_of_others(rig: Rig) -> None:
    async def work() -> None:
        async with await aio.listen("p", {}) as server:
            first, _known = server.session("s", "ann", trusted=True)
            first.left_s = time.monotonic()
            for number in range(SESSIONS_PER_USER_MAX + 10):
                server.session(str(number), "bob", trusted=False)[0].left_s = time.monotonic()
            assert server.session("s", "ann", trusted=True) == (first, True)
            assert server.session("0", "bob", trusted=False)[1] is False
            assert len(server._sessions) == SESSIONS_PER_USER_MAX + 1
            assert server.session("s", "bob", trusted=False)[1] is False  # of another user

    run(work)


def test_what_was_meant_for_ones_own_user_is_not_sent_to_another_who_listens_there_now(rig: Rig) -> None:
    theirs: list[Any] = []

    async def slow(_value: Any) -> None:
        begun.append(1)
        await asyncio.Event().wait()

    begun: list[int] = []

    async def work() -> None:
        first = await aio.listen("p", {"slow": slow})
        port = await aio.connect("p", timeout=10)
        pending = asyncio.ensure_future(port.options(idempotent=True).slow("secret"))
        await until(lambda: begun, "it has begun")
        await first.close()
        rig.owner = "mallory"
        async with await aio.listen("p", {"slow": theirs.append}):
            rig.cut()
            with pytest.raises(OutcomeUnknown, match="another user listens"):
                await pending
            port.close()
        assert not theirs

    run(work)


def test_a_stream_ends_at_its_deadline(rig: Rig) -> None:
    stopped = []

    async def drips() -> Any:
        try:
            yield 1
            await asyncio.Event().wait()
        finally:
            stopped.append(1)

    async def work() -> None:
        async with await aio.listen("p", {"drips": drips}), await aio.connect("p", timeout=10) as port:
            items = port.options(timeout=0.3).stream("drips")
            assert await anext(items) == 1
            with pytest.raises(OutcomeUnknown, match="in time"):
                await anext(items)
            await until(lambda: stopped, "its handler is stopped")

    run(work)


def test_who_waits_for_a_port_that_is_closed_is_told_so_and_not_cancelled(rig: Rig) -> None:
    async def work() -> None:
        server = await aio.listen("p", {"one": lambda value: value})
        port = await aio.connect("p", timeout=10)
        await server.close()
        rig.cut()
        await until(lambda: port._ends.line is None, "the break is seen")
        waiting = asyncio.ensure_future(port.one(1))
        await asyncio.sleep(0.05)
        port.close()
        with pytest.raises(OutcomeUnknown, match="closed"):
            await waiting
        rig.listening["p"] = lambda _stamp, sock, _node: sock.close()  # type: ignore[assignment]  # let the thread that looks for it end

    run(work)


class Unpicklable:
    def __reduce__(self) -> NoReturn:
        raise RuntimeError("not this one")


class Base(BaseException):
    pass


class Handlers:
    def raises(self, kind: str) -> Any:
        if kind == "base":
            raise Base("no Exception")
        if kind == "exit":
            raise SystemExit(3)
        if kind == "cancelled":
            raise asyncio.CancelledError
        return Unpicklable()

    async def araises(self, kind: str) -> Any:
        await asyncio.sleep(0)
        return self.raises(kind)

    def one(self, value: Any) -> Any:
        return value


@pytest.mark.parametrize("op", ["raises", "araises"])
@pytest.mark.parametrize(
    ("kind", "tells"), [("base", "no Exception"), ("exit", "SystemExit"), ("cancelled", "CancelledError"), ("value", "not this one")]
)
def test_whatever_a_handler_raises_or_returns_its_caller_is_answered(rig: Rig, op: str, kind: str, tells: str) -> None:
    async def work() -> None:
        async with await aio.listen("p", Handlers()), await aio.connect("p", timeout=10) as port:
            with pytest.raises((CallerError, RuntimeError)) as caught:
                await port.options(timeout=5).call(op, kind)
            assert tells in f"{caught.value} {caught.value.__cause__}"
            assert await port.one(1) == 1
            assert rig.connected == 1

    run(work)


def test_a_user_is_let_in_and_out(rig: Rig) -> None:
    slow = Slow()

    async def work() -> None:
        async with await aio.listen("p", {"slow": slow, "one": lambda value: value}) as server:
            await server.grant("ann")
            assert rig.granted == [("p", "ann")]
            port = await aio.connect("p", timeout=10)
            waiting = asyncio.ensure_future(port.slow())
            assert await port.one(1) == 1
            rig.listening.clear()
            assert await server.revoke(rig.user) == 1
            await until(lambda: slow.cancelled, "what the one who lost the right had asked has ended")
            assert await server.revoke("ann") == 0 and rig.granted == []
            port.close()
            with pytest.raises(OutcomeUnknown):
                await waiting
            rig.listening["p"] = lambda _stamp, sock, _node: sock.close()  # type: ignore[assignment]

    run(work)


def test_nothing_is_unpickled_that_came_from_another_user(rig: Rig) -> None:
    async def work() -> None:
        async with await aio.listen("p", Handlers()):
            rig.user = "mallory"
            async with await aio.connect("p", timeout=10) as port:
                with pytest.raises(Denied, match="it is a program"):
                    await port.one(print)
            rig.owner = "mallory"
            async with await aio.connect("p", timeout=10) as port:
                assert await port.one([1, "two", b"3", {"four": None}]) == [1, "two", b"3", {"four": None}]
                with pytest.raises(CallerError, match="cannot be sent to another user's process"):
                    await port.one(print)

    run(work)


def test_connections_that_are_lost_all_the_time_change_no_answer_and_nothing_is_done_twice(rig: Rig) -> None:
    done: list[Any] = []

    def one(value: Any) -> Any:
        done.append(value)
        return value

    async def numbers(upto: int) -> Any:
        for number in range(upto):
            yield number, b"x" * 20_000

    async def work() -> None:
        async with await aio.listen("p", {"one": one, "numbers": numbers}), await aio.connect("p", timeout=10) as port:

            async def cutting() -> None:
                while True:
                    before, made = rig.connected, len(done)
                    rig.cut()
                    await until(lambda before=before, made=made: rig.connected > before and len(done) > made + 20, "it goes on")  # type: ignore[misc]

            async def calls(me: int) -> None:
                for number in range(150):
                    assert await port.one((me, number)) == (me, number)

            async def streams() -> None:
                assert [number async for number, _ in port.stream("numbers", 300)] == list(range(300))

            cutter = asyncio.ensure_future(cutting())
            await asyncio.gather(*(calls(me) for me in range(4)), streams())
            cutter.cancel()
        assert sorted(done) == sorted((me, number) for me in range(4) for number in range(150))

    run(work)


def test_a_plain_iterator_is_closed_when_nobody_reads_any_more(rig: Rig) -> None:
    stopped = []

    def numbers() -> Iterator[bytes]:
        try:
            while True:
                yield b"x" * 100_000
        finally:
            stopped.append(1)

    async def work() -> None:
        async with await aio.listen("p", {"numbers": numbers}), await aio.connect("p", timeout=10) as port:
            async for _item in port.stream("numbers"):
                break
            await until(lambda: stopped, "it is closed")

    run(work)
