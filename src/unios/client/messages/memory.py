"""Memory: large buffers of a message in memory files, handed over as descriptors and not copied.

A buffer that was born in shared memory (`allocate`) is handed over as it is, once, to a process of the same user; its pages in this process become a private
copy-on-write view, so whoever reads it never sees what is written here later. Any other, and one that was handed over before, is copied into a new memory file
first. A reader maps privately: it may write, and nobody else sees that. A program that only keeps what it receives (`keep`) hands it on uncopied, ever again.
What is taken from another user is sealed against shrinking and writing, or refused: a mapping of a file that shrinks kills its reader.
"""

import _thread
import bisect
import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import queue
import stat
import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from unios.errors import CallerError, ProtocolError
from unios.limits import FDS_MAX, MESSAGE_BYTES_MAX, MESSAGE_BYTES_STRANGER_MAX

HAND_OVER_BYTES: Final = 128 * 1024
"""Buffers of so many bytes in all are handed over in a memory file; less is quicker through the socket."""
_PAGE: Final = mmap.PAGESIZE
_SHRINK_GROW: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_FIXED: Final = 0x10
_NO_RESERVE: Final = 0x4000
_MOVE_AND_KEEP: Final = 1 | 2 | 4
"""mremap: to a fixed place, and what was there stays mapped, empty."""
_DONT_NEED: Final = 4
_DONT_FORK: Final = 10
_HUGE: Final = 2 * 1024 * 1024
"""Page tables move as they are where both places are equal modulo this."""
_MOVED_MIN: Final = 4 * 1024 * 1024
_TAKEN_DOWN_AFTER_S: Final = 0.005
"""Not at once: whoever reads what was handed over, and answers, wants the processors now."""
_SET_ASIDE_MAX: Final = 8
"""So many at a time; others are taken down where they are, so that what is not taken down yet is bounded. (The thread that does it needs Python's lock between
two, and a program that fills a buffer may keep that for 30 ms.)"""
_libc = ctypes.CDLL(None, use_errno=True)
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.mremap.restype = ctypes.c_void_p
_libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
_FAILED: Final = ctypes.c_void_p(-1).value
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
Place = tuple[int, int, int]
"""(descriptor's number in the message, offset, size)"""


class _Born:
    """A memory file that is mapped here. Does not keep its mapping: that lives as long as a buffer of it, and takes this along."""

    __slots__ = ("address", "descriptor", "is_forked", "is_kept", "is_shared", "mapping", "size")

    def __init__(self, mapping: mmap.mmap, descriptor: int, *, is_shared: bool = True) -> None:
        """Takes the descriptor over. `is_shared`: not frozen yet."""
        weakref.finalize(mapping, os.close, descriptor)
        self.mapping = weakref.ref(mapping, _gone.append)
        self.size, self.descriptor = len(mapping), descriptor
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self.is_shared = is_shared
        self.is_forked = False
        """A child has the same memory: it could write to what was handed over, so that is a copy."""
        self.is_kept = not is_shared
        """Nobody writes to it here, so what is in the file is what is seen here."""

    def freeze(self) -> None:
        """From now on what is written here is seen here only. Idempotent."""
        if self.is_shared:
            if self.size >= _MOVED_MIN:
                self._set_aside()
            flags = mmap.PROT_READ | mmap.PROT_WRITE
            if _libc.mmap(self.address, self.size, flags, mmap.MAP_PRIVATE | _FIXED, self.descriptor, 0) != self.address:
                raise MemoryError("a buffer cannot be made private")
            self.is_shared = False

    def _set_aside(self) -> None:
        """Move the page tables elsewhere, to be taken down by a thread: to do that here takes 10 ms for 100 MB. Where Linux cannot, nothing has happened."""
        if not _setting_aside.acquire(blocking=False):
            return
        room = self.size + 2 * _HUGE
        place = _libc.mmap(None, room, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE, -1, 0)
        if place == _FAILED:
            _setting_aside.release()
            return
        aside = (place + _HUGE - 1) // _HUGE * _HUGE + self.address % _HUGE
        _libc.mremap(self.address, self.size, self.size, _MOVE_AND_KEEP, aside)
        _libc.madvise(place, room, _DONT_FORK)  # a child has nobody who takes it down
        _down.take(Room(place, room, aside, self.size), _setting_aside)


class Room(NamedTuple):
    """Addresses where page tables were set aside, and those within that are used; bytes."""

    place: int
    size: int
    used: int
    used_size: int


class _Down:
    """A thread, begun with the first of it, that takes down what was set aside.

    Emptied first, and with one call, for which Linux (6.18 does) may lock that mapping alone: else whoever maps memory meanwhile waits (4 ms for 100 MB).
    """

    def __init__(self) -> None:
        self._has_begun = False
        self._queue: queue.SimpleQueue[tuple[float, Room, threading.Semaphore]] = queue.SimpleQueue()

    def take(self, room: Room, slot: threading.Semaphore) -> None:
        """Have it done a moment later; then the slot is free."""
        try:
            if not self._has_begun:
                _thread.start_new_thread(self._run, ())  # threading.Thread waits until it runs
                self._has_begun = True
        except RuntimeError:  # no more threads to be had
            _libc.munmap(room.place, room.size)
            slot.release()
        else:
            self._queue.put((time.monotonic() + _TAKEN_DOWN_AFTER_S, room, slot))

    def _run(self) -> None:
        while True:
            due, room, slot = self._queue.get()
            if (early := due - time.monotonic()) > 0:
                time.sleep(early)
            _libc.madvise(room.used, room.used_size, _DONT_NEED)
            _libc.munmap(room.place, room.size)
            slot.release()


_born: list[tuple[int, "weakref.ref[mmap.mmap]", _Born]] = []
"""By address."""
_gone: "deque[weakref.ref[mmap.mmap]]" = deque()
"""Mappings that have ended: a callback of the collector takes no lock, for it may come while this thread holds it."""
_lock = threading.Lock()
_setting_aside = threading.BoundedSemaphore(_SET_ASIDE_MAX)
_down = _Down()


def allocate(size: int) -> memoryview:
    """Return a buffer of `size` zero bytes in shared memory: sent in a message of this machine it is not copied. MemoryError if there is none, ValueError
    below 0."""
    if size < 0:
        raise ValueError(f"a buffer of {size} bytes: it cannot have fewer than none")
    if not size:
        return memoryview(bytearray(0))
    rounded = (size + _PAGE - 1) // _PAGE * _PAGE
    try:
        descriptor = os.memfd_create("unios-buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    except OSError as error:
        raise MemoryError(f"no shared memory of {size} bytes: {error.strerror}") from error
    try:
        os.ftruncate(descriptor, rounded)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SHRINK_GROW)
        mapping = mmap.mmap(descriptor, rounded)
    except (OSError, ValueError, OverflowError) as error:
        os.close(descriptor)
        raise MemoryError(f"no shared memory of {size} bytes: {error}") from error
    _register(_Born(mapping, descriptor))
    return memoryview(mapping)[:size]


def gather(size: int) -> memoryview:
    """Return room for buffers that come in parts and are kept: in shared memory if they are large. MemoryError if there is none."""
    return allocate(size) if size >= HAND_OVER_BYTES else memoryview(bytearray(size))


def keep(descriptor: int) -> memoryview:
    """Return a file's bytes for a program that will not write to them: sent on they are not copied. Takes the descriptor over. OSError, ValueError."""
    try:
        mapping = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    _register(_Born(mapping, descriptor, is_shared=False))
    return memoryview(mapping)


def settle(buffer: memoryview) -> memoryview:
    """Return a buffer that was allocated here and is complete: nobody will write to it here, so it may be sent any number of times uncopied."""
    found = _born_of(buffer)
    if found is not None:
        found[0].freeze()
        found[0].is_kept = True
    return buffer


def is_fixed(buffer: memoryview) -> bool:
    """Return whether nobody can change what is in a buffer: it cannot be written to, or is only kept here."""
    if buffer.readonly:
        return True
    found = _born_of(buffer)
    return found is not None and found[0].is_kept


def let_go(buffers: list[memoryview]) -> None:
    """Forget these, which are kept here: their list is emptied. Memory that nobody else has is given back while the other threads of this process go on.

    The end of a mapping would stop them for that long (3 ms for 100 MB, at the speed of Linux): so the file outlives it, by another descriptor.
    """
    found = {id(one[0]): one[0] for one in map(_born_of, buffers) if one is not None}
    descriptors = []
    with contextlib.suppress(OSError):  # none is free: then it takes as long as it takes
        for born in found.values():
            descriptors.append(os.dup(born.descriptor))
    found.clear()
    buffers.clear()
    for descriptor in descriptors:
        os.close(descriptor)


def mapping_of(buffer: memoryview) -> mmap.mmap | None:
    """Return the mapping that a buffer lies in, if sending it now would not copy it."""
    found = _born_of(buffer)
    return None if found is None else found[0].mapping()


def place_of(buffer: memoryview) -> tuple[int, int] | None:
    """Return the file that a buffer lies in, if sending it now would not copy it, and at which offset. The descriptor is open as long as there is a buffer of it."""
    found = _born_of(buffer)
    return None if found is None else (found[0].descriptor, found[1])


def _register(born: _Born) -> None:
    with _lock:
        _tidy()
        bisect.insort(_born, (born.address, born.mapping, born), key=lambda entry: entry[0])


def _tidy() -> None:
    """Forget mappings that have ended: something else may lie there now."""
    if _gone:
        gone = {id(_gone[number]) for number in range(len(_gone))}
        _born[:] = [entry for entry in _born if id(entry[1]) not in gone]
        for _ in gone:
            _gone.popleft()


def _after_fork() -> None:
    """Let go of a lock that another thread of the parent held. What was born there is shared with the parent, so here it is ordinary memory."""
    global _lock, _setting_aside, _down
    _lock, _setting_aside, _down = threading.Lock(), threading.BoundedSemaphore(_SET_ASIDE_MAX), _Down()
    _born.clear()


def _has_forked() -> None:
    """What was born here and not handed over yet is a child's as well."""
    for _address, _mapping, born in _born.copy():
        born.is_forked = born.is_shared


os.register_at_fork(after_in_parent=_has_forked, after_in_child=_after_fork)


def _born_of(buffer: memoryview) -> tuple[_Born, int] | None:
    """Return what a buffer lies in and at which offset, if it was born in shared memory and not handed over yet, or is only kept here."""
    if not _born or not buffer.nbytes:
        return None
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if not buffer.readonly else _address(buffer)
    with _lock:
        _tidy()
        at = bisect.bisect_right(_born, address, key=lambda entry: entry[0]) - 1
        if at >= 0:
            born = _born[at][2]
            if address + buffer.nbytes <= born.address + born.size and (born.is_kept or (born.is_shared and not born.is_forked)):
                return born, address - born.address
    return None


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p),
        ("obj", ctypes.py_object),
        ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t),
        ("readonly", ctypes.c_int),
        ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p),
        ("internal", ctypes.c_void_p),
    ]


def _address(buffer: memoryview) -> int:
    """Return where a read-only buffer lies."""
    found = _Buffer()
    ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(buffer), ctypes.byref(found), 0)
    address = int(found.buf or 0)
    ctypes.pythonapi.PyBuffer_Release(ctypes.byref(found))
    return address


class _Own:
    """A memory file that was made for one message; closed with it, however its sending ends: a signal's handler may raise anywhere."""

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = -1

    def close(self) -> None:
        """Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    __del__ = close


class Carried(NamedTuple):
    """What carries the buffers of one message: descriptors, and where in them each buffer is; those at -1 travel as parts. `freeze` once it is sent."""

    places: tuple[Place, ...]
    descriptors: tuple[int, ...]
    own: _Own | None
    """Of the descriptors, the one to be closed when it is sent."""
    born: tuple[_Born, ...]

    def freeze(self) -> None:
        """It is sent: make private here what was handed over uncopied, and close what was made for it."""
        for born in self.born:
            born.freeze()
        if self.own is not None:
            self.own.close()


INLINE: Final = -1


def carry(buffers: Sequence[memoryview], *, local: bool, trusted: bool) -> Carried:
    """Return how these buffers go to the other side; with `local` as descriptors if that is worth it. CallerError if there is no memory for it."""
    if not local or sum(buffer.nbytes for buffer in buffers) < HAND_OVER_BYTES:
        return Carried(tuple((INLINE, 0, buffer.nbytes) for buffer in buffers), (), None, ())
    places: list[Place | None] = []
    born: list[_Born] = []
    copied = 0
    for buffer in buffers:
        found = _born_of(buffer) if trusted else None
        if found is None or (found[0] not in born and len(born) >= FDS_MAX - 1):
            places.append(None)
            copied += (buffer.nbytes + _PAGE - 1) // _PAGE * _PAGE
        else:
            if found[0] not in born:
                born.append(found[0])
            places.append((born.index(found[0]), found[1], buffer.nbytes))
    descriptors = [one.descriptor for one in born]
    own = None
    if copied:
        own = _copy([buffer for buffer, place in zip(buffers, places, strict=True) if place is None], copied)
        descriptors.append(own.descriptor)
    at = 0
    for number, place in enumerate(places):
        if place is None:
            places[number] = (len(born), at, buffers[number].nbytes)
            at += (buffers[number].nbytes + _PAGE - 1) // _PAGE * _PAGE
    return Carried(tuple(place for place in places if place is not None), tuple(descriptors), own, tuple(born))


def _copy(buffers: Iterable[memoryview], size: int) -> _Own:
    """Return a sealed memory file with these, each at the beginning of a page."""
    own = _Own()
    try:
        own.descriptor = os.memfd_create("unios-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(own.descriptor, size)
        fill(own.descriptor, buffers)
        fcntl.fcntl(own.descriptor, fcntl.F_ADD_SEALS, _SHRINK_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    except OSError as error:
        if error.errno is None:  # not Linux's: of a signal's handler
            raise
        raise CallerError(f"no memory for {size} bytes of a message: {error.strerror}") from error
    return own


def fill(descriptor: int, buffers: Iterable[memoryview]) -> list[int]:
    """Write these to a file, each at the beginning of a page; return where each begins. OSError."""
    at = 0
    begins = []
    for buffer in buffers:
        rest = buffer.cast("B") if buffer.nbytes and (buffer.format != "B" or buffer.ndim != 1) else buffer
        begins.append(at)
        while len(rest):
            written = os.pwrite(descriptor, rest, at)
            at += written
            rest = rest[written:]
        at = begins[-1] + (at - begins[-1] + _PAGE - 1) // _PAGE * _PAGE
    return begins


def receive(places: Sequence[Place], descriptors: Sequence[int], inline: memoryview, *, trusted: bool, kept: bool = False) -> list[memoryview]:
    """Return the buffers of a message. The descriptors stay the caller's to close. `kept`: they will not be written to here, and can be sent on uncopied.

    ProtocolError if they do not hold what was announced, or are not sealed; OSError if this process may have no more descriptors or memory."""
    maps: dict[int, memoryview] = {}
    found: list[memoryview] = []
    at = total = 0
    for number, offset, size in places:
        total += size
        if size < 0 or offset < 0 or not INLINE <= number < len(descriptors):
            raise ProtocolError("the peer describes buffers that it did not send")
        if total > (MESSAGE_BYTES_MAX if trusted else MESSAGE_BYTES_STRANGER_MAX):
            raise ProtocolError(f"the peer sent a message of {total} bytes, which is over the limit")
        if number == INLINE:
            if at + size > len(inline):
                raise ProtocolError("the peer announced more than it sent")
            found.append(inline[at : at + size])
            at += size
            continue
        if number not in maps:
            maps[number] = _map(descriptors[number], trusted=trusted, kept=kept)
        if offset + size > len(maps[number]):
            raise ProtocolError("the peer describes a buffer that is larger than what it sent")
        found.append(maps[number][offset : offset + size])
    return found


def _map(descriptor: int, *, trusted: bool, kept: bool) -> memoryview:
    try:
        if not (trusted and stat.S_ISREG(os.fstat(descriptor).st_mode) and not _can_be_sealed(descriptor)):
            seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
            if not seals & fcntl.F_SEAL_SHRINK or not (trusted or seals & fcntl.F_SEAL_WRITE):
                raise ProtocolError("the peer handed over memory that it can still change")
        if kept:
            return keep(os.dup(descriptor))
        return memoryview(mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE))
    except (OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise ProtocolError(f"the peer handed over what is no memory: {error}") from error


def _can_be_sealed(descriptor: int) -> bool:
    """Return False for a file on a disk, which a program of the same user may hand over: it was spilled."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        return False
    return True


def inline_of(buffers: Sequence[memoryview], places: Sequence[Place]) -> Iterator[memoryview]:
    """Yield the buffers that travel as parts, in their order."""
    for buffer, (number, _offset, _size) in zip(buffers, places, strict=True):
        if number == INLINE:
            yield buffer.cast("B") if buffer.nbytes else memoryview(b"")
