"""What a program asks for of the machine, as options of `unios run`: --cpus, --memory, --device and the bounds. Reads what was typed, decides nothing."""

import re
from typing import Final

from unios.demands import CPU_MILLI_DEFAULT, Resources
from unios.limits import MEMORY_BYTES_MIN
from unios.shell.words import Given, Misused, Option

_UNITS: Final = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_CORES: Final = re.compile(r"[0-9]{1,5}(\.[0-9]{1,3})?")

OPTIONS: Final = (
    Option("cpus", "--cpus", metavar="N", text="Cores set aside for it, as in 2 or 0.5; 0: what is left over [default: 1, with -t 0]."),
    Option("cpus_max", "--cpus-max", metavar="N", text="The most cores that it gets even if nobody else wants them [default: no such bound]."),
    Option("memory", "--memory", metavar="SIZE", text="Memory set aside for it, as in 512M or 2G; also the most that it may use."),
    Option("tasks", "--tasks", metavar="N", number=True, text="The most Linux processes and threads in it [default: 1024]."),
    Option("device", "--device", metavar="DEVICE", many=True, text="A device for it alone: gpu, gpu:2 or /dev/ttyUSB0; see `unios devices`."),
)


def resources(given: Given) -> Resources:
    """Return what was asked for; Misused if it makes no sense. A person at a terminal waits for no core unless one is asked for."""
    default = 0 if given.flag("terminal") else CPU_MILLI_DEFAULT
    return Resources(
        cpu_milli=cores("--cpus", given.text("cpus")) if given.text("cpus") else default,
        memory_bytes=_memory(given.text("memory")) if given.text("memory") else 0,
        devices=tuple(_device(text) for text in given.many("device")),
        cpu_milli_max=_cap(given.text("cpus_max")) if given.text("cpus_max") else 0,
        tasks=_tasks(given.number("tasks")) if "tasks" in given.values else 0,
    )


def cores(option: str, text: str) -> int:
    """Return thousandths of a core."""
    if not _CORES.fullmatch(text):
        raise Misused(f"{option} {text}: write a number of cores, as in 2 or 0.5")
    return round(float(text) * 1_000)


def _cap(text: str) -> int:
    found = cores("--cpus-max", text)
    if found < 10:
        raise Misused(f"--cpus-max {text}: the least is 0.01")
    return found


def size(option: str, text: str) -> int:
    """Return a number of bytes: 512M, 2G, 1.5GiB."""
    found = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,3})?)([kmgt]?)(?:i?b)?", text.lower())
    if not found:
        raise Misused(f"{option} {text}: write a size, as in 512M or 2G")
    return int(float(found[1]) * _UNITS[found[2]])


def _memory(text: str) -> int:
    found = size("--memory", text)
    if found < MEMORY_BYTES_MIN:
        raise Misused(f"--memory {text}: the least is {MEMORY_BYTES_MIN >> 20}M")
    if found >= 1 << 50:
        raise Misused(f"--memory {text}: no machine has so much; less than 1024T may be asked for")
    return found


def _tasks(number: int) -> int:
    if not 4 <= number <= 4_194_304:
        raise Misused(f"--tasks {number}: a process may have 4 to 4194304 Linux processes and threads")
    return number


def _device(text: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*(:[1-9][0-9]{0,3})?|/dev/[^\0]+", text):
        raise Misused(f"--device {text}: write a kind (gpu), a kind and a number (gpu:2), or a path (/dev/ttyUSB0); see `unios devices`")
    return text
