"""`unios top`: the system live. The loop between terminal, model and system: it decides nothing (top_model.py) and draws nothing (top_screen.py).

Three threads: this one has the terminal, one looks once a second, one carries out what keys order. So a node that hangs hangs no key.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterator

import msgspec

from unios.client import processes
from unios.client.connection import Connection
from unios.client.output import read
from unios.errors import Unavailable, UniosError
from unios.limits import TOP_DETAILS_BYTES, TOP_ORDERS_MAX, TOP_PERIOD_MS
from unios.shell.fullscreen import Ended, FullScreen
from unios.shell.ps import describe
from unios.shell.session import Session, shown
from unios.shell.snapshots import Snapshot
from unios.shell.table import age, colourful, is_terminal, moment, table
from unios.shell.top_model import Act, Look, Model, Order, Quit
from unios.shell.top_screen import clock, draw, size
from unios.shell.top_source import Source
from unios.shell.words import Given, Misused, Option, Word

_FIRST_S = 0.5
"""Between the two looks of `--once`: shares of the processor are of the time between."""
_LINES = 200


def top(session: Session, given: Given) -> int:
    times = given.number("times", 1 if session.json or given.flag("once") or not (is_terminal(0) and is_terminal(1)) else 0)
    if "times" in given.values and (times < 1 or given.flag("once")):
        raise Misused("-n takes a number from 1 on; --once is the same as -n 1, so leave it out")
    if times:
        return _printed(session, times)
    try:
        return _live(session)
    except Ended as ended:
        return ended.exit_code


def _printed(session: Session, times: int) -> int:
    """Print it so many times. Nobody sees the next look that would put it right: so a kernel that is replaced is waited for, as by every command."""
    source = Source(session.connection)
    session.connection.persist(source.look)
    code = 0
    for at in range(times):
        time.sleep(TOP_PERIOD_MS / 1000 if at else _FIRST_S)
        snapshot = session.connection.persist(source.look)
        code = Unavailable.exit_code if snapshot.trouble else 0
        if session.json:
            trouble, nodes, rows = snapshot.trouble, snapshot.nodes, snapshot.processes
            session.print_json({"trouble": trouble, "nodes": [n._asdict() for n in nodes], "processes": [r._asdict() for r in rows]})
            continue
        model = Model()
        model.take(snapshot)
        if at:
            session.print("")
        for part in _plain(model):
            session.print_table(part)
        if snapshot.trouble:
            session.note(snapshot.trouble)
    return code


def _plain(model: Model) -> Iterator[str]:
    def share(part: float | None) -> str:
        return "-" if part is None else f"{part:.0%}"

    def amount(number: int | None) -> str:
        return "-" if number is None else size(number)

    head = ("NODE", "STATE", "CORES", "BUSY", "MEMORY", "LOAD", "RUN", "WAIT", "LINK")
    nodes = [
        (
            node.name,
            node.state,
            node.cores or "-",
            share(node.busy),
            "-" if node.memory_bytes is None else f"{size(node.memory_bytes)}/{size(node.memory_total)}",
            "-" if node.load is None else f"{node.load:.2f}",
            node.running,
            node.waiting,
            node.reason or node.link,
        )
        for node in model.snapshot.nodes
    ]
    yield table(head, nodes)
    yield ""
    columns = ("PID", "USER", "STATE", "NODE", "CPU", "MEM", "TIME", "NI", "COMMAND")
    rows = [
        (
            row.pid,
            row.user,
            row.state,
            row.node or "-",
            share(row.cpu),
            amount(row.memory_bytes),
            "-" if row.cpu_ms is None else clock(row.cpu_ms),
            row.nice,
            row.command,
        )
        for row in model.rows()
    ]
    yield table(columns, rows)


class _Live:
    """What the three threads share. Bounded: one snapshot that waits, TOP_ORDERS_MAX orders."""

    def __init__(self, session: Session, screen: FullScreen) -> None:
        self._session, self._screen = session, screen
        self._news: queue.Queue[Callable[[Model], None]] = queue.Queue(TOP_ORDERS_MAX)
        self._orders: queue.Queue[Act | Look] = queue.Queue(TOP_ORDERS_MAX)
        self._latest: Snapshot | None = None
        self._hurry = threading.Event()
        self.over = threading.Event()

    def start(self) -> None:
        for work in (self._look, self._carry_out):
            threading.Thread(target=work, daemon=True).start()

    def _look(self) -> None:
        with self._session.connection.again() as connection:
            source = Source(connection)
            while not self.over.is_set():
                begun = time.monotonic()
                self._latest = source.take()
                self._screen.wake()
                self._hurry.wait(max(0.05, TOP_PERIOD_MS / 1000 - (time.monotonic() - begun)))
                self._hurry.clear()

    def _carry_out(self) -> None:
        with self._session.connection.again() as connection:
            while not self.over.is_set():
                order = self._orders.get()
                self._news.put(_done(connection, order))
                if isinstance(order, Act):
                    self._hurry.set()
                self._screen.wake()

    def order(self, order: Order, model: Model) -> None:
        try:
            if not isinstance(order, Quit):
                self._orders.put_nowait(order)
        except queue.Full:
            model.tell("the system has not yet done what you typed before: one moment")

    def news(self, model: Model) -> None:
        """Let the model have what has come."""
        latest, self._latest = self._latest, None
        if latest is not None:
            model.take(latest)
        while not self._news.empty():
            self._news.get()(model)


def _done(connection: Connection, order: Act | Look) -> Callable[[Model], None]:
    """Carry out an order; return what tells the model."""
    try:
        if isinstance(order, Look):
            lines = tuple(_details(connection, order.pid))
            return lambda model: model.tell_details(order.pid, lines)
        said = _act(connection, order)
    except UniosError as error:
        connection.close()
        said = str(error)
        if isinstance(order, Look):
            return lambda model: model.tell_details(order.pid, (f"process {order.pid}", said))
    return lambda model: model.tell(said)


def _act(connection: Connection, act: Act) -> str:
    if act.verb == "signal":
        processes.signal(connection, act.pid, act.number, timeout_s=5)
        return f"signal {act.number} was sent to {act.pid}"
    if act.verb == "renice":
        processes.renice(connection, act.pid, act.number)
        return f"{act.pid} has the nice value {act.number} now"
    (processes.freeze if act.verb == "freeze" else processes.thaw)(connection, act.pid)
    return f"{act.pid} {'is frozen' if act.verb == 'freeze' else 'goes on'}"


def _details(connection: Connection, pid: int) -> Iterator[str]:
    """Yield what is known of a process: its record, why it is where it is, and its last lines."""
    view = processes.view(connection, pid)
    yield f"process {pid}: {view.state}{f' on {view.node}' if view.node else ''}, for {age(view.started_ms, view.ended_ms)}"
    yield ""
    yield from _fields(describe(view))
    yield f"  {'command':<14} {' '.join(shown(argument) for argument in view.argv)}"
    said: dict[str, list[bytes]] = {"out": [], "err": []}
    try:
        for chunk in read(connection, pid, out=-TOP_DETAILS_BYTES, err=-TOP_DETAILS_BYTES):
            said[chunk.stream].append(chunk.data)
    except UniosError as error:
        yield f"  its output cannot be read now: {error}"
    for stream, parts in said.items():
        lines = shown(b"".join(parts)).splitlines()[-_LINES:]
        if lines:
            yield ""
            yield f"the last lines of std{stream} (`unios logs {pid}` shows all that is kept):"
            yield from lines


def _fields(fields: dict[str, object]) -> Iterator[str]:
    """Yield the fields that say something; those of demands likewise, after what they belong to."""
    for name, value in fields.items():
        if name in ("pid", "argv") or value in ("", 0, None, (), {}):
            continue
        if isinstance(value, msgspec.Struct):
            parts = {part: getattr(value, part) for part in value.__struct_fields__}
            value = ", ".join(f"{part} {said}" for part, said in parts.items() if said not in ("", 0, None, (), False))
            if not value:
                continue
        yield f"  {name:<14} {moment(value) if name.endswith('_ms') and isinstance(value, int) else value}"


def _live(session: Session) -> int:
    import locale
    import sys

    session.connection.channel()
    ascii_only = "utf" not in (locale.getlocale()[1] or sys.getfilesystemencoding() or "").lower()
    model = Model()
    with FullScreen(colour=colourful()) as screen:
        live = _Live(session, screen)
        live.start()
        try:
            while True:
                live.news(model)
                rows, columns = screen.size()
                screen.show(draw(model, rows, columns, ascii_only=ascii_only))
                for key in screen.wait(TOP_PERIOD_MS / 1000):
                    order = model.key(key)
                    if isinstance(order, Quit):
                        return 0
                    if order is not None:
                        live.order(order, model)
        finally:
            live.over.set()


WORDS = {
    "top": Word(
        top,
        Option("once", "--once", text="Print it once as plain text, as in a pipe."),
        Option("times", "-n", "--times", metavar="N", number=True, text="Print it so often as plain text, once a second."),
        text="Show nodes and processes live, and act on them with keys: `h` lists them. "
        "With --json, --once or in a pipe: once, after half a second of looking.",
    )
}
