"""Memory: large buffers of a message in memory files, handed over as descriptors and not copied.

A buffer that was born in shared memory (`allocate`) is handed over as it is; its pages in this process become a private copy-on-write view, so whoever
reads it never sees what is written here later. Any other is copied into a new memory file first. A reader maps privately: it may write, and nobody else sees that.
A program that only keeps what it receives (`keep`) hands it on uncopied as well.
What is taken from another user is sealed against shrinking and writing, or refused: a mapping of a file that shrinks kills its reader.
"""

import bisect
import contextlib
import ctypes
import fcntl
import mmap
import os
import stat
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from unios.errors import CallerError, ProtocolError
from unios.limits import FDS_MAX

HAND_OVER_BYTES: Final = 128 * 1024
"""Buffers of so many bytes in all are handed over in a memory file; less is quicker through the socket."""
_PAGE: Final = mmap.PAGESIZE
_SHRINK_GROW: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_FIXED: Final = 0x10
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
Place = tuple[int, int, int]
"""(descriptor's number in the message, offset, size)"""


class _Born:
    """A memory file that is mapped here; its descriptor is closed with its mapping, which lives as long as a buffer of it."""

    __slots__ = ("address", "descriptor", "is_kept", "is_shared", "mapping", "size")

    def __init__(self, descriptor: int, mapping: mmap.mmap, *, is_shared: bool) -> None:
        """Takes the descriptor over. `is_shared`: not frozen yet."""
        self.descriptor, self.size, self.is_shared = descriptor, len(mapping), is_shared
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        self.mapping = weakref.ref(mapping, _gone.append)
        self.is_kept = not is_shared
        """Nobody writes to it here, so what is in the file is what is seen here."""
        weakref.finalize(mapping, os.close, descriptor)

    def freeze(self) -> None:
        """From now on what is written here is seen here only, so the file is not handed over a second time, unless it is only kept here. Idempotent."""
        if self.is_shared:
            flags = mmap.PROT_READ | mmap.PROT_WRITE
            if _libc.mmap(self.address, self.size, flags, mmap.MAP_PRIVATE | _FIXED, self.descriptor, 0) != self.address:
                raise MemoryError("a buffer cannot be made private")
            self.is_shared = False
            with contextlib.suppress(OSError):  # another holder has it mapped for writing: it was inherited by a fork
                fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_WRITE)


_born: list[_Born] = []
"""Sorted by address."""
_gone: list[object] = []
"""Of mappings that are no more: their entries are taken out at the next look. Not at once, which could be in the middle of one."""
_lock: Final = threading.Lock()


def allocate(size: int) -> memoryview:
    """Return a buffer of `size` zero bytes in shared memory: sent in a message of this machine it is not copied. MemoryError if there is none."""
    if size <= 0:
        return memoryview(bytearray(0))
    descriptor = -1
    try:
        descriptor = os.memfd_create("unios-buffer", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, (size + _PAGE - 1) // _PAGE * _PAGE)
        mapping = mmap.mmap(descriptor, 0)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SHRINK_GROW)
    except (OSError, ValueError, OverflowError) as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise MemoryError(f"no shared memory of {size} bytes: {error}") from error
    _register(_Born(descriptor, mapping, is_shared=True))
    return memoryview(mapping)[:size]


def gather(size: int) -> bytearray | memoryview:
    """Return room for buffers that come in parts and are kept: in shared memory if they are large."""
    return allocate(size) if size >= HAND_OVER_BYTES else bytearray(size)


def keep(descriptor: int) -> memoryview:
    """Return a file's bytes for a program that will not write to them: sent on they are not copied. Takes the descriptor over. OSError, ValueError."""
    try:
        mapping = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    except BaseException:
        os.close(descriptor)
        raise
    _register(_Born(descriptor, mapping, is_shared=False))
    return memoryview(mapping)


def settle(buffer: memoryview) -> memoryview:
    """Return a buffer that was allocated here and is complete: nobody will write to it here, so it may be sent any number of times uncopied."""
    found = _born_of(buffer)
    if found is not None:
        found[0].freeze()
        found[0].is_kept = True
    return buffer


def mapping_of(buffer: memoryview) -> mmap.mmap | None:
    """Return the mapping that a buffer lies in, if sending it now would not copy it."""
    found = _born_of(buffer)
    return None if found is None else found[0].mapping()


def _register(born: _Born) -> None:
    with _lock:
        _tidy()
        bisect.insort(_born, born, key=_address_of)


def _address_of(born: _Born) -> int:
    return born.address


def _tidy() -> None:
    if _gone:
        del _gone[:]
        _born[:] = [born for born in _born if born.mapping() is not None]


def _born_of(buffer: memoryview) -> tuple[_Born, int] | None:
    """Return what a buffer lies in and at which offset, if it was born in shared memory and has not been written to since it was sent."""
    if not _born or not buffer.nbytes:
        return None
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if not buffer.readonly else _address(buffer)
    with _lock:
        _tidy()
        at = bisect.bisect_right(_born, address, key=_address_of) - 1
        if at >= 0 and address + buffer.nbytes <= _born[at].address + _born[at].size and (_born[at].is_shared or _born[at].is_kept):
            return _born[at], address - _born[at].address
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


class Carried(NamedTuple):
    """What carries the buffers of one message: descriptors, and where in them each buffer is; those at -1 travel as parts. `freeze` once it is sent."""

    places: tuple[Place, ...]
    descriptors: tuple[int, ...]
    own: tuple[int, ...]
    """Of the descriptors, those to be closed when it is sent."""
    born: tuple[_Born, ...]

    def freeze(self) -> None:
        """It is sent: make private here what was handed over uncopied, and close what was made for it."""
        for born in self.born:
            born.freeze()
        for descriptor in self.own:
            os.close(descriptor)


INLINE: Final = -1


def carry(buffers: Sequence[memoryview], *, local: bool, trusted: bool) -> Carried:
    """Return how these buffers go to the other side; with `local` as descriptors if that is worth it. CallerError if there is no memory for it."""
    if not local or sum(buffer.nbytes for buffer in buffers) < HAND_OVER_BYTES:
        return Carried(tuple((INLINE, 0, buffer.nbytes) for buffer in buffers), (), (), ())
    places: list[Place | None] = []
    born: list[_Born] = []
    copied = 0
    for buffer in buffers:
        found = _born_of(buffer)
        if found is None or (found[0] not in born and len(born) >= FDS_MAX - 1):
            places.append(None)
            copied += (buffer.nbytes + _PAGE - 1) // _PAGE * _PAGE
        else:
            if found[0] not in born:
                born.append(found[0])
                if not trusted:
                    found[0].freeze()  # sealed before another user has it
            places.append((born.index(found[0]), found[1], buffer.nbytes))
    descriptors = [one.descriptor for one in born]
    own: tuple[int, ...] = ()
    if copied:
        own = (_copy([buffer for buffer, place in zip(buffers, places, strict=True) if place is None], copied),)
        descriptors.append(own[0])
    at = 0
    for number, place in enumerate(places):
        if place is None:
            places[number] = (len(born), at, buffers[number].nbytes)
            at += (buffers[number].nbytes + _PAGE - 1) // _PAGE * _PAGE
    return Carried(tuple(place for place in places if place is not None), tuple(descriptors), own, tuple(born))


def _copy(buffers: Iterable[memoryview], size: int) -> int:
    """Return a sealed memory file with these, each at the beginning of a page."""
    descriptor = -1
    try:
        descriptor = os.memfd_create("unios-message", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(descriptor, size)
        fill(descriptor, buffers)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SHRINK_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL)
    except OSError as error:
        if descriptor >= 0:
            os.close(descriptor)
        raise CallerError(f"no memory for {size} bytes of a message: {error.strerror}") from error
    return descriptor


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

    ProtocolError if they do not hold what was announced, or are not sealed."""
    maps: dict[int, memoryview] = {}
    found: list[memoryview] = []
    at = 0
    for number, offset, size in places:
        if size < 0 or offset < 0 or number >= len(descriptors):
            raise ProtocolError("the peer describes buffers that it did not send")
        if number < 0:
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
    except (OSError, ValueError) as error:
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
