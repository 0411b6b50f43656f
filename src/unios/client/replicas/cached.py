"""Cached: the state of an object in the caller's process, to read from, and the thread that hears when it has to be dropped."""

import pickle
import threading
import time
import uuid
from typing import Any

from unios.client.messages.port import Port
from unios.client.replicas.caller import Caller
from unios.client.replicas.config import load
from unios.client.replicas.outcome import run
from unios.core.caching import EPOCH_GRANTS, Cache
from unios.errors import UniosError
from unios.limits import OBJECT_LOOK_MS, OBJECT_POLL_MS


def _now_ms() -> float:
    return time.monotonic() * 1000


class Cached:
    """That of one handle. A read is answered from it as long as its lease lasts and no write has dropped it."""

    def __init__(self, caller: Caller, lease_ms: int, token: str) -> None:
        self._caller, self._token = caller, token
        self._lease_ms = lease_ms
        self._begin()

    def _begin(self) -> None:
        self.session = uuid.uuid4().hex
        self._cache = Cache(self._lease_ms)
        self._lock = threading.Lock()
        """Of what follows, and of a read, so that none sees a state that is being exchanged."""
        self._target: Any = None
        self._seq = self._epoch = 0
        self._closed = threading.Event()
        self._port: Port | None = None
        threading.Thread(target=self._listen, name="unios-cache", daemon=True).start()

    def read(self, call: bytes) -> bytes:
        """Return the outcome of a read."""
        while True:
            with self._lock:
                if self._cache.is_usable(_now_ms()):
                    return run(self._target, call)
                have = self._seq
            asked_ms = _now_ms()
            number, seq, state = self._caller.ask("fetch", self._token, self.session, have)
            target = None if state is None else load(state)
            with self._lock:
                if state is None:
                    if self._seq != seq:
                        continue  # another thread has exchanged it meanwhile
                    target = self._target
                port = self._port
                if number // EPOCH_GRANTS > self._epoch and port is not None and self._epoch:
                    port.close()  # there is another owner: the one that is listened to may be stopped, and its connection not broken
                self._epoch = max(self._epoch, number // EPOCH_GRANTS)
                if self._cache.got(number, asked_ms):
                    self._seq, self._target = seq, target
                return run(target, call)  # it was so when it was asked for, whatever has come meanwhile

    def drop(self) -> int:
        """A write of one's own begins: return up to which grant nothing is kept."""
        with self._lock:
            return self._cache.write()

    def _listen(self) -> None:
        """Drop what is to be dropped; to ask for the next invalidation says so."""
        while not self._closed.is_set():
            try:
                if self._port is None:
                    self._port = self._caller.new_port(self._caller.look()[0].pid, OBJECT_LOOK_MS / 1000)
                asking = self._port.options(timeout=2 * OBJECT_POLL_MS / 1000, idempotent=True).begin(
                    "invalidation", self.session, self._cache.dropped
                )
                if self._closed.is_set():
                    break  # a port that is closed opens again for a call: one of the two sees the other
                number = asking.result()
                with self._lock:
                    self._cache.drop(number)
            except (UniosError, pickle.PickleError):
                self._leave()
                self._closed.wait(OBJECT_LOOK_MS / 1000)  # without hearing anything it may read until its lease is over
        self._leave()

    def _leave(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()

    def close(self) -> None:
        """End the thread. What was granted runs out by itself."""
        self._closed.set()
        port = self._port
        if port is not None:
            port.close()
