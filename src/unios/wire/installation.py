"""Installation: an interpreter and the unios that it finds; the one of this process, and the one that a machine's nodes are to run (decision 0046).

Also: whether a process of this user can start its own again, as nodes do for their parts and porters; if not, what is in the way. A process may run from a
folder that it could not enter by itself: it was started with more rights than it has now, or the folder was closed since.
"""

import functools
import os
import pwd
import sys
from typing import Final, NamedTuple

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILE: Final = "installation.json"
"""In UNIOS_HOME, once an upgrade has begun there: what nodes are started with, what they ran before, and what an upgrade under way has begun with."""
PACKAGES: Final = ("site-packages", "dist-packages")
"""Folders that their interpreter finds by itself."""


class Installation(NamedTuple):
    """`path`: what PYTHONPATH has to be, "" for nothing. `release`: version and mark of the files, "" if it is not known."""

    python: str
    path: str = ""
    release: str = ""

    def environment(self) -> dict[str, str]:
        """Return the environment in which its interpreter, in whatever folder, finds it."""
        rest = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        return {**rest, "PYTHONPATH": self.path} if self.path else rest

    def command(self, *words: str) -> list[str]:
        """Return the command line that starts a module of it, for whoever has another environment."""
        prefix = ["/usr/bin/env", f"PYTHONPATH={self.path}"] if self.path else ["/usr/bin/env", "-u", "PYTHONPATH"]
        return [*prefix, self.python, "-P", "-m", *words]

    def is_at(self, other: "Installation") -> bool:
        """Whether both are the same place, whatever its files were at either time."""
        return (self.python, self.path) == (other.python, other.path)


def own() -> Installation:
    """Return that of this process, as its files were when `release` was first asked."""
    return Installation(sys.executable, path(), release())


def own_place() -> Installation:
    """Return where that is, without looking into its files."""
    return Installation(sys.executable, path())


def path() -> str:
    """Return the PYTHONPATH with which another interpreter, in whatever folder, finds this unios: programs may have found it by a relative path."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    parent = os.path.dirname(PACKAGE)
    if parent not in paths and os.path.basename(parent) not in PACKAGES:
        paths.insert(0, parent)
    return os.pathsep.join(paths)


def environment() -> dict[str, str]:
    """Return the environment in which another interpreter finds this unios."""
    return Installation(sys.executable, path()).environment()


@functools.cache
def release() -> str:
    """Return what this process runs: the version, and a mark of the files as they are at the first call, which the forks of a process share."""
    from unios import __version__

    return f"{__version__}+{mark(PACKAGE)}"


def mark(package: str) -> str:
    """Return eight hexadecimal digits that stand for the Python files of a package. Raises OSError."""
    from hashlib import blake2s

    found = blake2s()
    for folder, folders, names in os.walk(package):
        folders.sort()
        for name in sorted(name for name in names if name.endswith(".py")):
            with open(f"{folder}/{name}", "rb") as file:
                data = file.read()
            found.update(f"{os.path.relpath(folder, package)}/{name} {len(data)}\n".encode())
            found.update(data)
    return found.hexdigest()[:8]


def remembered(home: str | os.PathLike[str]) -> dict[str, Installation]:
    """Return what FILE says: `now`, `before` and `next`, those that there are. A file that makes no sense says nothing."""
    import json

    try:
        with open(os.path.join(home, FILE), encoding="utf-8", errors="surrogateescape") as file:
            fields = json.load(file)
        return {name: Installation(*map(str, fields[name])) for name in ("now", "before", "next") if fields.get(name)}
    except (OSError, ValueError, TypeError, AttributeError, KeyError, RecursionError):
        return {}


def obstacle() -> str:
    """Return what keeps this user from starting it again, and what to do about it, as a sentence; "" if nothing does."""
    for path in (os.path.realpath(sys.executable), sys.executable, PACKAGE):
        parts = path.split("/")
        for end in range(1, len(parts)):
            folder = "/".join(parts[:end]) or "/"
            if not os.access(folder, os.X_OK):
                return _said(folder, path)
        if not os.access(path, os.R_OK | os.X_OK):
            return _said(path, path)
    return ""


def _said(closed: str, path: str) -> str:
    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = f"#{os.getuid()}"
    what = f"may not enter {closed}, where {path} is" if closed != path else f"may not read {path}"
    return f"user {user} {what}: open it (chmod o+rx {closed}), or install unios where he may read it"
