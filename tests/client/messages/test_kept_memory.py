"""Memory of messages: what is handed over is what was there then, and what nobody uses is given back."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.descriptors import descriptors
from unios.client.messages import memory
from unios.wire.values import Value

SIZE = 300_000


def handed_over(buffer: memoryview) -> list[memoryview]:
    """Send a buffer to oneself, as a program of the same user and node."""
    carried = memory.carry([buffer], local=True, trusted=True)
    try:
        return memory.receive(carried.places, carried.descriptors, memoryview(b""), trusted=True)
    finally:
        carried.freeze()


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    gc.collect()
    before = descriptors()
    yield
    gc.collect()
    assert descriptors() <= before


def test_a_buffer_that_is_gone_leaves_neither_descriptor_nor_memory() -> None:
    for _ in range(50):
        buffer = memory.allocate(SIZE)
        buffer[:4] = b"said"
        assert bytes(handed_over(buffer)[0][:4]) == b"said"
    del buffer
    gc.collect()
    assert "unios-buffer" not in Path("/proc/self/maps").read_text()


def test_what_is_written_after_sending_is_not_seen_by_who_received_it() -> None:
    buffer = memory.allocate(SIZE)
    buffer[0] = 1
    [received] = handed_over(buffer)
    buffer[0] = 2
    assert received[0] == 1
    received[1] = 9
    assert buffer[1] == 0


def test_a_buffer_that_was_written_to_after_sending_is_sent_as_it_is_then() -> None:
    buffer = memory.allocate(SIZE)
    buffer[0] = 1
    handed_over(buffer)
    buffer[0] = 2
    assert handed_over(buffer)[0][0] == 2


def test_what_is_only_kept_is_handed_on_without_a_copy() -> None:
    buffer = memory.allocate(SIZE)
    buffer[0] = 7
    carried = memory.carry([buffer], local=True, trusted=True)
    [kept] = memory.receive(carried.places, carried.descriptors, memoryview(b""), trusted=True, kept=True)
    carried.freeze()
    for _ in range(3):
        again = memory.carry([kept], local=True, trusted=True)
        assert not again.own and os.fstat(again.descriptors[0]).st_size >= SIZE
        assert memory.receive(again.places, again.descriptors, memoryview(b""), trusted=True)[0][0] == 7
        again.freeze()


def test_what_was_gathered_here_is_handed_on_without_a_copy_once_it_is_complete() -> None:
    room = memory.gather(SIZE)
    room[0] = 5
    whole = memory.settle(memoryview(room))
    for _ in range(2):
        carried = memory.carry([whole], local=True, trusted=True)
        assert not carried.own
        assert memory.receive(carried.places, carried.descriptors, memoryview(b""), trusted=True)[0][0] == 5
        carried.freeze()


def test_only_what_is_kept_or_cannot_be_written_to_is_taken_for_fixed() -> None:
    born = memory.allocate(SIZE)
    assert not memory.is_fixed(born) and not memory.is_fixed(memoryview(bytearray(SIZE)))
    assert memory.is_fixed(memoryview(bytes(SIZE))) and memory.is_fixed(born.toreadonly())
    assert memory.is_fixed(memory.settle(born)) and memory.is_fixed(born[10:20])


def test_what_is_kept_is_not_copied_to_be_sent_again() -> None:
    kept, ordinary = memory.settle(memory.allocate(SIZE)), memoryview(bytearray(SIZE))
    value = Value(msgspec.Raw(b"\xc0"), [kept, ordinary]).fixed(memory.is_fixed)
    assert value.buffers[0] is kept and value.buffers[1].readonly and value.buffers[1] == ordinary


class Interrupted(Exception):
    pass


def test_a_message_that_is_broken_off_leaves_no_memory_file(monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(_descriptor: int, _buffers: object) -> list[int]:
        raise Interrupted

    memory.carry([memoryview(bytearray(SIZE))], local=True, trusted=True)  # and never sent
    monkeypatch.setattr(memory, "fill", fill)
    with pytest.raises(Interrupted):
        memory.carry([memoryview(bytearray(SIZE))], local=True, trusted=True)
