"""Lines under garbage: whatever bytes come, each end ends the connection or goes on, keeps nothing, and the port answers the next one."""

import asyncio
import contextlib
import gc
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.client.messages.rig import Rig, until
from tests.descriptors import descriptors
from unios.client.messages import aio, sessions
from unios.client.messages.line import Closed, Line
from unios.errors import OutcomeUnknown, ProtocolError, UniosError
from unios.wire.frames import frame
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN, Ack, Cancel, Credit, Fault, Hello, Part, Reply, Request, encode
from unios.wire.values import encode as value_of

HELLO = Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"session": "s", "incarnation": "i"})


def packed(*messages: Any) -> bytes:
    return b"".join(frame(encode(message)) for message in messages)


def messages(seed: int) -> bytes:
    """Return messages that are well formed and in any order, of which some bytes may be changed, and the end may be missing.

    The same for the same seed: of pickles that are made of bytes by chance one in many has Python take tens of gigabytes (LONG_BINPUT with a large number).
    """
    at = random.Random(seed)
    body = value_of(((1,), {}), trusted=True).body
    number = lambda: at.choice([0, 1, 1, 2, 3, 99, -1, 1 << 62, 1 << 63])  # noqa: E731
    choices: list[Any] = [
        lambda: HELLO,
        lambda: Request(
            number(), at.choice(["f", "g", "", "_x"]), body, ack=number(), oneway=at.random() < 0.2, stream=at.random() < 0.4, have=number()
        ),
        lambda: Request(number(), "f", body, buffers=((at.choice([-1, 0, 5]), number(), number()),), descriptors=at.choice([0, 1, -1])),
        lambda: Reply(number(), body, more=at.random() < 0.5),
        lambda: Fault(number(), at.choice(["raised", "denied", "?"]), "text", body),
        lambda: Credit(number(), 1, upto=number()),
        lambda: Cancel(number()),
        lambda: Ack(number(), (number(),), at.choice([None, (), (1,)])),
        lambda: Part(number(), at.choice([10, 1 << 50, -1]), memoryview(b"abc")),
    ]
    data = bytearray(packed(HELLO) if at.random() < 0.8 else b"")
    for _ in range(at.randrange(12)):
        message = at.choice(choices)()
        data += packed(message)
    if data and at.random() < 0.4:
        for _ in range(at.randrange(1, 4)):
            data[at.randrange(len(data))] = at.randrange(256)
    if at.random() < 0.3:
        data = data[: at.randrange(len(data) + 1)]
    return bytes(data) + (at.randbytes(at.randrange(20)) if at.random() < 0.2 else b"")


@pytest.mark.parametrize("local", [True, False])
def test_a_server_outlives_whatever_its_callers_say_and_forgets_them(rig: Rig, local: bool) -> None:
    rig.local = local
    server = rig.server({"f": lambda x: x, "g": lambda x: iter([x] * 3)})
    threads, before = set(threading.enumerate()), descriptors()
    for seed in range(300):
        sock, _nothing = rig.pair("p")
        try:
            sock.sendall(messages(seed))
        except OSError:
            pass
        sock.shutdown(socket.SHUT_WR)
        sock.settimeout(20)
        try:
            while sock.recv(65_536):  # the end comes whatever it was
                pass
        except ConnectionResetError:
            pass
        sock.close()
        rig.cut()
        if seed == 20:
            until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
            gc.collect()
            before = descriptors()
    with rig.port() as port:
        assert port.f(7) == 7 and list(port.stream("g", 1)) == [1] * 3
    rig.cut()
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")
    gc.collect()
    assert descriptors() <= before
    server.close()


@pytest.mark.parametrize("twin", ["blocking", "asyncio"])
@pytest.mark.parametrize("how", ["half a frame", "parts", "a whole message"])
def test_a_stranger_takes_no_more_memory_over_many_connections_than_he_may_and_others_get_theirs(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, how: str, twin: str
) -> None:
    """His connections that want more end; once those that have it have gone he is answered again."""
    monkeypatch.setattr(sessions, "STRANGER_BYTES_MAX", 250_000)
    rig.user = rig.owner = "mallory"
    may_go_on = threading.Event()
    body = value_of(((b"x" * 60_000,), {}), trusted=False).body
    said = {
        "half a frame": frame(encode(Request(1, "wait", body)))[:50_000],
        "parts": packed(Part(1, 60_000, memoryview(bytes(50_000)))),
        "a whole message": packed(Request(1, "wait", body)),
    }[how]

    def attack(allowance: Callable[[], Any]) -> None:
        socks = []
        for number in range(6):
            sock, _nothing = rig.pair("p")
            socks.append(sock)
            sock.settimeout(20)
            sock.sendall(packed(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "program", {"session": str(number)})) + said)
            heard = sock.recv(1_000)
            if number < 4:
                until(lambda number=number: allowance().taken >= (number + 1) * 60_000, "it is held")  # type: ignore[misc]
            elif how == "a whole message":
                while b"it was not begun" not in heard:
                    more = sock.recv(1_000)
                    assert more
                    heard += more
            else:
                while sock.recv(1_000):
                    pass
        assert allowance().taken <= 250_000
        rig.user = "eve"
        with rig.port() as port:
            assert port.options(timeout=20).f(7) == 7
        rig.user = "mallory"
        may_go_on.set()
        for sock in socks:
            sock.close()
        rig.cut()
        until(lambda: allowance().taken == 0, "all is given back")
        with rig.port() as port:
            assert port.options(timeout=20).f(b"x" * 60_000) == b"x" * 60_000

    if twin == "blocking":
        with rig.server({"f": lambda x: x, "wait": lambda _x: may_go_on.wait(20)}) as server:
            attack(lambda: server._sessions._allowances.of("mallory"))
        return

    async def wait(_x: bytes) -> None:
        await asyncio.to_thread(may_go_on.wait, 20)

    async def work() -> None:
        async with await aio.listen("p", {"f": lambda x: x, "wait": wait}) as server:
            await asyncio.to_thread(attack, lambda: server._allowances.of("mallory"))

    asyncio.run(work())


def test_what_a_stranger_withdraws_is_held_no_more_when_its_handler_has_ended(rig: Rig) -> None:
    rig.user = rig.owner = "mallory"

    async def work() -> None:
        began, ended = asyncio.Event(), asyncio.Event()

        async def wait(_x: bytes) -> None:
            began.set()
            try:
                await asyncio.sleep(20)
            finally:
                ended.set()

        async with await aio.listen("p", {"wait": wait}) as server:
            sock, _nothing = rig.pair("p")
            body = value_of(((b"x" * 10_000,), {}), trusted=False).body
            sock.sendall(packed(HELLO, Request(1, "wait", body)))
            async with asyncio.timeout(20):
                await began.wait()
                assert server._allowances.of("mallory").taken > 10_000
                sock.sendall(packed(Cancel(1)))
                await ended.wait()
                while server._allowances.of("mallory").taken:
                    await asyncio.sleep(0)
            sock.close()

    asyncio.run(work())


def test_a_caller_outlives_whatever_a_server_says(rig: Rig) -> None:
    said = [b""]

    def accepted(_stamp: object, sock: socket.socket, _node: str) -> None:
        def serve() -> None:
            with sock:
                try:
                    sock.sendall(said[0])
                    sock.shutdown(socket.SHUT_WR)
                    while sock.recv(65_536):
                        pass
                except OSError:
                    pass

        threading.Thread(target=serve, daemon=True).start()

    rig.listening["p"] = accepted  # type: ignore[assignment]
    for seed in range(150):
        said[0] = messages(seed)
        begun = time.monotonic()
        with contextlib.suppress(UniosError), rig.port(timeout=0.05) as port:
            port.options(timeout=0.05).f(1)
        assert time.monotonic() - begun < 5
        rig.cut()
    rig.listening.clear()
    with rig.server({"f": lambda x: x}), rig.port() as port:
        assert port.f(7) == 7


def test_nonsense_in_the_midst_of_a_call_ends_all_that_wait(rig: Rig) -> None:
    ends: list[socket.socket] = []
    rig.listening["p"] = lambda _stamp, sock, _node: (ends.append(sock), sock.sendall(packed(HELLO)))  # type: ignore[assignment,func-returns-value,return-value]
    with rig.port() as port:
        pending = [port.begin("f", number) for number in range(3)]
        ends[0].sendall(packed(Cancel(1)))
        for one in pending:
            with pytest.raises(OutcomeUnknown, match="asks where it should answer"):
                one.result()
    for sock in ends:
        sock.close()


def test_who_connects_and_says_nothing_is_dropped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from unios.client.messages import server

    monkeypatch.setattr(server, "HELLO_TIMEOUT_MS", 100)
    with rig.server({}):
        silent, _nothing = rig.pair("p")
        dribbling, _nothing = rig.pair("p")
        dribbling.sendall(packed(HELLO)[:5])
        for sock in (silent, dribbling):
            sock.settimeout(20)
            assert sock.recv(100) == b""
            sock.close()


def test_a_frame_that_is_broken_off_ends_the_connection() -> None:
    left, right = socket.socketpair()
    one = Line(left, local=True, trusted=True)
    left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    with pytest.raises(TimeoutError):
        one.send(Request(1, "f", value_of(b"x" * 200_000, trusted=True).body), None, time.monotonic() + 0.05)
    assert one.is_closed
    with pytest.raises(Closed) as closed:
        one.send(Cancel(1), None, time.monotonic())
    assert not closed.value.sent
    one.release()
    right.close()


def test_a_greeting_of_no_common_version_is_said(rig: Rig) -> None:
    ends: list[socket.socket] = []
    hello = packed(Hello(PROTOCOL_MAX + 1, PROTOCOL_MAX + 2, "program", {"node": "n9"}))
    rig.listening["p"] = lambda _stamp, sock, _node: (ends.append(sock), sock.sendall(hello))  # type: ignore[assignment,func-returns-value,return-value]
    with pytest.raises(ProtocolError, match="upgrade the older"):
        rig.port()
    for sock in ends:
        sock.close()


def test_descriptors_that_no_message_claims_end_the_connection_and_are_closed() -> None:
    before = descriptors()
    left, right = socket.socketpair()
    line = Line(left, local=True, trusted=True)

    def read() -> None:
        for number in range(100):
            socket.send_fds(right, [frame(bytes(1_000))[number : number + 1]], [right.fileno()] * 16)
            line.read(time.monotonic() + 20)

    with pytest.raises(ProtocolError, match="descriptors that no message claims"):
        read()
    line.release()
    right.close()
    assert descriptors() <= before
