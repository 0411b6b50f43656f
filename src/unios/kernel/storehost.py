"""Hosts the embedded store's process: the supervisor starts it here; what it does is in store/server.py.

A store that has been there and whose file is gone is not begun anew without a word: the system would forget all that it runs.
That of an embedded system syncs nothing: the power cut that could lose something takes the system's owner, and so all of it.
"""

import sys
from collections.abc import Callable

from unios.errors import DataLost, UniosError
from unios.kernel import owner, parts, system
from unios.kernel.system import SystemFile
from unios.store import server
from unios.wire.home import Home, NodeFolder


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Serve the store of this machine; 0 if another process does already. A failure that a person must mend is left in the file `failed`."""
    home = Home(parts.home_of(folder))
    failed = home.store / "failed"
    try:
        check(home)
        failed.unlink(missing_ok=True)
        return server.main(home.store, beat, durable=not owner.is_owned(home))
    except UniosError as error:
        failed.write_text(str(error))
        print(error, file=sys.stderr)
        return error.exit_code


def check(home: Home) -> None:
    """Raise DataLost if the store's file has been there and is gone."""
    known = system.read(home.system_file, SystemFile).generation
    if known and not (home.store / "store.db").exists():
        raise DataLost(
            f"the store's file {home.store / 'store.db'} is gone, and with it the records of the system: restore it from a copy, "
            "or remove UNIOS_HOME on every machine and begin anew"
        )
