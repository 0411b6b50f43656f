"""Another user's process at a port: what it says takes no more memory than what is counted, however it says it. Both twins."""

import asyncio
import gc
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.test_line import HELLO, packed
from unios.client.messages import aio, sessions
from unios.client.messages import server as servers
from unios.client.messages.aio_server import AsyncServer
from unios.errors import OutcomeUnknown, Unavailable
from unios.limits import STRANGER_AHEAD_BYTES, STRANGER_FRAME_BYTES_MAX, STREAM_WINDOW_BYTES
from unios.wire.conversations import AROUND_BYTES_MAX, WORDS_BYTES_MAX, cost_of
from unios.wire.frames import frame
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Fault, Hello, Reply, Request, encode
from unios.wire.values import encode as value_of

BODY = value_of(((1,), {}), trusted=False).body


def with_more(message: Any, size: int) -> bytes:
    """Return a message as a frame, with a field of so many bytes that this side does not know."""
    fields = msgspec.msgpack.decode(encode(message))
    fields["of a newer one"] = bytes(size)
    return frame(msgspec.msgpack.encode(fields))


REQUEST = Request(1, "f", BODY)
TOO_MUCH = {
    "a large frame": (STRANGER_FRAME_BYTES_MAX + 1).to_bytes(4, "big") + bytes(100),
    "much around a request": with_more(REQUEST, AROUND_BYTES_MAX),
    "much around a large one": with_more(Request(1, "f", value_of(((bytes(10_000),), {}), trusted=False).body), AROUND_BYTES_MAX),
    "a long name": packed(Request(1, "f" * AROUND_BYTES_MAX, BODY)),
    "many buffers": packed(Request(1, "f", BODY, buffers=((-1, 0, 0),) * 2)),
    "much around a part": frame(msgspec.msgpack.encode({"type": "part", "id": 1, "total": 9, "data": b"x", "y": bytes(AROUND_BYTES_MAX)})),
    "a long greeting": packed(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "x" * WORDS_BYTES_MAX)),
    "a long word of a fault": packed(Fault(1, "x" * WORDS_BYTES_MAX)),
}


def serving(rig: Rig, twin: str, target: Any, work: Callable[[Any], None]) -> None:
    """Do it while a server of that kind answers."""
    if twin == "blocking":
        with rig.server(target) as server:
            work(server)
        return

    async def main() -> None:
        async with await aio.listen("p", target) as server:
            await asyncio.to_thread(work, server)

    asyncio.run(main())


def ended(sock: socket.socket) -> bool:
    """Return whether the other side ends the connection without an answer."""
    sock.settimeout(20)
    heard = b""
    while data := sock.recv(65_536):
        heard += data
        if b"reply" in heard:
            return False
    return True


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
@pytest.mark.parametrize("what", TOO_MUCH)
def test_a_stranger_who_says_more_than_is_counted_is_cut_off(rig: Rig, what: str, twin: str) -> None:
    rig.user = "mallory"

    def work(_server: Any) -> None:
        sock, _nothing = rig.pair("p")
        sock.sendall(packed(HELLO) + TOO_MUCH[what] + packed(REQUEST))
        assert ended(sock)
        sock.close()

    serving(rig, twin, {"f": lambda x: x}, work)


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_a_newer_strangers_few_words_more_are_passed_over(rig: Rig, twin: str) -> None:
    rig.user = "mallory"

    def work(_server: Any) -> None:
        sock, _nothing = rig.pair("p")
        sock.sendall(packed(HELLO) + with_more(REQUEST, 1_000))
        assert not ended(sock)
        sock.close()

    serving(rig, twin, {"f": lambda x: x}, work)


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_ones_own_user_may_say_it_as_he_likes(rig: Rig, twin: str) -> None:
    def work(_server: Any) -> None:
        sock, _nothing = rig.pair("p")
        sock.sendall(packed(HELLO) + with_more(Request(1, "f", value_of(((1,), {}), trusted=True).body), 1_000_000))
        assert not ended(sock)
        sock.close()

    serving(rig, twin, {"f": lambda x: x}, work)


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_a_caller_ends_what_a_stranger_answers_with_more_than_is_counted(rig: Rig, twin: str) -> None:
    rig.owner = "mallory"
    ends: list[socket.socket] = []

    def accepted(_stamp: object, sock: socket.socket, _node: str) -> None:
        ends.append(sock)
        sock.sendall(packed(HELLO))
        threading.Thread(target=answer, args=(sock,), daemon=True).start()

    def answer(sock: socket.socket) -> None:
        heard = b""
        while b"request" not in heard:
            heard += sock.recv(65_536)
        sock.sendall(with_more(Reply(1, value_of(1, trusted=False).body), AROUND_BYTES_MAX))

    rig.listening["p"] = accepted  # type: ignore[assignment]
    if twin == "blocking":
        with rig.port() as port, pytest.raises(OutcomeUnknown, match="too much around its value"):
            port.options(timeout=20).f(1)
    else:

        async def main() -> None:
            async with await aio.connect("p", timeout=10) as port:
                with pytest.raises(OutcomeUnknown, match="too much around its value"):
                    await port.options(timeout=20).f(1)

        asyncio.run(main())
    for sock in ends:
        sock.close()


def test_what_is_read_ahead_of_a_stranger_is_little_and_all_of_it_is_answered(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.user = "mallory"
    made: list[servers.Answers] = []
    most = [0]

    class Watched(servers.Answers):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            made.append(self)

    def slowly(_data: bytes) -> None:
        waiting = sum(cost_of(value) for _request, value in tuple(made[0]._waiting))
        assert made[0]._ahead == waiting
        most[0] = max(most[0], waiting)
        time.sleep(2 * servers.LASTING_S)

    monkeypatch.setattr(servers, "Answers", Watched)
    body = value_of(((bytes(15_000),), {}), trusted=False).body
    with rig.server({"slowly": slowly}):
        sock, _nothing = rig.pair("p")
        sending = threading.Thread(
            target=lambda: sock.sendall(packed(HELLO, *(Request(id_, "slowly", body, ack=id_ - 1) for id_ in range(1, 101)))), daemon=True
        )
        sending.start()
        sock.settimeout(20)
        heard = b""
        while heard.count(b"reply") < 100:
            heard += sock.recv(65_536)
        sending.join(20)
        assert 0 < most[0] < STRANGER_AHEAD_BYTES + 70_000
        sock.close()


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
def test_the_window_of_a_strangers_stream_counts_over_all_his_connections(rig: Rig, monkeypatch: pytest.MonkeyPatch, twin: str) -> None:
    monkeypatch.setattr(sessions, "STRANGER_BYTES_MAX", 3 * STREAM_WINDOW_BYTES - 1)
    rig.user = rig.owner = "mallory"

    def numbers() -> Any:
        yield from range(3)

    def work(_server: Any) -> None:
        ports = [rig.port() for _ in range(3)]
        streams = [port.options(timeout=20).stream("wait") for port in ports[:2]]
        assert [next(stream) for stream in streams] == [0, 0]
        with pytest.raises(Unavailable, match="it was not begun"):
            next(ports[2].options(timeout=20).stream("numbers"))
        go.set()
        assert [list(stream) for stream in streams] == [[], []]
        assert list(ports[2].options(timeout=20).stream("numbers")) == [0, 1, 2]
        for port in ports:
            port.close()

    go = threading.Event()

    async def wait_async() -> Any:
        yield 0
        await asyncio.to_thread(go.wait, 20)

    def wait() -> Any:
        yield 0
        go.wait(20)

    serving(rig, twin, {"wait": wait if twin == "blocking" else wait_async, "numbers": numbers}, work)


def test_what_nobody_can_come_back_to_is_not_kept(rig: Rig) -> None:
    rig.user = "mallory"
    cancelled = threading.Event()

    async def wait() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            cancelled.set()

    def work(server: AsyncServer) -> None:
        sock, _nothing = rig.pair("p")
        nameless = Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program")
        nothing = value_of(((), {}), trusted=False).body
        sock.sendall(packed(nameless, Request(1, "much", nothing), Request(2, "wait", nothing)))
        until(lambda: server._lines and next(iter(server._lines))._session is not None, "it has greeted")
        session = next(iter(server._lines))._session
        assert session is not None
        until(lambda: session.answering.kept_bytes > 100_000 and session.tasks, "it is answered")
        sock.close()
        rig.cut()
        assert cancelled.wait(20)
        until(lambda: session.answering.kept_bytes == 0, "it is let go of")
        gc.collect()

    serving(rig, "asyncio", {"much": lambda: bytes(100_001), "wait": wait}, work)
