"""Devices: looks which there are on this machine, in /dev, sysfs and what drivers show in /proc. What they are core/device_kinds.py decides.

Nothing is opened: to open a serial port may reset what hangs on it. A file that vanishes while it is looked at is left out.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import Final

from unios.core.device_kinds import Facts, classify, is_candidate
from unios.demands import Device

_FOLDERS: Final = ("", "dri/", "snd/")
_NVIDIA_MORE: Final = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset")


class Roots:
    """Where to look; other folders than the machine's own for a trial. The devices are named as in /dev all the same."""

    def __init__(self, dev: str = "/dev", sys: str = "/sys", proc: str = "/proc") -> None:
        self.dev, self.sys, self.proc = dev, sys, proc

    def names(self) -> tuple[str, ...]:
        """Return the names of the files that may be devices, sorted by number: cheap, to see whether something has come or gone."""
        found = [f"{folder}{name}" for folder in _FOLDERS for name in _list(f"{self.dev}/{folder}") if is_candidate(name)]
        return (*sorted(found, key=_by_number), *sorted(_list(f"{self.dev}/serial/by-id")))

    def look(self) -> tuple[Device, ...]:
        """Return the devices of this machine."""
        aliases = self._aliases()
        found = []
        for name in self.names():
            if is_candidate(name.rpartition("/")[2]):
                more = tuple(f"/dev/{one}" for one in self._more(name) if os.path.exists(f"{self.dev}/{one}"))
                device = classify(Facts(f"/dev/{name}", dict(self._shown(name)), more, tuple(aliases.get(name, ()))))
                if device is not None:
                    found.append(device)
        return tuple(found)

    def _aliases(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for folder in ("serial/by-id", "v4l/by-id"):
            for name in sorted(_list(f"{self.dev}/{folder}")):
                with contextlib.suppress(OSError):
                    target = os.path.basename(os.readlink(f"{self.dev}/{folder}/{name}"))
                    found.setdefault(target, []).append(f"/dev/{folder}/{name}")
        return found

    def _more(self, name: str) -> list[str]:
        if name.startswith("nvidia"):
            return list(_NVIDIA_MORE)
        if name.startswith("dri/"):
            cards = [f"dri/{card}" for card in _list(f"{self.sys}/class/drm/{name[4:]}/device/drm") if card.startswith("card")]
            return [*cards, *(["kfd"] if self._driver(name) == "amdgpu" else [])]
        if name.startswith("snd/"):
            return [f"snd/{pcm}" for pcm in sorted(_list(f"{self.dev}/snd")) if pcm.startswith(f"pcmC{name.removeprefix('snd/controlC')}D")]
        return []

    def _driver(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return os.path.basename(os.readlink(f"{self.sys}/class/drm/{name[4:]}/device/driver"))
        return ""

    def _shown(self, name: str) -> Iterator[tuple[str, str]]:
        """Return what is shown of a file, as far as anything is."""
        if name.startswith("nvidia"):
            yield from self._nvidia(name.removeprefix("nvidia"))
        elif name.startswith("dri/"):
            folder = f"{self.sys}/class/drm/{name[4:]}/device"
            yield from ((key, text) for key in ("vendor", "device") if (text := _read(f"{folder}/{key}")))
            yield "driver", self._driver(name)
        elif name.startswith("snd/"):
            yield "id", _read(f"{self.sys}/class/sound/card{name.removeprefix('snd/controlC')}/id")
        elif name.startswith("video"):
            yield from ((key, text) for key in ("name", "index") if (text := _read(f"{self.sys}/class/video4linux/{name}/{key}")))
        else:
            yield "type", _read(f"{self.sys}/class/tty/{name}/type") or "0"
            yield "console", "yes" if name in _read(f"{self.sys}/class/tty/console/active").split() else ""
            yield "product", self._product(f"{self.sys}/class/tty/{name}/device")

    def _product(self, device: str) -> str:
        """Return what the USB device above a port calls itself."""
        folder = os.path.realpath(device)
        for _level in range(4):
            words = [_read(f"{folder}/{key}") for key in ("manufacturer", "product")]
            if words[1]:
                return " ".join(word for word in words if word)
            folder = os.path.dirname(folder)
        return ""

    def _nvidia(self, minor: str) -> Iterator[tuple[str, str]]:
        for card in _list(f"{self.proc}/driver/nvidia/gpus"):
            text = _read(f"{self.proc}/driver/nvidia/gpus/{card}/information")
            fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in text.splitlines()) if colon}
            if fields.get("Device Minor") == minor:
                yield "model", fields.get("Model", "")
                yield "uuid", fields.get("GPU UUID", "") if re.fullmatch(r"GPU-[0-9a-f-]+", fields.get("GPU UUID", "")) else ""


def _list(folder: str) -> list[str]:
    with contextlib.suppress(OSError):
        return os.listdir(folder)
    return []


def _read(path: str) -> str:
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return file.read(4_096).strip()
    return ""


def _by_number(name: str) -> tuple[str, int]:
    found = re.fullmatch(r"(.*?)([0-9]+)", name)
    return (found[1], int(found[2])) if found else (name, 0)
