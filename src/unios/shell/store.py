"""`unios store status|backup|restore|move|rekey`: how the system's store stands, a backup of it, the return to one, a move to another engine, and other keys."""

import os
from typing import Final

from unios.client import store as client
from unios.counted import counted
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.usage import size
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.keeping import StoreMember, StoreView

ASKED: Final = ("status", "backup", "restore", "move", "rekey")
ENGINES: Final = ("etcd", "sqlite")
HEAD: Final = ("NODE", "STATE", "VERSION", "SIZE", "USED", "TROUBLE")
_NEEDS_SOMEBODY: Final = 1


def store(session: Session, given: Given) -> int:
    what, *rest = given.arguments or ("status",)
    if what not in ASKED:
        raise Misused(f"there is no `unios store {what}`: {', '.join(ASKED)}")
    if what == "move":
        if len(rest) != 1 or rest[0] not in ENGINES:
            raise Misused(f"`unios store move` takes the engine to which the store is moved: {' or '.join(ENGINES)}")
        return _move(session, rest[0])
    alone = what in ("status", "rekey")
    if len(rest) != (not alone):
        raise Misused(f"`unios store {what}` takes nothing more" if alone else f"`unios store {what}` takes one FILE")
    if alone:
        return _status(session) if what == "status" else _rekey(session)
    path = os.path.abspath(rest[0])
    return _back_up(session, path) if what == "backup" else _restore(session, path, sure=given.flag("yes"))


def _status(session: Session) -> int:
    view = client.status(session.connection)
    ill = bool(view.trouble) or any(not one.answers or one.alarm for one in view.members)
    if session.json:
        session.print_json(view)
        return _NEEDS_SOMEBODY if ill else 0
    for line in described(view):
        session.print(line)
    if view.members:
        session.print_table(table(HEAD, [_row(one) for one in view.members]))
    return _NEEDS_SOMEBODY if ill else 0


def described(view: StoreView) -> list[str]:
    """Return what the figures say, as lines."""
    engine = "embedded (SQLite)" if view.engine == "sqlite" else "etcd, run by unios" if view.managed else "etcd, run elsewhere"
    lines = [f"engine    {engine}"]
    if view.generation:
        lines.append(f"revision  {view.revision} of generation {view.generation}")
        lines.append(f"holds     {counted(view.keys, 'record')}, {counted(view.leases, 'lease')}")
    largest = max((one.bytes for one in view.members), default=view.bytes)
    if largest:
        quota = f" of at most {size(view.quota_bytes)} ({100 * largest // view.quota_bytes} %)" if view.quota_bytes else ""
        lines.append(f"size      {size(largest)}{quota}")
    alarms = sorted({one.alarm for one in view.members if one.alarm})
    if view.members:
        lines.append(f"alarms    {', '.join(alarms) or 'none'}")
    if view.trouble:
        lines.append(f"trouble   {view.trouble}")
    return lines


def _row(one: StoreMember) -> tuple[object, ...]:
    state = "learns" if one.learner else "leads" if one.leader else "follows" if one.answers else "away"
    trouble = "; ".join(filter(None, (one.alarm and f"alarm {one.alarm}", one.trouble)))
    return one.node, state, one.version, size(one.bytes), size(one.used_bytes), trouble


def _back_up(session: Session, path: str) -> int:
    done = client.back_up(session.connection, path)
    if session.json:
        session.print_json(done)
    else:
        session.print(f"{counted(done.records, 'record')} of revision {done.revision} are in {done.path} ({size(done.bytes)})")
    return 0


def _move(session: Session, to: str) -> int:
    done = client.move(session.connection, to)
    if session.json:
        session.print_json(done)
    elif done.before == done.now:
        session.print(f"the store is in {done.now} already")
    else:
        session.print(f"the store is in {done.now} now, and was in {done.before}")
    return 0


def _rekey(session: Session) -> int:
    done = client.rekey(session.connection)
    if session.json:
        session.print_json(done)
    else:
        session.print(f"the keys of the system's etcd were changed, on {', '.join(done.nodes)}: the former let nobody in any more")
    return 0


def _restore(session: Session, path: str, *, sure: bool) -> int:
    if not sure:
        raise Misused("a restore takes back what the system did since the backup: say --yes if that is meant")
    done = client.restore(session.connection, path)
    if session.json:
        session.print_json(done)
        return 0
    session.print(f"the store is as the backup says: {counted(done.changed, 'record')} changed")
    if done.lost:
        pids = ", ".join(map(str, done.lost[:8])) + (", ..." if len(done.lost) > 8 else "")
        session.note(f"what has become of {counted(len(done.lost), 'process', several='processes')} that ran or waited then is not known: {pids}")
    return 0


WORDS = {
    "store": Word(
        store,
        Option("yes", "--yes", text="Restore without asking further: what the system did since the backup is taken back."),
        argument="[status|backup FILE|restore FILE|move ENGINE|rekey]",
        text="Say how the system's store stands (exits 1 if something is wrong with it); write all its records into FILE; have it return to such a FILE, "
        "which is refused while processes run; move it, while everything goes on, to an etcd that the system runs itself (etcd), or back into a file (sqlite); "
        "or change the keys that let machines into that etcd. "
        "FILE lies on the machine of the node that is asked.",
    )
}
