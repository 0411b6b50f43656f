"""Counts: how many references to each object this process has. The first is told to this node's holder, and that the last is gone.

Finalizers only leave a note, which the tie's thread reads: they run anywhere, also in the middle of what holds the lock.
"""

import atexit
import contextlib
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Final

from unios.client.connection import Connection
from unios.client.embedded import system
from unios.client.messages import bringing
from unios.client.messages.acceptor import me
from unios.client.objects import starting
from unios.client.objects.tie import Tie
from unios.errors import UniosError
from unios.wire.objects import Known, port_of
from unios.wire.operations import NodeInfo


class Counts:
    """Those of this process."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._counts: Counter[str] = Counter()
        self._tie: Tie | None = None
        self._home: Path | None = None
        """Of the system that the tie belongs to: a program whose embedded one was taken away gets another."""
        self.node = ""
        """The node of this process, once a holder was needed."""
        self._token = ""

    def tie(self) -> Tie:
        """Return the tie to this node's holder; the system is the one that `unios.system()` finds or starts. Unavailable."""
        with self._lock:
            home = system().home
            if self._tie is None or self._home != home:
                with Connection(role="program") as connection:
                    info = connection.ask("node.info", None, NodeInfo)
                if self._tie is not None:
                    self._tie.close()
                self.node, self._home = str(info.name), home
                self._tie = Tie(port_of(me(), self.node), start=lambda: starting.start(self.node, str(info.system)))
            return self._tie

    def taken(self, known: Known, token: str = "", *, told: bool = False) -> None:
        """There is one more reference. `token`: of the loan with which it came; `told`: the holder knows already. Never raises for want of a system."""
        with self._lock:
            self._counts[known[0]] += 1
            with contextlib.suppress(UniosError):
                tie = self.tie()
                if told:
                    tie.ids[known[0]] = known
                elif token or known[0] not in tie.ids:
                    tie.hold(known, token)

    def gone(self, id_: str) -> None:
        """There is one less. Called by finalizers."""
        tie = self._tie
        if tie is not None and not sys.is_finalizing():
            tie.post(lambda: self._let_go(id_))

    def _let_go(self, id_: str) -> None:
        with self._lock:
            self._counts[id_] -= 1
            if self._counts[id_] <= 0:
                del self._counts[id_]
                if self._tie is not None:
                    self._tie.drop(id_)

    def lend(self, known: Known) -> str:
        """A reference is about to be sent: have the object kept until it has come. Return the loan's token."""
        token = uuid.uuid4().hex
        with self._lock, contextlib.suppress(UniosError):
            self.tie().lend([known[0]], token)
        return token

    def soon(self, work: Callable[[], object]) -> bool:
        """Have something done after a moment, before what is said then; False if there is nobody who does it."""
        tie = self._tie
        if tie is None:
            return False
        tie.post(work)
        return True

    def begins_reading(self, id_: str) -> None:
        """As `reads`; the holder is still to be told, and is in a moment."""
        if self._tie is not None:
            self._tie.post(partial(self._tie.begin_reading, id_))

    def reads(self, id_: str) -> None:
        """This process reads an object in place."""
        if self._tie is not None:
            self._tie.reading[id_] += 1

    def has_read(self, id_: str) -> None:
        """It does so no more. Called by finalizers."""
        tie = self._tie
        if tie is not None and not sys.is_finalizing():
            tie.post(lambda: self._end_reading(tie, id_))

    def _end_reading(self, tie: Tie, id_: str) -> None:
        tie.reading[id_] -= 1
        if tie.reading[id_] <= 0:
            del tie.reading[id_]
        tie.tell("read", id_, start=False)

    # forks and the end

    def before_fork(self) -> None:
        """The child refers to all that this process does, before it can say so itself: a loan keeps it."""
        self._lock.acquire()
        if self._tie is not None and self._tie.ids:
            self._token = uuid.uuid4().hex
            self._tie.lend(list(self._tie.ids), self._token, start=False)

    def after_fork(self) -> None:
        self._lock.release()

    def forked(self) -> None:
        self._lock = threading.RLock()
        if self._tie is not None:
            self._tie.forked(self._token)

    def leave(self) -> None:
        """This process ends: nothing is referred to from here any more."""
        tie = self._tie
        if tie is not None and tie.is_connected:
            tie.tell("leave", start=False)


COUNTS: Final = Counts()
bringing.soon = COUNTS.soon
os.register_at_fork(before=COUNTS.before_fork, after_in_parent=COUNTS.after_fork, after_in_child=COUNTS.forked)
atexit.register(COUNTS.leave)


def ask(op: str, *args: object) -> Any:
    """Ask this node's holder what is answered soon."""
    return COUNTS.tie().call(op, *args)
