"""The system's store from the caller's side: how it stands, a backup, a return to one, a move to another engine."""

from typing import Final

from unios.client.connection import Connection
from unios.wire.keeping import BackedUp, BackUp, Move, Moved, Rekeyed, Restore, Restored, StoreView
from unios.wire.operations import Empty

FILE_TIMEOUT_S: Final = 600.0
MOVE_TIMEOUT_S: Final = 120.0
REKEY_TIMEOUT_S: Final = 300.0


def status(connection: Connection) -> StoreView:
    """Return how the store stands."""
    view: StoreView = connection.ask("store.status", Empty(), StoreView)
    return view


def back_up(connection: Connection, path: str) -> BackedUp:
    """Write all records, as they are at one moment, into a file of the machine of the node at the other end. Idempotent."""
    done: BackedUp = connection.call("store.backup", BackUp(path), BackedUp, timeout_s=FILE_TIMEOUT_S)
    return done


def restore(connection: Connection, path: str) -> Restored:
    """Have the store return to what is in a backup. Idempotent."""
    done: Restored = connection.call("store.restore", Restore(path), Restored, timeout_s=FILE_TIMEOUT_S)
    return done


def move(connection: Connection, to: str) -> Moved:
    """Have the store go on in another engine, while everything goes on. Idempotent."""
    done: Moved = connection.call("store.move", Move(to), Moved, timeout_s=MOVE_TIMEOUT_S)
    return done


def rekey(connection: Connection) -> Rekeyed:
    """Change the keys of the system's own etcd, while everything goes on; return which nodes' machines have the new ones. Asked again it finishes what was
    broken off, and changes them once more."""
    done: Rekeyed = connection.call("store.rekey", Empty(), Rekeyed, timeout_s=REKEY_TIMEOUT_S)
    return done
