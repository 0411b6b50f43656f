"""unios: a handful of Linux machines behave as one computer.

What programs use is listed in unios/public.py and found at its first use.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # type checkers take it for true; `typing` itself is not needed here
if TYPE_CHECKING:
    from unios.public import *  # noqa: F403
else:

    def __getattr__(name: str) -> object:
        if name.startswith("_") and name != "__all__":
            raise AttributeError(f"module 'unios' has no attribute {name!r}")
        from unios.public import _WHERE, _find

        if name == "__all__":
            return sorted(_WHERE)
        if name not in _WHERE:
            raise AttributeError(f"module 'unios' has no attribute {name!r}")
        found = globals()[name] = _find(name)
        return found

    def __dir__() -> list[str]:
        from unios.public import _WHERE

        return sorted({*globals(), *_WHERE})
