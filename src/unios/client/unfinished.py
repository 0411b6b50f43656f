"""An `up` that was killed before it had ended, as its traces on this machine's disk show it."""

import contextlib
import json

from unios.client.connection import is_alive, runs
from unios.wire.home import Home


def unfinished(home: Home) -> list[str]:
    """Return the nodes of this machine that do not run since an `up` was killed. Never raises."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        fields = json.loads(home.unfinished.read_bytes())
        if not is_alive(int(fields["pid"]), int(fields["start"])):
            return [folder.name for folder in home.nodes() if not runs(folder)]
    return []
