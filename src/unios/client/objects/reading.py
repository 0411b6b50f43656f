"""Reading: that an object's memory is mapped here is told to the holder until the last view of it is gone: meanwhile to spill it would free nothing."""

import mmap
import weakref
from collections.abc import Iterable

from unios.client.objects.counts import COUNTS


def watch(id_: str, mappings: Iterable[mmap.mmap]) -> None:
    """One reading of an object has begun, which the holder knows; it ends with the last of these mappings, at once if there are none."""
    COUNTS.reads(id_)
    _until_gone(id_, mappings)


def watch_brought(id_: str, mapping: mmap.mmap) -> None:
    """As `watch`, of an object that came along with a reference: the holder is told."""
    COUNTS.begins_reading(id_)
    _until_gone(id_, (mapping,))


def _until_gone(id_: str, mappings: Iterable[mmap.mmap]) -> None:
    found = list({id(mapping): mapping for mapping in mappings}.values())
    left = [len(found)]

    def ended() -> None:
        left[0] -= 1
        if left[0] <= 0:
            COUNTS.has_read(id_)

    for mapping in found:
        weakref.finalize(mapping, ended).atexit = False
    if not found:
        ended()
