"""The acceptor of a process against a kernel that is scripted: ports opened twice, taken over, and opened again after a restart of the kernel."""

import itertools
import os
import socket
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import msgspec
import pytest

from tests import forks
from tests.client.messages.rig import until
from tests.descriptors import descriptors
from unios.client.messages import acceptor as acceptors
from unios.client.messages.acceptor import Acceptor
from unios.errors import Denied, NotFound, ProtocolError, Unavailable, UniosError
from unios.wire.operations import Accepted, Empty, Listening, NodeInfo

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class Kernel:
    """What an acceptor asks of a kernel, as a Connection: who holds which port."""

    def __init__(self) -> None:
        self.pid = 1
        self.says_who = True
        self.infos = 0
        """How often it was asked who it is."""
        self.grants: list[tuple[str, str]] = []
        self.given = 1
        """How many descriptors come with an answer."""
        self.ports: dict[str, socket.socket] = {}
        self.refused: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.after_listen: Callable[[], None] | None = None

    def begin(self, _op: str, body: Any, *, node: str) -> Any:
        self.asked.append(body.name)
        return Asked(self, body.name)

    def listen(self, name: str) -> int:
        if name in self.refused:
            raise self.refused[name]
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if name in self.ports:
            self.ports[name].close()
        self.ports[name] = ours
        return theirs.detach()

    def call(self, op: str, body: Any, _type: Any) -> None:
        assert op == "ports.close"
        self.ports.pop(body.name).close()

    def ask(self, op: str, body: Any = None, type_: Any = None) -> Any:
        self.infos += op == "node.info"
        if op == "ports.grant":
            if "grants" in self.refused:
                raise self.refused["grants"]
            self.grants.append((body.name, body.user))
        return types.SimpleNamespace(name="n1", kernel_pid=self.pid) if type_ is NodeInfo else None

    def persist(self, attempt: Callable[[], Any]) -> Any:
        return attempt()

    def restart(self) -> None:
        self.pid += 1
        ports, self.ports = self.ports, {}
        for sock in ports.values():
            sock.close()


class Asked:
    def __init__(self, kernel: Kernel, name: str) -> None:
        self._kernel, self._name = kernel, name

    def finish(self, *, timeout_s: float) -> tuple[bytes, list[int]]:
        kernel = self._kernel
        given = [kernel.listen(self._name), socket.socket(socket.AF_UNIX).detach()]
        opened = Listening(kernel.pid, "n1") if kernel.says_who else Empty()
        for descriptor in given[kernel.given :]:
            os.close(descriptor)
        after, self._kernel.after_listen = self._kernel.after_listen, None
        if after is not None:
            after()
        return msgspec.msgpack.encode(opened), given[: kernel.given]


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    for sock in made.ports.values():
        sock.close()


class Over:
    """In place of what an acceptor polls: its thread, which otherwise lasts as long as the process, ends."""

    def poll(self, _timeout: float | None) -> NoReturn:
        raise SystemExit


@pytest.fixture
def acceptor(kernel: Kernel) -> Iterator[Acceptor]:
    threads = set(threading.enumerate())
    made = Acceptor(kernel)  # type: ignore[arg-type]
    yield made
    poll, made._poll = made._poll, Over()  # type: ignore[assignment]
    os.eventfd_write(made._wake, 1)
    for thread in set(threading.enumerate()) - threads:
        thread.join(20)
    for port in made._ports.values():
        if port.sock is not None:
            port.sock.close()
    poll.close()
    os.close(made._wake)


class Opened:
    """One port of the test's."""

    def __init__(self) -> None:
        self.taken = 0
        self.lost = 0

    def accepted(self, _stamp: Accepted, sock: socket.socket, _node: str) -> None:
        assert not os.get_inheritable(sock.fileno()), "a program that is started from here would hold the connection"
        self.taken += 1
        sock.close()

    def on_lost(self) -> None:
        self.lost += 1


def opened(acceptor: Acceptor, name: str) -> Opened:
    one = Opened()
    acceptor.listen(name, 0o600, one.accepted, one.on_lost)
    return one


def connect(kernel: Kernel, name: str) -> None:
    near, far = socket.socketpair()
    socket.send_fds(kernel.ports[name], [msgspec.msgpack.encode(Accepted(1, name, "ann", False, "n1"))], [far.fileno()])
    near.close()
    far.close()


def test_a_port_that_is_opened_twice_in_a_process_is_the_second_ones_and_the_first_does_not_close_it(kernel: Kernel, acceptor: Acceptor) -> None:
    first = opened(acceptor, "p")
    second = opened(acceptor, "p")
    assert (first.lost, second.lost) == (1, 0)
    acceptor.close("p", first.accepted)
    connect(kernel, "p")
    until(lambda: second.taken, "the second one is connected to")
    acceptor.close("p", second.accepted)
    assert not kernel.ports and not first.taken


def test_a_port_that_another_process_has_taken_over_is_not_closed_by_the_one_before(
    kernel: Kernel, acceptor: Acceptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Acceptor, "_take", lambda _self, _port: None)  # it has not seen that yet
    opened(acceptor, "p")
    other = socket.socket(fileno=kernel.listen("p"))
    acceptor.close("p")
    assert "p" in kernel.ports
    other.close()


@pytest.mark.parametrize("order", list(itertools.permutations("abc")))
def test_ports_are_opened_again_after_a_restart_though_one_of_them_cannot_be(
    kernel: Kernel, acceptor: Acceptor, order: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acceptors, "CLIENT_RETRY_MS", 1)
    ports = {name: opened(acceptor, name) for name in order}
    kernel.refused = {"a": Denied("port a belongs to bob"), "b": Unavailable("not now")}
    kernel.restart()
    until(lambda: "c" in kernel.ports and ports["a"].lost, "the one that can be is open, the one that is another's now is given up")
    connect(kernel, "c")
    until(lambda: ports["c"].taken, "it is connected to")
    assert "b" not in kernel.ports and not ports["b"].lost
    del kernel.refused["b"]
    until(lambda: "b" in kernel.ports, "the other one is open too")


def test_a_port_that_another_process_of_the_user_has_opened_is_lost_and_not_opened_again(kernel: Kernel, acceptor: Acceptor) -> None:
    port = opened(acceptor, "p")
    other = socket.socket(fileno=kernel.listen("p"))
    until(lambda: port.lost, "it is told")
    assert kernel.asked == ["p"]
    other.close()


def test_what_is_to_be_done_later_is_done_in_its_order_without_anything_else_happening(acceptor: Acceptor) -> None:
    done: list[int] = []
    began = time.monotonic()
    acceptor.later(0.15, lambda: done.append(2))
    acceptor.later(0.05, lambda: done.append(1))
    acceptor.later(100, lambda: done.append(3))
    until(lambda: done == [1, 2], "both are done")
    assert time.monotonic() - began >= 0.15
    before = time.process_time()
    time.sleep(0.1)
    assert time.process_time() - before < 0.05  # it waits, and does not look again and again


@pytest.mark.parametrize("again", [False, True])
def test_a_kernel_that_ends_just_after_it_has_opened_a_port_is_not_taken_for_another_listener(
    kernel: Kernel, acceptor: Acceptor, again: bool
) -> None:
    """The one that answers next would be noted for the one that opened it, and the port be given up as somebody else's."""
    if not again:
        kernel.after_listen = kernel.restart
    one = opened(acceptor, "one")
    if again:
        kernel.after_listen = kernel.restart
        kernel.restart()
    until(lambda: "one" in kernel.ports and not acceptor._down, "it is open again")
    connect(kernel, "one")
    until(lambda: one.taken == 1, "it takes a connection in")
    assert one.lost == 0
    acceptor.close("one")


def test_a_port_of_a_parent_that_ends_is_closed_though_its_forked_child_lives_on(
    kernel: Kernel, acceptor: Acceptor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Acceptor, "_all", {(os.getpid(), "home", ""): acceptor})
    opened(acceptor, "one")
    with forks.waiting():
        ours = kernel.ports["one"]
        ours.settimeout(20)
        acceptor._forget(acceptor._ports.pop("one"))  # as Linux does it when the parent ends
        assert ours.recv(1) == b""


def test_to_open_thousands_of_ports_asks_nothing_else_and_to_open_them_again_once(kernel: Kernel, acceptor: Acceptor) -> None:
    ports = {f"p/{number}": opened(acceptor, f"p/{number}") for number in range(30)}
    assert kernel.infos == 0
    with acceptor._lock:
        kernel.restart()
        until(lambda: len(acceptor._by_descriptor) == 30, "they are there")
    until(lambda: len(kernel.ports) == 30 and not acceptor._down, "they are open again")
    assert kernel.infos <= 10 and not any(port.lost for port in ports.values())


def test_a_kernel_of_before_that_does_not_say_who_it_is_is_asked(kernel: Kernel, acceptor: Acceptor) -> None:
    kernel.says_who = False
    one = opened(acceptor, "p")
    assert kernel.infos == 1 and (acceptor._ports["p"].kernel, acceptor._ports["p"].node) == (1, "n1")
    kernel.listen("p")
    until(lambda: one.lost == 1, "it hears that another one has it")


def test_what_was_granted_is_granted_again_after_a_restart(kernel: Kernel, acceptor: Acceptor) -> None:
    opened(acceptor, "p")
    acceptor.grant("p", "bob")
    acceptor.grant("p", "carol")
    acceptor.revoke("p", "carol")
    kernel.grants.clear()
    kernel.restart()
    until(lambda: "p" in kernel.ports and not acceptor._down, "it is open again")
    assert kernel.grants == [("p", "bob")]


@pytest.mark.parametrize("refusal", [Unavailable("no"), NotFound("another kernel, which knows of no such port")])
def test_what_opens_no_port_leaves_no_descriptor(kernel: Kernel, acceptor: Acceptor, refusal: UniosError) -> None:
    before = descriptors()
    for kernel.given, why in ((0, "may have no more than"), (2, "something else")):
        with pytest.raises(ProtocolError, match=why):
            opened(acceptor, "p")
        kernel.ports.pop("p").close()
        assert descriptors() <= before
    kernel.given = 1
    one = opened(acceptor, "p")
    acceptor.grant("p", "bob")
    kernel.refused["grants"] = refusal
    before = descriptors()
    kernel.restart()
    until(lambda: len(kernel.asked) >= 6, "it is tried again and again")
    until(lambda: len(descriptors() - before) <= 1, "what the try that is under way has is closed, and no earlier one has left anything")
    del kernel.refused["grants"]
    until(lambda: "p" in kernel.ports and not acceptor._down, "it is open again")
    connect(kernel, "p")
    until(lambda: one.taken == 1, "it takes a connection in")


def test_a_stamp_that_is_none_a_connection_without_its_descriptor_and_one_that_nobody_can_take_harm_no_other(
    kernel: Kernel, acceptor: Acceptor
) -> None:
    one = opened(acceptor, "p")
    before = descriptors()
    for packet in (b"nonsense", msgspec.msgpack.encode({"connection": "x"})):
        near, far = socket.socketpair()
        socket.send_fds(kernel.ports["p"], [packet], [far.fileno()])
        near.close()
        far.close()
    kernel.ports["p"].send(msgspec.msgpack.encode(Accepted(1, "p", "ann", False, "n1")))
    accepted = acceptor._ports["p"].accepted
    refused: list[int] = []

    def refuses(_stamp: Accepted, sock: socket.socket, _node: str) -> None:
        refused.append(1)
        sock.close()
        raise OSError("no more descriptors")

    acceptor._ports["p"].accepted = refuses
    connect(kernel, "p")
    until(lambda: bool(refused), "it is not taken")
    acceptor._ports["p"].accepted = accepted
    connect(kernel, "p")
    until(lambda: one.taken == 1, "the next one is taken")
    assert descriptors() <= before
