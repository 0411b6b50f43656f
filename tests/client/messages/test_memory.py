"""Memory: buffers handed over as descriptors; whoever lies about them is refused, and nothing is left open."""

import contextlib
import errno
import fcntl
import gc
import mmap
import os
import pickle
import resource
import socket
import sys
import threading
import time
import types
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.messages.rig import Rig, until
from tests.descriptors import descriptors
from unios.client.messages import intake as intakes
from unios.client.messages import memory
from unios.client.messages.intake import Intake
from unios.client.messages.line import Line
from unios.client.messages.memory import HAND_OVER_BYTES, INLINE, allocate, carry, receive
from unios.errors import CallerError, ProtocolError
from unios.limits import FDS_MAX, MESSAGE_BYTES_STRANGER_MAX
from unios.wire.messages import Fault, Reply, Request
from unios.wire.values import decode, encode

SIZE = 4 * 1024 * 1024
ALL = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def mappings() -> int:
    with open("/proc/self/maps") as file:
        return sum("memfd:unios" in line for line in file)


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    gc.collect()
    before, mapped = descriptors(), mappings()
    yield
    gc.collect()
    until(lambda: descriptors() <= before and mappings() <= mapped, "all is closed and unmapped")  # a thread takes down what was set aside
    memory._tidy()
    assert not memory._born


def pair(*, local: bool = True, trusted: bool = True) -> tuple[Line, Line]:
    left, right = socket.socketpair()
    return Line(left, local=local, trusted=trusted), Line(right, local=local, trusted=trusted)


def sent(one: Line, other: Line, value: object) -> memoryview:
    """Send a buffer in a message, and return what arrives."""
    encoded = encode(value, trusted=True)
    one.send_value(lambda places, count: Request(1, "op", encoded.body, buffers=places, descriptors=count), encoded.buffers)
    heard: list[Any] = []
    while not heard:
        heard = other.read()
    ((message, found),) = heard
    assert isinstance(message, Request) and found is not None
    return memoryview(decode(found, trusted=True))


def inode(descriptor: int) -> int:
    return os.fstat(descriptor).st_ino


def test_a_buffer_born_in_shared_memory_is_not_copied_and_what_is_written_later_is_not_seen() -> None:
    one, other = pair()
    buffer = allocate(SIZE)
    buffer[:5] = b"first"
    ((_at, _mapping, born),) = memory._born
    carried = carry([buffer[:5000], buffer[8192:]], local=True, trusted=True)
    assert carried.places == ((2, 0, 5000), (2, 8192, SIZE - 8192)) or carried.places == ((0, 0, 5000), (0, 8192, SIZE - 8192))
    assert carried.descriptors == (born.descriptor,) and not carried.own
    found = sent(one, other, buffer)
    buffer[:5] = b"later"
    assert bytes(found[:5]) == b"first"
    found[5:9] = b"mine"
    assert bytes(buffer[5:9]) == bytes(4)
    one.release(), other.release()


def test_a_buffer_that_was_handed_over_before_is_sent_as_it_is_now() -> None:
    one, other = pair()
    buffer = allocate(SIZE)
    for text in (b"first", b"later"):
        buffer[:5] = text
        found = sent(one, other, buffer)
        assert bytes(found[:5]) == text
    one.release(), other.release()


@pytest.mark.parametrize("local", [True, False])
def test_other_buffers_are_copied_once_and_arrive_the_same(local: bool) -> None:
    one, other = pair(local=local)
    buffer = bytearray(os.urandom(100_000))
    found = sent(one, other, pickle.PickleBuffer(buffer))
    assert found == buffer
    if local:
        big = bytearray(HAND_OVER_BYTES + 1)
        found = sent(one, other, pickle.PickleBuffer(big))
        found[0] = 1
        assert big[0] == 0
    one.release(), other.release()


def test_as_many_born_buffers_as_go_in_one_message_and_more() -> None:
    one, other = pair()
    buffers = [allocate(40_000) for _ in range(FDS_MAX + 5)]
    for number, buffer in enumerate(buffers):
        buffer[0] = number
    encoded = encode(buffers, trusted=True)
    one.send_value(lambda places, count: Request(1, "op", encoded.body, buffers=places, descriptors=count), encoded.buffers)
    ((_message, found),) = other.read()
    assert found is not None
    assert [buffer[0] for buffer in decode(found, trusted=True)] == list(range(FDS_MAX + 5))
    one.release(), other.release()


def test_nothing_born_here_goes_uncopied_to_another_user() -> None:
    buffer = allocate(SIZE)
    carried = carry([buffer], local=True, trusted=False)
    assert carried.own is not None
    assert fcntl.fcntl(carried.own.descriptor, fcntl.F_GET_SEALS) & ALL == ALL
    (found,) = receive(carried.places, carried.descriptors, memoryview(b""), trusted=False)
    assert found == buffer
    carried.freeze()


def test_no_memory_for_a_message_is_said() -> None:
    before = descriptors()
    with pytest.raises(MemoryError, match="no shared memory"):
        allocate(1 << 62)
    assert descriptors() <= before
    assert len(allocate(0)) == 0


def memfd(size: int, seals: int) -> int:
    descriptor = os.memfd_create("unios-test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


@pytest.mark.parametrize(
    ("seals", "trusted"), [(0, True), (fcntl.F_SEAL_GROW, True), (fcntl.F_SEAL_SHRINK, False), (0, False), (fcntl.F_SEAL_WRITE, False)]
)
def test_memory_that_its_sender_can_still_change_is_refused(seals: int, trusted: bool) -> None:
    descriptor = memfd(4096, seals)
    with pytest.raises(ProtocolError, match="can still change"):
        receive([(0, 0, 4096)], [descriptor], memoryview(b""), trusted=trusted)
    os.close(descriptor)


def test_what_is_no_memory_is_refused() -> None:
    reading, writing = os.pipe()
    file = os.open("/dev/zero", os.O_RDWR)
    empty = memfd(0, ALL)
    for descriptor in (reading, writing, file, empty):
        with pytest.raises(ProtocolError):
            receive([(0, 0, 1)], [descriptor], memoryview(b""), trusted=False)
        os.close(descriptor)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 2), st.integers(-10, 1 << 63), st.integers(-10, 1 << 63)), min_size=1, max_size=4))
def test_whatever_places_are_told_only_bytes_that_were_sent_are_read(places: list[tuple[int, int, int]]) -> None:
    descriptor = memfd(8192, ALL)
    inline = memoryview(bytes(100))
    try:
        found = receive(places, [descriptor], inline, trusted=False)
        assert [len(one) for one in found] == [size for _number, _offset, size in places]
        assert sum(size for number, _offset, size in places if number == INLINE) <= 100
    except ProtocolError:
        pass
    finally:
        os.close(descriptor)


def test_a_strangers_message_is_bounded_though_its_memory_file_has_holes() -> None:
    descriptor = memfd(1 << 40, ALL)
    with pytest.raises(ProtocolError, match="over the limit"):
        receive([(0, 0, MESSAGE_BYTES_STRANGER_MAX + 1)], [descriptor], memoryview(b""), trusted=False)
    os.close(descriptor)


@pytest.mark.parametrize("announced", [0, 2, 3, -1])
def test_descriptors_that_were_not_announced_or_not_sent_end_the_connection_and_are_closed(announced: int) -> None:
    one, other = pair()
    carried = carry([memoryview(bytearray(SIZE))], local=True, trusted=True)
    message = Request(1, "op", buffers=((0, 0, SIZE),), descriptors=announced)
    from unios.wire.frames import frame
    from unios.wire.messages import encode as packed

    socket.send_fds(one.sock, [frame(packed(message))], list(carried.descriptors))
    carried.freeze()
    with pytest.raises(ProtocolError):
        other.read()
    assert other.is_closed
    one.release(), other.release()


def test_descriptors_that_no_message_claims_are_bounded_and_closed() -> None:
    one, other = pair()
    reading, writing = os.pipe()
    from unios.wire.frames import frame
    from unios.wire.messages import Cancel
    from unios.wire.messages import encode as packed

    with pytest.raises(ProtocolError, match="no message claims"):  # noqa: PT012
        for _ in range(10):
            socket.send_fds(one.sock, [frame(packed(Cancel(1)))], [reading] * FDS_MAX)
            other.read()
    os.close(reading), os.close(writing)
    one.release(), other.release()


def test_a_forked_child_has_what_was_born_before_as_ordinary_memory() -> None:
    buffer = allocate(SIZE)
    buffer[:6] = b"parent"
    child = os.fork()
    if child == 0:
        carried = carry([buffer], local=True, trusted=True)
        os._exit(0 if carried.own and bytes(buffer[:6]) == b"parent" else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    carried = carry([buffer], local=True, trusted=True)
    assert carried.own and not carried.born, "a child that lives could write to it"
    carried.freeze()


def test_something_else_at_the_address_of_a_buffer_that_is_gone_is_not_taken_for_it() -> None:
    for _ in range(20):
        buffer = allocate(SIZE)
        del buffer
        gc.collect()
        other = mmap.mmap(-1, SIZE)
        other[:3] = b"new"
        carried = carry([memoryview(other)], local=True, trusted=True)
        assert carried.own and os.pread(carried.own.descriptor, 3, 0) == b"new"
        carried.freeze()
        other.close()


def test_no_memory_to_copy_into_is_the_callers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_descriptor: int, _data: object, _at: int) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(CallerError, match="no memory for"):
        carry([memoryview(bytearray(SIZE))], local=True, trusted=True)


def test_a_large_argument_goes_when_it_was_answered_and_not_when_the_next_message_comes(rig: Rig) -> None:
    with rig.server({"size": len}), rig.port() as port:
        assert port.size(bytearray(SIZE)) == SIZE
        until(lambda: not mappings(), "the memory is free")


def test_no_descriptor_is_closed_twice_when_a_connection_is_let_go_of_by_another_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its number may be another file's by then."""
    closed: list[int] = []
    monkeypatch.setattr(intakes, "os", types.SimpleNamespace(close=closed.append))
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(1_000):
            intake = Intake(trusted=True)
            intake._descriptors.extend(range(1_000_000, 1_000_000 + FDS_MAX))
            gate = threading.Barrier(2)

            def let_go(intake: Intake = intake, gate: threading.Barrier = gate) -> None:
                gate.wait()
                intake.release()

            other = threading.Thread(target=let_go)
            other.start()
            gate.wait()
            with contextlib.suppress(ProtocolError):
                for id_ in range(FDS_MAX):
                    intake.value(Request(id_, "op", descriptors=1))
            other.join()
            assert sorted(closed) == list(range(1_000_000, 1_000_000 + FDS_MAX))
            closed.clear()
    finally:
        sys.setswitchinterval(before)


@contextlib.contextmanager
def free_descriptors(count: int) -> Iterator[None]:
    """This process may have so many more descriptors and no others."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = [os.dup(0) for _ in range(64)]  # so that all below are in use
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(taken) + 1, before[1]))
    for descriptor in taken[:count]:
        os.close(descriptor)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        for descriptor in taken[count:]:
            os.close(descriptor)


@pytest.mark.parametrize("free", [0, 1])
def test_an_answer_that_finds_no_free_descriptor_is_told_as_such_and_the_connection_goes_on(free: int) -> None:
    """`free` 1: the file is taken, and to map it takes another one."""
    ours, theirs = socket.socketpair()
    sends = Line(ours, trusted=True, local=True)
    reads = Line(theirs, trusted=True, local=True)
    large = encode(pickle.PickleBuffer(bytes(SIZE)), trusted=True)
    for number in (1, 2):
        sends.send_value(lambda places, count, number=number: Reply(number, large.body, descriptors=count, buffers=places), large.buffers)
    before = descriptors()
    with free_descriptors(free):
        [(first, value)] = reads.read(time.monotonic() + 20)
    assert isinstance(first, Fault) and first.id == 1 and first.code == "outcome-unknown" and "ulimit -n" in first.text and value is None
    assert descriptors() <= before
    [(second, value)] = reads.read(time.monotonic() + 20)
    assert isinstance(second, Reply) and second.id == 2 and value is not None and bytes(decode(value, trusted=True)) == bytes(SIZE)
    del value
    for line in (sends, reads):
        line.release()


def test_an_answer_for_which_there_is_no_memory_is_told_as_such_and_the_connection_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_args: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    ours, theirs = socket.socketpair()
    sends = Line(ours, trusted=True, local=True)
    reads = Line(theirs, trusted=True, local=True)
    large = encode(pickle.PickleBuffer(bytes(SIZE)), trusted=True)
    for number in (1, 2):
        sends.send_value(lambda places, count, number=number: Reply(number, large.body, descriptors=count, buffers=places), large.buffers)
    before = descriptors()
    with monkeypatch.context() as patch:
        patch.setattr(memory.mmap, "mmap", none)
        [(first, value)] = reads.read(time.monotonic() + 20)
    assert isinstance(first, Fault) and first.id == 1 and first.code == "outcome-unknown" and value is None
    assert f"no memory in this program for the {SIZE} bytes" in first.text and "ulimit -v" in first.text
    [(second, value)] = reads.read(time.monotonic() + 20)
    assert isinstance(second, Reply) and second.id == 2 and value is not None
    del value
    assert descriptors() <= before
    for line in (sends, reads):
        line.release()
