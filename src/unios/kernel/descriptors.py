"""Descriptors: how many a process may have open. unios raises the soft bound of its own parts; a program gets the one that it would have without unios.

The bound that the supervisor was started with travels in an environment variable, since the guard and a restarted supervisor are executed anew. Programs
do not see that: their environment is their own. Light on purpose: guard and inits import it.
"""

import contextlib
import os
import resource
from typing import Final

from unios.limits import DESCRIPTORS_MAX

_GIVEN: Final = "UNIOS_NOFILE"


def raise_bound() -> None:
    """Let this process, and what it forks, have as many as Linux allows it, up to DESCRIPTORS_MAX. Idempotent: what was given at first is remembered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    os.environ.setdefault(_GIVEN, str(soft))
    wanted = DESCRIPTORS_MAX if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS_MAX)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def give_back() -> None:
    """Set the bound back to what was given at first, for a program: some close, or keep a table of, all that they might have open."""
    with contextlib.suppress(KeyError, OSError, ValueError, OverflowError):
        _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(os.environ[_GIVEN]), hard))
