"""Finding: what one check of `unios doctor` says, and how it is mended."""

from typing import NamedTuple


class Finding(NamedTuple):
    """`costs` and `mend` are empty if all is well.

    `mend` is for a person. `command`: a line for sh that does it, if one does; `unios doctor --mend` runs it after asking. It has to be safe to be run
    twice, and must not lose what anybody could want. `as_root`: it takes root. `essential`: unios does not work without it.
    """

    check: str
    found: str
    costs: str = ""
    mend: str = ""
    essential: bool = False
    command: str = ""
    as_root: bool = False

    @property
    def ok(self) -> bool:
        return not self.costs
