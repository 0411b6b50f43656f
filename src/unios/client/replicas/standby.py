"""Standby: the shell of a copy that is not the sequencer: carries out what core/replication.py decides, and answers reads where the strategy has that."""

import threading
from dataclasses import replace

from unios.client.replicas.config import Config
from unios.client.replicas.held import Held, loaded
from unios.core.replication import Follower, Have, Message, Pull, Reply
from unios.core.strategies import STRATEGIES
from unios.limits import OBJECT_READ_MS


def keeps_state(config: Config) -> bool:
    """Say whether the state is pickled after each write: where others are sent it."""
    return STRATEGIES[config.strategy].ships_state and config.strategy != "one-place"


class Standby:
    """A copy of rank 1 and above."""

    def __init__(self, incarnation: int) -> None:
        self._follower = Follower(incarnation)
        self._held: Held | None = None
        self._changed = threading.Condition()

    @property
    def config(self) -> Config | None:
        """That of the object; None before there is one here."""
        with self._changed:
            return None if self._held is None else self._held.config

    def hear(self, message: Message) -> Reply:
        """Take a message of the sequencer; the answer says that it is in memory here."""
        with self._changed:
            order, reply = self._follower.hear(message)
            self._held = loaded(order, self._held, keeps_state)
            if isinstance(message, Pull) and isinstance(reply, Have) and self._held is not None:
                reply = replace(reply, contents=self._held.contents(self._follower.outcomes.keep()))
            self._changed.notify_all()
            return reply

    def read(self, call: bytes) -> bytes | None:
        """Answer a read; None if what is here is not known to be committed, for OBJECT_READ_MS: the sequencer knows."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._follower.is_readable, OBJECT_READ_MS / 1000) or self._held is None:
                return None
            return self._held.run(call)
