"""Bringing: a reference to an object that this process has put brings the object's memory along, so that whoever gets it at once need not ask its holder.

It is only a shorter way to the same bytes. The holder is told of the reference, and of the reading, as ever; what nobody takes within the moment in which that
is said (client/objects/tie.py) is closed again, and whoever gets the object later asks. One object in a message, between processes of one user on one machine.
"""

import mmap
import os
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import islice
from threading import get_ident
from typing import Final, NamedTuple

from unios.client.messages import memory
from unios.errors import ProtocolError
from unios.wire.messages import Brought

BODY_BYTES_MAX: Final = 4096
"""Objects with a longer pickle beside their buffer are not brought."""


class _Put(NamedTuple):
    """What this process has put. Does not keep the mapping, whose end closes the descriptor."""

    mapping: "weakref.ref[mmap.mmap]"
    descriptor: int
    brought: Brought


class _Came:
    """What came and nobody has taken yet; its descriptor is closed with it."""

    __slots__ = ("brought", "descriptors")

    def __init__(self, brought: Brought) -> None:
        self.brought = brought
        self.descriptors: list[int] = []

    def close(self) -> None:
        """Idempotent."""
        while self.descriptors:
            os.close(self.descriptors.pop())

    __del__ = close


_put: dict[str, _Put] = {}
"""By the object's id."""
lent: Final[dict[int, str]] = {}
"""By thread: the id of the object to which it has pickled a reference last. Whoever sends takes it."""
_came: dict[str, _Came] = {}
"""By the object's id; each until a moment later."""
soon: Callable[[Callable[[], object]], bool] | None = None
"""Has something done a moment later; False: it cannot. None where no object was ever used: then nothing is kept."""


def put(id_: str, body: memoryview, buffers: list[memoryview]) -> Callable[[], None]:
    """An object is about to be put. Return what says that it was: from then on its references bring it, as long as its buffer is in use here.

    Only one in one piece, born in shared memory and handed over: what this process writes later is not in the file."""
    mapping = memory.mapping_of(buffers[0]) if len(buffers) == 1 else None
    place = None if mapping is None or body.nbytes > BODY_BYTES_MAX else memory.place_of(buffers[0])
    if mapping is None or place is None:
        return lambda: None
    kept = weakref.ref(mapping, lambda _gone: _put.pop(id_, None))
    found = _Put(kept, place[0], Brought(id_, bytes(body), place[1], buffers[0].nbytes))

    def was_put() -> None:
        if memory.mapping_of(buffers[0]) is None:
            _put[id_] = found

    return was_put


def lend(id_: str) -> None:
    """This thread pickles a reference to that object, for somebody else."""
    if id_ in _put:
        lent[get_ident()] = id_


def lent_here() -> tuple[Brought, int, object] | None:
    """Take what this thread has lent: what it brings, its descriptor, and what keeps that open."""
    found = _put.get(lent.pop(get_ident(), ""))
    mapping = None if found is None else found.mapping()
    return None if found is None or mapping is None else (found.brought, found.descriptor, mapping)


def came(brought: Brought, descriptors: "deque[int]") -> None:
    """An object has come along; its descriptor is the next of these. It is taken out, and closed here."""
    found = _Came(brought)
    found.descriptors.extend(islice(iter(descriptors.popleft, None), 1))  # in one call: a signal's handler may raise after each
    _came[brought.id] = found
    if soon is None or not soon(partial(_came.pop, brought.id, None)):
        _came.pop(brought.id, None)


def take(id_: str) -> tuple[bytes, memoryview] | None:
    """Return the body and the buffer of an object if it has just come along, mapped privately; None if not, or if it cannot be mapped here."""
    found = _came.pop(id_, None)
    if found is None:
        return None
    _id, body, offset, size = found.brought
    try:
        return body, memory.receive(((0, offset, size),), found.descriptors, memoryview(b""), trusted=True)[0]
    except (OSError, ProtocolError):
        return None
    finally:
        found.close()
