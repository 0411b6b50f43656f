"""Installation: whether a process of this user can start this unios again, as nodes do for their parts and porters; if not, what is in the way.

A process may run from a folder that it could not enter by itself: it was started with more rights than it has now, or the folder was closed since.
"""

import os
import pwd
import sys
from typing import Final

PACKAGE: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def environment() -> dict[str, str]:
    """Return the environment in which another interpreter, in whatever folder, finds this unios: programs may have found it by a relative path."""
    paths = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    parent = os.path.dirname(PACKAGE)
    if parent not in paths and os.path.basename(parent) not in ("site-packages", "dist-packages"):
        paths.insert(0, parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)} if paths else dict(os.environ)


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
