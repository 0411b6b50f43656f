"""Pending: one question of a session that a thread waits to have answered."""

import _thread
import contextlib
from collections.abc import Callable

from unios.errors import from_wire
from unios.wire.synchronising import FAULT, NO, YES, Answer, Ask, Token

OnToken = Callable[[Token | None], None]
"""Is told what was granted as soon as that is known, whatever then happens to the thread that waits for it; None: it was given back."""


def ignore(_token: Token | None) -> None:
    """The OnToken of what keeps none."""


class Pending:
    """A question. `settle` lets its thread go, once."""

    __slots__ = ("_gate", "abandoned", "answer", "ask", "asked_s", "late", "on_token", "said", "token", "withdrawn")

    def __init__(self, ask: Ask, on_token: OnToken = ignore) -> None:
        self.ask = ask
        self.asked_s = 0.0
        self.late = False
        """Asked when the lease had run out, as far as this process could know."""
        self.said = False
        """On a connection, at least in part."""
        self.answer: Answer | None = None
        self.withdrawn = False
        """It is said to be wanted no more, and the answer is awaited."""
        self.abandoned = False
        """Nobody waits for it any more: what it still brings goes back."""
        self.token: Token | None = None
        self.on_token = on_token
        self._gate = _thread.allocate_lock()
        self._gate.acquire()

    def settle(self, answer: Answer) -> None:
        if self.answer is None:
            self.answer = answer
            self.wake()

    def wake(self) -> None:
        """Let its thread go: it has its answer. Idempotent."""
        with contextlib.suppress(RuntimeError):
            self._gate.release()

    def refuse(self) -> None:
        """It was withdrawn, and there is nobody who would answer."""
        self.settle(Answer(self.ask.id, NO))

    def fail(self, code: str, text: str) -> None:
        self.settle(Answer(self.ask.id, FAULT, text=f"{code}:{text}"))

    def result(self) -> Answer | None:
        """Return the answer that has come, None for one that was withdrawn; raise what it says is wrong."""
        answer = self.answer
        assert answer is not None
        if answer.outcome == FAULT:
            code, _colon, text = answer.text.partition(":")
            raise ValueError(text) if code == "value" else from_wire(code, text)
        return None if self.withdrawn and answer.outcome != YES and self.ask.kind != "barrier" else answer

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the answer; False at the timeout."""
        if self.answer is not None:
            return True
        if timeout_s is None:
            return self._gate.acquire()
        return self._gate.acquire(timeout=min(max(timeout_s, 0.0), _thread.TIMEOUT_MAX))
