"""Moments as people write them: `10m` ago, `14:30`, `2026-11-24 14:30`. Pure, but for the time zone."""

import re
import time
from typing import Final

from unios.shell.words import Misused

_UNITS_MS: Final = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_AGO: Final = re.compile(r"([0-9]{1,7})([smhd])")
_FORMS: Final = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%d", "%H:%M:%S", "%H:%M")


def moment_of(text: str, now_ms: int) -> int:
    """Return the wall clock that is meant, in ms; Misused if none is. A time of day is the latest that is not to come."""
    match = _AGO.fullmatch(text)
    if match is not None:
        return now_ms - int(match[1]) * _UNITS_MS[match[2]]
    for form in _FORMS:
        try:
            parsed = time.strptime(text.replace("T", " "), form)
        except ValueError:
            continue
        if form.startswith("%Y"):
            return int(time.mktime(parsed)) * 1000
        today = time.localtime(now_ms / 1000)
        at = int(time.mktime((*today[:3], *parsed[3:6], 0, 0, -1))) * 1000
        return at if at <= now_ms else int(time.mktime((*today[:2], today[2] - 1, *parsed[3:6], 0, 0, -1))) * 1000
    raise Misused(f"{text!r} is no time: write 30s, 10m, 2h or 3d for so long ago, or 14:30, or 2026-11-24 14:30")
