"""A reference brings the memory of what this process has put: it is the same bytes, is closed once, and nothing depends on its coming."""

import array
import gc
import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator

import pytest

from tests.client.messages.rig import Rig, until
from tests.client.messages.test_memory import free_descriptors
from tests.descriptors import descriptors
from unios.client.messages import bringing, memory
from unios.client.messages.intake import Intake
from unios.client.messages.line import Line
from unios.errors import ProtocolError
from unios.wire.messages import Brought, Request, pack

MEGA = 1_000_000
NOTHING = pack(None)


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[], object]]]:
    """What is to be done a moment later; the test does it."""
    gc.collect()
    threads, before = set(threading.enumerate()), descriptors()
    works: list[Callable[[], object]] = []
    monkeypatch.setattr(bringing, "soon", lambda work: works.append(work) or True)
    yield works
    for work in works:
        work()
    until(lambda: set(threading.enumerate()) <= threads, "the threads have ended")  # each closes the connection that it served
    gc.collect()
    assert descriptors() <= before, "descriptors are left"
    assert not bringing._put and not bringing._came and not bringing.lent


def born(text: bytes = b"brought", size: int = MEGA) -> memoryview:
    buffer = memory.allocate(size)
    buffer[: len(text)] = text
    return buffer


def hand_over(buffer: memoryview) -> None:
    memory.carry([buffer], local=True, trusted=True).freeze()


def put(id_: str, buffer: memoryview) -> None:
    was_put = bringing.put(id_, memoryview(b"body"), [buffer])
    hand_over(buffer)
    was_put()


def file_of(buffer: memoryview) -> int:
    place = memory.place_of(buffer)
    assert place is not None
    return os.dup(place[0])


def test_what_was_put_is_brought_as_it_was_then_and_as_long_as_it_is_in_use(later: list[Callable[[], object]]) -> None:
    buffer = born()
    put("a", buffer)
    buffer[:7] = b"changed"
    bringing.lend("a")
    found = bringing.lent_here()
    assert found is not None and found[0] == Brought("a", b"body", 0, MEGA)
    bringing.came(found[0], deque([os.dup(found[1])]))
    taken = bringing.take("a")
    assert taken is not None and taken[0] == b"body" and len(taken[1]) == MEGA and bytes(taken[1][:7]) == b"brought"
    taken[1][:1] = b"x"  # which nobody else sees
    assert bytes(buffer[:7]) == b"changed"
    bringing.lend("a")
    del found, buffer
    assert bringing.lent_here() is None, "its buffer is gone, and its descriptor is another's"
    bringing.lend("a")
    assert not bringing.lent


def test_what_was_not_handed_over_is_not_brought(later: list[Callable[[], object]]) -> None:
    """What is written later would be seen, or there is no file of it."""
    for number, (body, buffers) in enumerate(
        (
            (b"body", [born()]),  # and stays shared
            (b"body", [memoryview(bytearray(MEGA))]),
            (b"body", [born(), born()]),
            (b"body", []),
            (bytes(bringing.BODY_BYTES_MAX + 1), [born()]),
        )
    ):
        was_put = bringing.put(f"{number}", memoryview(body), buffers)
        if number:
            memory.carry(buffers, local=True, trusted=True).freeze()
        was_put()
        bringing.lend(f"{number}")
        assert bringing.lent_here() is None, number


def test_what_another_thread_lends_is_not_sent_by_this_one(later: list[Callable[[], object]]) -> None:
    buffer = born()
    put("a", buffer)
    bringing.lend("a")
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(bringing.lent_here()))
    thread.start()
    thread.join()
    assert found == [None] and bringing.lent_here() is not None


def test_what_nobody_takes_in_time_is_closed(later: list[Callable[[], object]]) -> None:
    before = descriptors()
    bringing.came(Brought("a", b"", 0, MEGA), deque([file_of(born())]))
    assert len(descriptors() - before) == 1
    later.pop()()
    assert descriptors() <= before and bringing.take("a") is None


def test_nothing_is_kept_where_nobody_closes_it(later: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> None:
    for soon in (None, lambda _work: False):
        monkeypatch.setattr(bringing, "soon", soon)
        before = descriptors()
        bringing.came(Brought("a", b"", 0, MEGA), deque([file_of(born())]))
        assert descriptors() <= before and bringing.take("a") is None


def test_what_is_no_memory_or_too_short_is_as_if_it_had_not_come(later: list[Callable[[], object]]) -> None:
    before = descriptors()
    for opened, size in ((lambda: os.open(os.devnull, os.O_RDWR), 10), (lambda: file_of(born()), 2 * MEGA), (lambda: file_of(born()), -1)):
        bringing.came(Brought("a", b"", 0, size), deque([opened()]))
        assert bringing.take("a") is None and descriptors() <= before


def test_a_message_with_an_object_is_taken_in_and_garbage_is_refused(later: list[Callable[[], object]]) -> None:
    ours, theirs = socket.socketpair()
    brought = Brought("a", b"body", 0, MEGA)
    intake, before = Intake(trusted=True), descriptors()

    def send() -> None:
        descriptor = file_of(born())
        ours.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])
        os.close(descriptor)

    send()
    assert len(intake.receive(theirs, memoryview(bytearray(10)))) == 1
    assert intake.value(Request(1, "op", descriptors=1, brought=brought)).body == NOTHING
    taken = bringing.take("a")
    assert taken is not None and bytes(taken[1][:7]) == b"brought"
    del taken
    with pytest.raises(ProtocolError):
        intake.value(Request(1, "op", descriptors=1, brought=brought))  # none has come
    send()
    intake.receive(theirs, memoryview(bytearray(10)))
    for message in (
        Request(1, "op", descriptors=2, brought=brought),
        Request(1, "op", brought=brought, buffers=((memory.INLINE, 0, 0),)),
        Request(1, "op", descriptors=1, brought=brought, buffers=((0, 0, MEGA),)),
    ):
        with pytest.raises(ProtocolError):
            intake.value(message)
    intake.release()
    stranger = Intake(trusted=False)
    send()
    stranger.receive(theirs, memoryview(bytearray(10)))
    with pytest.raises(ProtocolError):
        stranger.value(Request(1, "op", descriptors=1, brought=brought))
    stranger.release()
    send()
    with free_descriptors(0):
        intake.receive(theirs, memoryview(bytearray(10)))
    assert intake.value(Request(1, "op", descriptors=1, brought=brought)).trusted, "nothing is missing: whoever gets it asks"
    assert bringing.take("a") is None
    gc.collect()
    assert descriptors() <= before
    ours.close()
    theirs.close()


class Reference:
    """As one to an object; what is pickled here is lent."""

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        bringing.lend("a")
        return str, ("a",)


def got(_id: str) -> str:
    found = bringing.take("a")
    return "" if found is None else bytes(found[1][:7]).decode()


def test_a_call_brings_what_its_own_arguments_lend_once_and_never_to_others(
    later: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    rig, buffer = Rig(monkeypatch), born()
    put("a", buffer)
    with rig.server({"got": got}), rig.port() as port:
        assert [port.call("got", Reference()), port.call("got", ""), port.begin("got", Reference()).result()] == ["brought", "", "brought"]
        bringing.lend("a")  # to a file, say
        assert port.call("got", "") == ""
        assert not bringing.lent
    rig.local = False
    monkeypatch.setattr(Line, "send_bringing", lambda *_args: pytest.fail("it was brought to another node"))
    with rig.server({"got": got}, "elsewhere"), rig.port("elsewhere") as port:
        assert port.call("got", Reference()) == ""
    rig.cut()


def test_what_is_sent_again_after_a_break_goes_without(later: list[Callable[[], object]], monkeypatch: pytest.MonkeyPatch) -> None:
    rig, buffer, seen = Rig(monkeypatch), born(), list[str]()
    put("a", buffer)

    def cut(_id: str) -> str:
        seen.append(got(""))
        if len(seen) == 1:
            rig.cut()
        return "done"

    with rig.server({"cut": cut}), rig.port() as port:
        assert port.options(idempotent=True).call("cut", Reference()) == "done"
    assert seen[0] == "brought"
    rig.cut()
