"""Asks: what a session has to know of a question to ask it, to ask it again, and to undo it. Decides only."""

from typing import Final

from unios.client.synchronisation.pending import Pending
from unios.wire.synchronising import YES, Answer, Ask, Token, Waiting, Withdraw

TAKES: Final = frozenset({"take", "get", "put", "join", "wait"})
"""What is withdrawn when nobody waits for it any more."""
GIVES: Final = frozenset({"release", "done", "acted", "abort"})
"""What others wait for: once begun it is done, even if who does it is interrupted."""

CHANGES: Final = GIVES | {"put", "get", "back", "notify", "set", "clear", "reset"}


def takes_again(ask: Ask) -> bool:
    """Whether it is a wait for a condition: that ends with the lock, whatever happens."""
    return ask.op == "wait" and ask.kind == "lock"


def brings(ask: Ask) -> bool:
    """Whether the answer may bring what would be lost with it: the manager has let go of it, and keeps no more than the answer."""
    return ask.op == "get" or (ask.kind in ("semaphore", "barrier") and ask.op in ("take", "wait"))


def leaves_trace(ask: Ask) -> bool:
    """Whether something is different once it was done, even if nobody hears of it."""
    return ask.op in CHANGES or brings(ask)


def must_tell(pending: Pending) -> bool:
    """Whether who gives up may not go with nothing before it is known what has come of it: an item may be in a queue, a condition ends with its lock."""
    return takes_again(pending.ask) or (pending.ask.op == "put" and pending.said)


def numbered(ask: Ask, id_: int) -> Ask:
    """Return the question under a number of its session."""
    return Ask(id_, ask.op, ask.kind, ask.name, ask.actor, ask.size, ask.spec, ask.flags, ask.number, ask.text, ask.data)


def waiting(pending: Pending, now_s: float) -> Waiting:
    """Return what says on another connection that it waits still. The lock of a condition has been given back, whether or not that was said."""
    return Waiting(pending.ask, int((now_s - pending.asked_s) * 1000), pending.said or takes_again(pending.ask))


def withdrawing(ask: Ask, *, for_nobody: bool) -> Withdraw:
    """Return what says that it is not wanted any more, and by whom: somebody still waits for the answer, or nobody does."""
    return Withdraw(ask.id, ask.kind, ask.name) if for_nobody else Withdraw(ask.id)


def giving(ask: Ask, token: Token) -> Ask:
    """Return how what is held is given back; nobody waits for an answer."""
    return Ask(0, "give", ask.kind, ask.name, spec=token.epoch, number=token.number)


def undoing(ask: Ask, answer: Answer) -> Ask | None:
    """Return what is to be asked, and answered, so that it is as if the question had not been; None if there is nothing, or it is held and is given back."""
    if answer.outcome != YES:
        return None
    if ask.op == "get":
        return Ask(0, "back", ask.kind, ask.name, spec=ask.spec, number=answer.value, data=answer.data)
    if ask.kind == "semaphore" and not answer.value:
        return Ask(0, "back", ask.kind, ask.name, size=ask.size, spec=ask.spec)
    if ask.kind == "barrier" and answer.text == "act":
        return Ask(0, "abort", ask.kind, ask.name, spec=ask.spec)
    return None
