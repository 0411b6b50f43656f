"""`python -m tests.deaths.look`, once on a machine that lives: tells as one object which of the keys and processes on stdin there are, and deletes those keys.

In: {"keys": [...], "pids": [...]}. Out: {"keys": {key: value, hex}, "processes": {pid: [state, exit code, reason, incarnation, node]}}.
"""

import json
import os
import sys
from pathlib import Path

from tests.deaths.driver import KEYS
from tests.histories.doors import Store
from unios.client import processes
from unios.client.connection import Connection
from unios.store.model import Delete

AT_ONCE = 400


def main() -> None:
    asked = json.load(sys.stdin)
    door = Store(Path(os.environ["UNIOS_HOME"]), "")
    kept = door.read(KEYS, prefix=True)[0]
    with Connection() as connection:
        listed = {view.pid: view for view in processes.list_processes(connection, ended=True)}
    found = {str(pid): [view.state, view.exit_code, view.reason, view.incarnation, view.node] for pid in asked["pids"] if (view := listed.get(pid))}
    keys = [key for key in asked["keys"] if key in kept]
    for at in range(0, len(keys), AT_ONCE):
        door.transact((), [Delete(key) for key in keys[at : at + AT_ONCE]])
    print(json.dumps({"keys": {key: kept[key].value.hex() for key in keys}, "processes": found}))


if __name__ == "__main__":
    main()
