"""Archives: what a reader asks the service `archive` about output whose node is away."""

from typing import Final

import msgspec

PORT: Final = "archive"


class OfOutput(msgspec.Struct, frozen=True, omit_defaults=True):
    """output -> items of Chunk, then Empty: what is kept of an incarnation's output (0: the present one's). Offsets below 0 count from the end."""

    pid: int
    incarnation: int = 0
    out: int = 0
    err: int = 0
