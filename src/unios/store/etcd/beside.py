"""Asking beside: what may be done more than once is asked of another member as well when the first does not answer; the first answer counts.

A follower drops what it had passed on to a leader that has died and never says so, and a member on a machine that is gone says nothing at all. Who waits for either
learns of the new leader only when it gives up. Nothing here trusts a clock: whoever asks counts from when it asked first.
"""

import asyncio
from typing import Final

from unios.errors import DiskFull, OutcomeUnknown, Unavailable, UniosError
from unios.store.etcd.channel import Channel

BESIDE_S: Final = 0.25
"""So long an answer is waited for before the next member is asked beside."""
AGAIN_S: Final = 0.1
"""After a refusal it is asked again so much later: a member that knows of no leader refuses at once, and knows of the new one any moment."""


async def ask(channel: Channel, name: str, request: bytes, *, within_s: float, writes: bool | None = None) -> bytes:
    """Ask until one has answered, for `within_s` at most. Only what may be done more than once. Those that hang are waited for no longer than that, and go on when
    another has answered: what they say of their member counts. Raises what the last one said, OutcomeUnknown if any did."""
    loop = asyncio.get_running_loop()
    until = loop.time() + within_s
    pending: set[asyncio.Task[bytes]] = set()
    failed: UniosError = Unavailable("etcd did not answer")
    number = 0
    due = loop.time()
    try:
        while True:
            if (now := loop.time()) >= due and now < until:
                pending.add(loop.create_task(channel.beside(number).call(name, request, writes=writes, timeout_s=until - now)))
                number, due = number + 1, now + BESIDE_S
            if not pending and now >= until:
                raise failed
            wait_s = max(min(due, until) - loop.time(), 0.001) if now < until else None
            if not pending:
                await asyncio.sleep(wait_s or 0)
                continue
            done, pending = await asyncio.wait(pending, timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
            for one in done:
                error = one.exception()
                if error is None:
                    return one.result()
                if not isinstance(error, Unavailable | OutcomeUnknown) or isinstance(error, DiskFull):
                    raise error
                failed = failed if isinstance(failed, OutcomeUnknown) else error
                due = min(due, loop.time() + AGAIN_S)
    except asyncio.CancelledError:
        for one in pending:
            one.cancel()
        raise
    finally:
        for one in pending:
            one.add_done_callback(_forget)


def _forget(task: asyncio.Task[bytes]) -> None:
    """Nobody asks for it any more."""
    if not task.cancelled():
        task.exception()
