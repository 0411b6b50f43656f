"""Carries: what a process may say of the folder that it takes along. Decides only; kernel/carrying.py lays the folder out.

What a submission says is checked before it is recorded, and again before it is acted upon: a member of the system may have written the record.
"""

from typing import Final

from unios.demands import Carry
from unios.errors import CallerError
from unios.limits import BLOCK_BYTES, MANIFEST_BYTES_MAX, NAMED_PATHS_MAX

NAME_BYTES: Final = 32
LIST_MAX: Final = 64
"""Of patterns, and of folders."""
TEXT_BYTES_MAX: Final = 4_096


def check(carry: Carry) -> None:
    """Raise CallerError for what makes no sense or is over the bounds."""
    if len(carry.manifest) % NAME_BYTES or len(carry.manifest) > NAME_BYTES * (MANIFEST_BYTES_MAX // BLOCK_BYTES):
        raise CallerError("the manifest of the carried folder is not named by blocks")
    if carry.cwd.startswith(b"/") or b".." in carry.cwd.split(b"/"):
        raise CallerError("the folder to start in is not inside of the carried one")
    if len(carry.results) > LIST_MAX or len(carry.folders) > LIST_MAX or len(carry.named) > NAMED_PATHS_MAX:
        raise CallerError(f"at most {LIST_MAX} patterns and folders may be given, and {NAMED_PATHS_MAX} files be named")
    texts = (carry.cwd, *carry.results, *carry.named, *(text for folder in carry.folders for text in folder))
    if any(b"\0" in text or len(text) > TEXT_BYTES_MAX for text in texts):
        raise CallerError(f"a pattern or path of the carried folder holds a zero byte, or more than {TEXT_BYTES_MAX} bytes")
