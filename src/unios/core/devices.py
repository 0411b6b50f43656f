"""Devices: which of a node's are those that a process asks for. Decides only: what there is was looked for elsewhere, what is taken is told.

A request is "kind" (gpu), "kind:count" (gpu:2), or the path of one device, or one of its other paths (/dev/ttyUSB0, /dev/serial/by-id/...).
A device is given to one process at a time. Paths are served first, so that "gpu" leaves the one that is asked for by name.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from unios.demands import Device
from unios.limits import DEVICES_PER_PROCESS_MAX, DEVICES_REQUESTED_MAX

_KIND: Final = re.compile(r"([a-z][a-z0-9-]{0,31})(?::([1-9][0-9]{0,3}))?")


class Request(NamedTuple):
    """One of a process's requests: `path`, or `number` of `kind`."""

    path: str
    kind: str
    number: int


def parse(text: str) -> Request | None:
    """Return what a request means, None if it means nothing."""
    if text.startswith("/dev/") and "\0" not in text and ".." not in text.split("/"):
        return Request(text, "", 1)
    found = _KIND.fullmatch(text)
    if found is None or int(found[2] or 1) > DEVICES_PER_PROCESS_MAX:
        return None
    return Request("", found[1], int(found[2] or 1))


def mistake(requests: Sequence[str]) -> str:
    """Return what is wrong with the requests, as a sentence; "" if nothing."""
    if len(requests) > DEVICES_REQUESTED_MAX:
        return f"at most {DEVICES_REQUESTED_MAX} requests for devices can be made at a time"
    for text in requests:
        if parse(text) is None:
            return f"device {text[:80]!r}: write a kind (gpu), a kind and a number up to {DEVICES_PER_PROCESS_MAX} (gpu:2), or a path in /dev"
    return ""


def paths(device: Device) -> tuple[str, ...]:
    """Return every path that means the device; not the further files, which several may share."""
    return (device.path, *device.aliases)


def matches(requests: Sequence[str], devices: Sequence[Device], taken: Collection[str] = ()) -> tuple[Device, ...] | None:
    """Return a device for each request, none of them in `taken` (their `path`s); None if there are not enough, or a request means nothing.

    The same arguments give the same answer: the first of the free ones, in the order of `devices`.
    """
    asked = [parse(text) for text in requests]
    free = [device for device in devices if device.path not in taken]
    given: list[Device] = []
    for request in sorted((one for one in asked if one is not None), key=lambda one: not one.path):
        fitting = [device for device in free if (request.path in paths(device) if request.path else device.kind == request.kind)]
        if len(fitting) < request.number:
            return None
        given += fitting[: request.number]
        free = [device for device in free if device not in given]
    return None if None in asked else tuple(given)


def taken_by(devices: Sequence[Device], holders: Iterable[Sequence[str]]) -> frozenset[str]:
    """Return the paths of the devices that processes with these requests hold, if they were served in this order.

    Which of several alike they really hold only their node knows; how many are left is the same.
    """
    taken: set[str] = set()
    for requests in sorted(holders, key=lambda texts: not any(text.startswith("/") for text in texts)):
        taken.update(device.path for device in matches(requests, devices, taken) or ())
    return frozenset(taken)


def missing(requests: Sequence[str], devices: Sequence[Device], taken: Collection[str]) -> str:
    """Return why `matches` finds nothing, as a sentence for a person; "" if it does."""
    if matches(requests, devices, taken) is not None:
        return ""
    wish = ", ".join(requests)[:200]
    if matches(requests, devices) is None:
        return f"there is no such device here: {wish}"
    return f"other processes have what it asks for: {wish}"
