"""Points in the past as people write them: `10m`, `1h30m`, `2026-11-24T10:00`."""

import re
from datetime import datetime
from typing import Final

from unios.shell.words import Misused

_AGO: Final = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9})s)?")
_UNITS_MS: Final = (86_400_000, 3_600_000, 60_000, 1_000)


def parse(text: str) -> int:
    """Return ms since 1970, or negative how many ms ago it was: so that an age means the same where the clock is another. Raises Misused."""
    found = _AGO.fullmatch(text)
    if found and text:
        ago = sum(int(amount or 0) * unit for amount, unit in zip(found.groups(), _UNITS_MS, strict=True))
        return -max(1, ago)
    try:
        return max(1, int(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError, OSError):
        raise Misused(f"--since {text}: write an age such as 10m or 1h30m, or a time such as 2026-11-24T10:00") from None
