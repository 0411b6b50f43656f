"""`unios forward`: a TCP port of a process, reachable here. A Jupyter on another node opens in the local browser."""

import contextlib
import os
import signal
import threading
from typing import NamedTuple

from unios.client import processes
from unios.client.forwarding import Forwarding, listen
from unios.errors import CallerError, Unavailable
from unios.shell.session import Session
from unios.shell.signals import pid_of
from unios.shell.words import Given, Misused, Option, Word

_HOST = "127.0.0.1"


class Pair(NamedTuple):
    """A port of the process and the one here; 0: whatever is free."""

    port: int
    local: int


def pair_of(text: str) -> Pair:
    """Return the ports of PORT[:LOCALPORT]. Raises Misused."""
    port, colon, local = text.partition(":")
    numbers = [int(part) if part.isascii() and part.isdigit() and len(part) < 6 else -1 for part in (port, local if colon else port)]
    if not 0 < numbers[0] < 65_536 or not 0 <= numbers[1] < 65_536:
        raise Misused(f"{text!r} is no port: write PORT or PORT:LOCALPORT, as in 8888 or 8888:9000; LOCALPORT 0 takes a free one")
    return Pair(*numbers)


def forward(session: Session, given: Given) -> int:
    pid = pid_of(given.arguments[0])
    pairs = [pair_of(text) for text in given.arguments[1:]]
    host = given.text("listen") or _HOST
    view = processes.view(session.connection, pid)
    if view.state in processes.ENDED:
        raise CallerError(f"process {pid} has ended")
    with contextlib.suppress(Unavailable):  # that it does not run yet, or its node is not reached, is said of the connections that are made meanwhile
        processes.signal(session.connection, pid, 0)  # whether one has the right to it, before anybody connects
    forwarding = Forwarding(session.connection, pid, session.note)
    shown = f"[{host}]" if ":" in host else host
    for pair in pairs:
        try:
            listener = listen(host, pair.local)
        except OSError as error:
            free = "" if pair.local == 0 else f"; {pair.port}:0 takes a free one"
            raise CallerError(f"cannot listen at {shown}:{pair.local} here: {error.strerror or error}{free}") from error
        local = listener.getsockname()[1]
        if session.json:
            session.print_json({"pid": pid, "port": pair.port, "host": host, "local": local, "url": f"http://{shown}:{local}/"})
        else:
            session.print(f"http://{shown}:{local}/ is port {pair.port} of {pid}")
        threading.Thread(target=forwarding.serve, args=(listener, pair.port), daemon=True).start()
    return _until_over(session, pid)


def _until_over(session: Session, pid: int) -> int:
    """Wait for the process's end, or for a signal that ends this command."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda caught, _frame: os._exit(128 + caught))
    processes.wait(session.connection, pid)
    session.note(f"{pid} has ended")
    return 0


WORDS = {
    "forward": Word(
        forward,
        Option("listen", "--listen", metavar="ADDRESS", text="Listen at this address of this machine [default: 127.0.0.1]."),
        argument="PID PORT[:LOCALPORT]...",
        least=2,
        text="Make TCP ports of a process reachable here, until it ends or Ctrl-C.",
    )
}
