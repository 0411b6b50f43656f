"""Device kinds: what a file in /dev is, from what sysfs says of it. Decides only; kernel/devices.py looks.

A device is offered only if a program can do something with it alone: no codec that shows itself as a camera, no serial port that is not wired, not
the machine's own console, no screen without a processor.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from unios.demands import Device

_NO_CAMERA: Final = re.compile(r"codec|decod|encod|isp|m2m|metadata|scaler", re.IGNORECASE)
KINDS: Final = ("gpu", "serial", "camera", "sound")
_GPU_VENDORS: Final = {"0x1002": "AMD", "0x8086": "Intel", "0x10de": "NVIDIA"}


class Facts(NamedTuple):
    """A file as it was found. `shown`: what sysfs and the driver show, by name; what is not shown is not there."""

    path: str
    shown: Mapping[str, str]
    more: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def classify(facts: Facts) -> Device | None:
    """Return the device that a file is, None if it is none to be given to a process."""
    name = facts.path.rpartition("/")[2]
    for pattern, rule in _RULES:
        if re.fullmatch(pattern, name):
            return rule(facts)
    return None


def _nvidia(facts: Facts) -> Device:
    return Device("gpu", facts.path, facts.shown.get("model", "NVIDIA"), facts.more, facts.aliases, facts.shown.get("uuid", ""))


def _render(facts: Facts) -> Device | None:
    vendor = facts.shown.get("vendor", "")
    if vendor not in _GPU_VENDORS or facts.shown.get("driver") == "nvidia":  # that one's files are others
        return None
    name = f"{_GPU_VENDORS[vendor]} {facts.shown.get('device', '')} ({facts.shown.get('driver', 'no driver')})"
    return Device("gpu", facts.path, name, facts.more, facts.aliases)


def _usb_serial(facts: Facts) -> Device:
    return Device("serial", facts.path, facts.shown.get("product", ""), (), facts.aliases)


def _uart(facts: Facts) -> Device | None:
    if facts.shown.get("type", "0") == "0" or facts.shown.get("console"):
        return None
    return Device("serial", facts.path, "serial port", (), facts.aliases)


def _camera(facts: Facts) -> Device | None:
    name = facts.shown.get("name", "")
    if facts.shown.get("index", "0") != "0" or not name or _NO_CAMERA.search(name):
        return None
    return Device("camera", facts.path, name, facts.more, facts.aliases)


def _sound(facts: Facts) -> Device:
    return Device("sound", facts.path, facts.shown.get("id", ""), facts.more)


_RULES: Final = (
    (r"nvidia[0-9]+", _nvidia),
    (r"renderD[0-9]+", _render),
    (r"tty(USB|ACM)[0-9]+", _usb_serial),
    (r"ttyS[0-9]+", _uart),
    (r"video[0-9]+", _camera),
    (r"controlC[0-9]+", _sound),
)


_CANDIDATE: Final = re.compile("|".join(pattern for pattern, _rule in _RULES))


def is_candidate(name: str) -> bool:
    """Return whether a file of that name may be a device to look at."""
    return _CANDIDATE.fullmatch(name) is not None


def environment(given: Sequence[Device], present: Sequence[Device]) -> dict[str, str]:
    """Return the variables that tell a program, and the libraries that it may use, which devices are its own."""
    if not given:
        return {}
    told = {"UNIOS_DEVICES": ":".join(device.path for device in given)}
    nvidia = [device for device in given if "nvidia" in device.path]
    if nvidia:
        told["CUDA_VISIBLE_DEVICES"] = ",".join(device.id or re.sub(r"\D", "", device.path) for device in nvidia)
    for vendor, names in (("AMD", ("ROCR_VISIBLE_DEVICES",)), ("Intel", ("ZE_AFFINITY_MASK",))):
        alike = [device.path for device in present if device.kind == "gpu" and device.name.startswith(vendor)]
        mine = [str(alike.index(device.path)) for device in given if device.path in alike]
        told.update({name: ",".join(mine) for name in names if mine})
    return told
