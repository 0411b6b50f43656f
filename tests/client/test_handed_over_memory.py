"""Memory that was born shared and handed over: who has it never sees what is written afterwards, and nothing of it is left mapped."""

import contextlib
import os
from pathlib import Path

import pytest

from tests.client.messages.rig import until
from tests.descriptors import descriptors
from unios.client.messages import memory
from unios.wire.gathering import Gathering
from unios.wire.messages import Part

SIZES = [64 * 1024, 8 * 1024 * 1024]


def mapped(descriptor: int) -> int:
    """Return how many shared mappings of a memory file this process has."""
    inode = os.fstat(descriptor).st_ino
    return sum(line.split()[4] == str(inode) and "s" in line.split()[1] for line in Path("/proc/self/maps").read_text().splitlines())


@pytest.mark.parametrize("size", SIZES)
def test_what_is_written_after_the_hand_over_is_seen_here_only(size: int) -> None:
    buffer = memory.allocate(size)
    buffer[:] = b"a" * size
    born, _offset = memory._born_of(buffer) or pytest.fail("it was not born in shared memory")
    born.freeze()
    assert buffer[0] == buffer[size - 1] == ord("a")
    buffer[:] = b"b" * size
    assert os.pread(born.descriptor, size, 0) == b"a" * size
    assert bytes(buffer) == b"b" * size


def test_what_was_set_aside_is_unmapped() -> None:
    buffer = memory.allocate(SIZES[1])
    buffer[:] = b"a" * SIZES[1]
    born, _offset = memory._born_of(buffer) or pytest.fail("it was not born in shared memory")
    born.freeze()
    until(lambda: mapped(born.descriptor) == 0, "no shared mapping is left")


def test_what_a_forked_child_has_as_well_is_copied_when_it_is_handed_over() -> None:
    buffer = memory.allocate(SIZES[1])
    buffer[:] = b"a" * SIZES[1]
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(writer)  # or it would not see the end
        buffer[0] = ord("b") if os.read(reader, 1) else buffer[0]
        os._exit(0)
    os.close(reader)
    carried = memory.carry([buffer], local=True, trusted=True)
    os.write(writer, b"x")
    os.close(writer)
    os.waitpid(pid, 0)
    assert buffer[0] == ord("b"), "it is shared, as memory of before a fork is"
    assert carried.born == () and os.pread(carried.own.descriptor, 1, 0) == b"a"
    carried.freeze()
    assert len(memory.carry([memory.allocate(SIZES[1])], local=True, trusted=True).born) == 1, "what is born later is the parent's alone"


def test_what_was_set_aside_is_not_a_forked_childs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_TAKEN_DOWN_AFTER_S", 0.5)
    buffer = memory.allocate(SIZES[1])
    born, _offset = memory._born_of(buffer) or pytest.fail("it was not born in shared memory")
    born.freeze()
    assert mapped(born.descriptor) == 1, "it is not taken down yet"
    pid = os.fork()
    if not pid:
        os._exit(mapped(born.descriptor))
    assert os.waitpid(pid, 0)[1] == 0
    until(lambda: mapped(born.descriptor) == 0, "no shared mapping is left")


def test_where_page_tables_cannot_be_set_aside_the_hand_over_is_only_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MOVED_MIN", 1 << 60)
    test_what_is_written_after_the_hand_over_is_seen_here_only(SIZES[1])
    with contextlib.ExitStack() as stack:
        for _ in range(memory._SET_ASIDE_MAX):
            memory._setting_aside.acquire()
            stack.callback(memory._setting_aside.release)
        monkeypatch.undo()
        test_what_is_written_after_the_hand_over_is_seen_here_only(SIZES[1])


@pytest.mark.parametrize("size", [10, 5 * 1024 * 1024])
def test_parts_are_put_together_whatever_their_size(size: int) -> None:
    data = os.urandom(size)
    gathering = Gathering(size)
    for start in range(0, size, 1_000_000):
        gathering.add(Part(1, size, memoryview(data[start : start + 1_000_000])))
    assert gathering.take(1, size) == data


def test_what_is_let_go_leaves_neither_memory_nor_descriptors_and_its_file_outlives_the_mapping(monkeypatch: pytest.MonkeyPatch) -> None:
    before = descriptors()
    kept = []
    for _ in range(2):
        descriptor = os.memfd_create("unios-test")
        os.ftruncate(descriptor, SIZES[1])
        whole = memory.keep(descriptor)
        kept += [whole[: SIZES[1] // 2], whole[SIZES[1] // 2 :]]
        del whole
    kept.append(memoryview(b"small"))
    mapped: list[int] = []

    def close(descriptor: int) -> None:
        if "unios-test" in os.readlink(f"/proc/self/fd/{descriptor}"):
            mapped.append(Path("/proc/self/maps").read_text().count("unios-test"))
        closing(descriptor)

    closing = os.close
    monkeypatch.setattr(memory.os, "close", close)
    memory.let_go(kept)
    assert kept == []
    assert mapped == [0, 0], "the last descriptors are closed when nothing is mapped, for that takes time and stops no other thread"
    assert descriptors() <= before


def test_a_buffer_of_fewer_bytes_than_none_is_refused() -> None:
    assert memory.allocate(0).nbytes == 0
    with pytest.raises(ValueError, match="-1 bytes"):
        memory.allocate(-1)
