"""Moments as people write them: `10m` or `1h30m` ago, `14:30`, `2026-11-24T14:30`. Pure, but for the time zone."""

import re
import time
from datetime import datetime
from typing import Final

from unios.shell.words import Misused

_AGO: Final = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,9})s)?")
_UNITS_MS: Final = (86_400_000, 3_600_000, 60_000, 1_000)
_TIMES: Final = ("%H:%M:%S", "%H:%M")


def ago_ms(text: str) -> int | None:
    """Return how many ms ago is meant, at least 1; None if the text is no age."""
    found = _AGO.fullmatch(text)
    if found is None or not text:
        return None
    return max(1, sum(int(amount or 0) * unit for amount, unit in zip(found.groups(), _UNITS_MS, strict=True)))


def moment_of(text: str, now_ms: int) -> int:
    """Return the wall clock that is meant, in ms since 1970; Misused if none is. A time of day is the latest that is not to come."""
    ago = ago_ms(text)
    if ago is not None:
        return now_ms - ago
    for form in _TIMES:
        try:
            parsed = time.strptime(text, form)
        except ValueError:
            continue
        today = time.localtime(now_ms / 1000)
        at = int(time.mktime((*today[:3], *parsed[3:6], 0, 0, -1))) * 1000
        return at if at <= now_ms else int(time.mktime((*today[:2], today[2] - 1, *parsed[3:6], 0, 0, -1))) * 1000
    try:
        return max(1, int(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise Misused(f"--since {text}: write 30s, 10m, 1h30m or 3d for so long ago, or 14:30, or 2026-11-24T14:30") from None


def since(text: str, now_ms: int) -> int:
    """Return ms since 1970, or negative how many ms ago it was: so that an age means the same where the clock is another. Raises Misused."""
    ago = ago_ms(text)
    return moment_of(text, now_ms) if ago is None else -ago
