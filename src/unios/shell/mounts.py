"""`unios mount`, `unios umount`: the tree of files on a folder of a node."""

import os

from unios.client import mounts as client
from unios.errors import NotFound
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.words import Given, Word


def mount(session: Session, given: Given) -> int:
    if not given.arguments:
        return _list(session)
    for argument in given.arguments:
        made = client.mount(session.connection, _folder(argument))
        if session.json:
            session.print_json({"folder": os.fsdecode(made.folder), "number": made.number})
        else:
            session.note(f"the tree of files is mounted on {os.fsdecode(made.folder)}")
    return 0


def _list(session: Session) -> int:
    found = client.mounts(session.connection)
    if session.json:
        session.print_json([{"folder": os.fsdecode(one.folder), "held": one.held, "served": bool(one.agreed)} for one in found])
    elif found:
        rows = [(os.fsdecode(one.folder), "served" if one.held and one.agreed else "not served yet") for one in found]
        session.print_table(table(("FOLDER", "STATE"), rows))
    else:
        session.print("nothing is mounted on this node: `unios mount FOLDER`")
    return 0


def umount(session: Session, given: Given) -> int:
    for argument in given.arguments:
        if not client.unmount(session.connection, _folder(argument)):
            raise NotFound(f"nothing of unios is mounted on {argument}")
        if session.json:
            session.print_json({"folder": os.path.abspath(argument), "mounted": False})
    return 0


def _folder(argument: str) -> bytes:
    """Return a path as the node is to have it: made absolute here, where it was typed, and not looked at: it may be a mount that hangs."""
    return os.fsencode(os.path.abspath(argument))


WORDS = {
    "mount": Word(mount, argument="FOLDER", least=0, text="Mount the tree of files on a folder of the node; without one: list its mounts."),
    "umount": Word(umount, argument="FOLDER", least=1, text="Unmount it."),
}
