"""Lean: what a short command does without, though a library would import it.

msgspec looks for typing_extensions, which is there only because some other tool brought it along, and needs nothing of it; it imports uuid, which
asks platform for the name of the system, and for that alone platform is imported. Together they are a third of the time that importing msgspec takes.
Whoever imports them afterwards gets the real ones.
"""

import os
import sys
from types import ModuleType


def import_msgspec() -> None:
    """Import msgspec without them; once it is imported this does nothing."""
    if "msgspec" in sys.modules:
        return
    stand_in = ModuleType("platform")
    stand_in.system = lambda: os.uname().sysname  # type: ignore[attr-defined]
    stand_ins: dict[str, ModuleType | None] = {"typing_extensions": None, "platform": stand_in}
    modules: dict[str, ModuleType | None] = sys.modules  # type: ignore[assignment]
    mine = {name: module for name, module in stand_ins.items() if modules.setdefault(name, module) is module}
    try:
        import msgspec  # noqa: F401
    finally:
        for name, module in mine.items():
            if modules.get(name) is module:
                del modules[name]
