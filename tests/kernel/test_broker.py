"""The broker of ports: who may open, connect, grant and cut; what ends a connection; and that nothing is left of one."""

import asyncio
import errno
import os
import resource
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from tests import forks
from tests.descriptors import descriptors
from tests.wire.pairs import bounded, settled, until
from unios.errors import CallerError, Denied, NotFound, Unavailable
from unios.kernel import ports
from unios.kernel.callers import Caller
from unios.kernel.ports import SERVICES, Broker
from unios.limits import PORT_NAME_BYTES_MAX
from unios.wire.operations import Accepted

ME = os.getpid()
ANN = Caller("ann", 1_000, False, "n1", ME)
BOB = Caller("bob", 1_001, False, "n1", ME, pid=7, incarnation=2)
CAROL = Caller("carol", 1_002, False, "n1", ME)
ROOT = Caller("root", 0, True, "n1", ME)


class Told:
    """What the broker says of itself."""

    def __init__(self) -> None:
        self.closed: list[str] = []
        self.errors: list[dict[str, Any]] = []


def brokered(work: Callable[[Broker, Told], Awaitable[None]]) -> None:
    """Do it with a broker; fail if descriptors are left, or an error was met that nobody handles."""

    async def main() -> None:
        told = Told()
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.errors.append(context))
        before = descriptors()
        broker = Broker("n1", told.closed.append)
        await work(broker, told)
        broker.close()
        await settled()
        assert descriptors() <= before and not told.errors

    bounded(main)


def taken(listener: socket.socket) -> tuple[Accepted, socket.socket]:
    packet, given, _flags, _address = socket.recv_fds(listener, 4_096, 1)
    return msgspec.msgpack.decode(packet, type=Accepted), socket.socket(fileno=given[0])


def ended(sock: socket.socket) -> bool:
    try:
        return not sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("name", ["", "a//b", "/a", "a/", "..", "a/../b", "a\nb", "x" * (PORT_NAME_BYTES_MAX + 1), "é" * PORT_NAME_BYTES_MAX])
def test_what_is_no_name_is_refused(name: str) -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with pytest.raises(CallerError, match="is no name for a port"):
            broker.listen(name, 0o600, ANN)

    brokered(work)


def test_a_port_is_taken_over_by_its_user_or_the_privileged_and_by_nobody_else() -> None:
    async def work(broker: Broker, told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as first:
            with pytest.raises(Denied, match="port p belongs to ann"):
                broker.listen("p", 0o666, BOB)
            with broker.listen("p", 0o600, ANN) as second:
                assert ended(first) and not ended(second)
                await settled()  # the end of the first one is not that of the port
                assert broker.has("p") and not told.closed
                with broker.listen("p", 0o600, ROOT) as third:
                    assert ended(second) and broker.owner("p") == "root"
                    assert not ended(third)
            await until(lambda: not broker.has("p"))
            assert told.closed == ["p"] and broker.owner("p") == "" and broker.record("p") is None

    brokered(work)


def test_who_is_connected_stays_so_when_a_listener_that_took_the_port_over_closes_it() -> None:
    async def work(broker: Broker, told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as first:
            _id, near = broker.connect("p", ANN)
            far = taken(first)[1]
            with broker.listen("p", 0o600, ANN) as second:
                _id, later = broker.connect("p", ANN)
                end = taken(second)[1]
                assert broker.revoke("p", 0, ANN) == 1 and ended(later) and told.closed == ["p"]
            assert not ended(near) and not ended(far)
            assert not broker.has("p")
        for sock in (near, far, later, end):
            sock.close()

    brokered(work)


def test_what_is_left_of_a_listener_that_was_replaced_is_not_the_end_of_the_port() -> None:
    async def work(broker: Broker, told: Told) -> None:
        with broker.listen("p", 0o600, ANN):
            before = broker._ports["p"].sock
            with broker.listen("p", 0o600, ANN):
                broker._on_listener("p", before)
                assert broker.has("p") and not told.closed

    brokered(work)


def test_a_user_has_so_many_ports_and_the_privileged_as_many_as_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORTS_PER_USER_MAX", 1)

    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("a", 0o600, ANN), broker.listen("b", 0o600, ROOT), broker.listen("c", 0o600, ROOT):
            with pytest.raises(Unavailable, match="ann has 1 ports"):
                broker.listen("d", 0o600, ANN)
            assert broker.has("c")

    brokered(work)


def test_what_nobody_has_read_yet_ends_no_connection_and_keeps_the_loop_idle() -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            near, far = broker.connect("p", ANN)[1], taken(listener)[1]
            near.send(b"for you")
            far.send(b"for me")
            woken = 0
            wake = broker._on_hangup

            def counted() -> None:
                nonlocal woken
                woken += 1
                wake()

            broker._loop.add_reader(broker._hangups.fileno(), counted)
            await settled()
            await asyncio.sleep(0.05)
            assert woken <= 2 and len(broker._connections) == 1
            assert far.recv(10) == b"for you" and near.recv(10) == b"for me"
            near.close()
            far.close()

    brokered(work)


def test_many_connections_one_after_the_other_are_watched_as_the_first() -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            for _ in range(5):
                id_, near = broker.connect("p", ANN)
                far = taken(listener)[1]
                assert broker.cut(id_) and not broker.cut(id_) and ended(near) and ended(far)
                near.close()
                far.close()
            assert not broker._by_descriptor

    brokered(work)


def test_a_node_has_so_many_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "PORTS_MAX", 2)

    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("placement", 0o666, ROOT), broker.listen("a", 0o600, ROOT), broker.listen("b", 0o600, ROOT):
            with pytest.raises(Unavailable, match="2 ports"):
                broker.listen("c", 0o600, ROOT)
            broker.listen("b", 0o600, ROOT).close()  # one that is there may be taken over
            for service in sorted(SERVICES):  # or a service that was restarted could not be reached any more
                broker.listen(service, 0o666, ROOT).close()
            with pytest.raises(Unavailable, match="2 ports"):
                broker.listen("c", 0o600, ROOT)

    brokered(work)


@pytest.mark.parametrize(
    ("mode", "caller", "may"),
    [(0o600, ANN, True), (0o400, ANN, False), (0o602, ANN, True), (0o002, ANN, False), (0o600, BOB, False), (0o666, BOB, True), (0o000, ROOT, True)],
)
def test_a_mode_lets_in_as_a_files_does(mode: int, caller: Caller, may: bool) -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", mode, ANN) as listener:
            if not may:
                with pytest.raises(Denied, match=f"{caller.user} may not connect to port p of ann"):
                    broker.connect("p", caller)
                return
            id_, near = broker.connect("p", caller)
            stamp, far = taken(listener)
            assert stamp == Accepted(id_, "p", caller.user, caller.privileged, "n1", caller.pid, caller.incarnation)
            near.send(b"x")
            assert far.recv(1) == b"x"
            near.close()
            far.close()

    brokered(work)


def test_a_grant_lets_one_in_and_is_the_owners_to_give_and_to_take() -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with pytest.raises(NotFound):
            broker.grant("p", "bob", ANN)
        with broker.listen("p", 0o600, ANN) as listener, broker.listen("q", 0o666, ANN) as other:
            for refused in (lambda: broker.grant("p", "bob", BOB), lambda: broker.withdraw("p", "ann", BOB), lambda: broker.revoke("p", 0, BOB)):
                with pytest.raises(Denied, match="port p belongs to ann"):
                    refused()
            broker.grant("p", "bob", ANN)
            with pytest.raises(Denied):
                broker.connect("p", CAROL)
            (_a, bobs), (_b, anns), (_c, elsewhere) = broker.connect("p", BOB), broker.connect("p", ANN), broker.connect("q", BOB)
            given = [taken(listener)[1], taken(listener)[1], taken(other)[1]]
            bobs.send(b"last words")
            assert broker.withdraw("p", "bob", ANN) == 1
            assert ended(bobs) and not ended(anns) and not ended(elsewhere)
            assert given[0].recv(100) == b"last words" and ended(given[0]) and not ended(given[1])
            assert broker.withdraw("p", "bob", ANN) == 0
            with pytest.raises(Denied):
                broker.connect("p", BOB)
            for sock in (bobs, anns, elsewhere, *given):
                sock.close()

    brokered(work)


def test_one_connection_is_cut_or_the_port_with_all_of_its_own() -> None:
    async def work(broker: Broker, told: Told) -> None:
        assert broker.revoke("p", 0, ANN) == 0
        with broker.listen("p", 0o666, ANN) as listener, broker.listen("q", 0o666, BOB) as other:
            (first, one), (_second, two), (third, three) = broker.connect("p", BOB), broker.connect("p", BOB), broker.connect("q", ANN)
            given = [taken(listener)[1], taken(listener)[1], taken(other)[1]]
            assert broker.revoke("p", third, ANN) == 0 and not ended(three)  # another port's
            assert broker.revoke("p", first, ANN) == 1 and ended(one) and ended(given[0]) and not ended(two)
            assert broker.revoke("p", first, ANN) == 0
            assert broker.revoke("p", 0, ANN) == 1 and ended(two) and not ended(three)
            assert not broker.has("p") and told.closed == ["p"] and ended(listener)
            for sock in (one, two, three, *given):
                sock.close()

    brokered(work)


@pytest.mark.parametrize("who", ["caller", "owner"])
def test_the_death_of_one_side_is_announced_to_the_other_though_duplicates_are_kept(who: str) -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with forks.waiting() as child:
            dying = ANN._replace(linux_pid=child.pid)
            await dies(broker, dying, child)

    async def dies(broker: Broker, dying: Caller, child: forks.Waiting) -> None:
        with broker.listen("p", 0o600, dying if who == "owner" else ANN) as listener:
            id_, before = broker.connect("p", dying if who == "caller" else ANN)
            taken(listener)[1].close()
            broker.cut(id_)  # one before it, which had the same descriptors, is not what is watched
            before.close()
            _id, near = broker.connect("p", dying if who == "caller" else ANN)
            _stamp, far = taken(listener)
            child.end()
            await until(lambda: ended(near) and ended(far))
            near.close()
            far.close()
            if who == "owner":
                with pytest.raises(Unavailable, match="its owner is gone"):
                    broker.connect("p", ANN)
            else:
                broker.connect("p", dying)[1].close()

    brokered(work)


@pytest.mark.parametrize("side", [0, 1])
def test_a_side_that_shuts_down_ends_the_connection_after_what_was_said(side: int) -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            ends = [broker.connect("p", ANN)[1], taken(listener)[1]]
            ends[side].send(b"last words")
            ends[side].shutdown(socket.SHUT_RDWR)
            await until(lambda: not broker._connections)
            assert ends[1 - side].recv(100) == b"last words" and ended(ends[1 - side])
            for sock in ends:
                sock.close()

    brokered(work)


def test_a_listener_that_talks_keeps_its_port_and_one_that_closes_with_connections_in_it_loses_it_without_noise() -> None:
    async def work(broker: Broker, told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            listener.send(b"nonsense")
            broker._on_listener("p", broker._ports["p"].sock)
            broker._on_listener("p", broker._ports["p"].sock)  # woken for nothing
            assert broker.has("p")
            near = broker.connect("p", ANN)[1]
        await until(lambda: not broker.has("p"))
        assert told.closed == ["p"]
        near.close()

    brokered(work)


def test_a_listener_that_takes_nothing_is_not_waited_for() -> None:
    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            nears: list[socket.socket] = []

            def flood() -> None:
                while len(nears) < 400:
                    nears.append(broker.connect("p", ANN)[1])

            with pytest.raises(Unavailable, match="its owner is busy or gone"):
                flood()
            taken(listener)[1].close()
            nears.append(broker.connect("p", ANN)[1])
            for near in nears:
                near.close()

    brokered(work)


def test_ports_and_connections_leave_the_kernel_descriptors_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else one program's connections keep everybody from the door, and services from coming back."""

    def few(count: int) -> None:
        free = os.dup(0)
        os.close(free)
        monkeypatch.setattr(resource, "getrlimit", lambda _what: ((free + count) * 4 // 3, 0))

    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN):
            few(12)
            held: list[socket.socket] = []

            def connects() -> None:
                while len(held) < 30:
                    held.append(broker.connect("p", ANN)[1])

            def listens() -> None:
                while len(held) < 30:
                    held.append(broker.listen(f"q/{len(held)}", 0o600, ANN))

            for more in (connects, listens):
                with pytest.raises(Unavailable, match="all but those that it needs itself"):
                    more()
            assert len(held) > 1
            before = descriptors()
            for what in (lambda: broker.connect("p", ANN), lambda: broker.listen("q", 0o600, ROOT)):
                with pytest.raises(Unavailable):
                    what()
            assert descriptors() <= before
            with broker.listen("locks", 0o666, ROOT) as service, broker.connect("locks", ANN)[1], taken(service)[1]:
                pass
            for sock in held:
                sock.close()
            await settled()

    brokered(work)


@pytest.mark.parametrize("call", ["socketpair", "pidfd_open"])
def test_no_descriptors_for_a_connection_is_said_and_none_are_left(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody could watch would never end."""

    def refuse(*_args: object) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    async def work(broker: Broker, _told: Told) -> None:
        with broker.listen("p", 0o600, ANN) as listener:
            monkeypatch.setattr(socket if call == "socketpair" else os, call, refuse)
            with pytest.raises(Unavailable, match="Too many open files"):
                broker.connect("p", ANN)
            monkeypatch.undo()
            assert not broker._connections
            near, far = broker.connect("p", ANN)[1], taken(listener)[1]
            near.close()
            far.close()

    brokered(work)
