"""The members of the etcd cluster itself: who they are, and to add, promote, move and remove one."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

from unios.errors import CallerError, Unavailable, UniosError
from unios.store.etcd import messages
from unios.store.etcd.channel import Channel
from unios.store.requests import MemberRequest, MemberView

AGAIN_S: Final = 0.5
LOOK_S: Final = 30.0
"""How often members are looked at of which nothing was heard: nobody tells that one has come back at another address."""
ATTEMPTS: Final = 3
BARRIER: Final = messages.range_(b"\0", count_only=True)
METHODS: Final = {"promote": "Cluster/MemberPromote", "remove": "Cluster/MemberRemove", "move": "Cluster/MemberUpdate"}


async def listed(channel: Channel) -> tuple[MemberView, ...]:
    """Return the members, no older than when it is asked. Raises Unavailable.

    etcd 3.4 answers from what the member that is asked knows, which may be behind. So that one is had to catch up first, by a read of any key:
    changes of members are entries of the same log.
    """
    for _attempt in range(ATTEMPTS):
        caught_up = messages.read_member(await channel.call("KV/Range", BARRIER))
        answer = await channel.call("Cluster/MemberList", b"")
        if messages.read_member(answer) == caught_up:
            return _views(messages.read_members(answer))
    raise Unavailable("etcd's members change places too fast to say who they are: try again")


async def change(channel: Channel, request: MemberRequest) -> tuple[MemberView, ...]:
    """Do it and return the members after it. Raises CallerError, Unavailable for what etcd refuses at present, OutcomeUnknown."""
    if request.what == "add":
        answer = await channel.call("Cluster/MemberAdd", messages.member_add(request.peer))
        return _views(messages.read_members(answer, 3))
    if request.what not in METHODS:
        raise CallerError(f"members are added, promoted, moved and removed, not {request.what[:40]}ed")
    await channel.call(METHODS[request.what], messages.member_of(request.id, request.peer if request.what == "move" else ""))
    return await listed(channel)


Moved = Callable[[tuple[str, ...]], tuple[str, ...]]
"""Is told where the members are, host:port, when that has changed; returns them in the order in which to ask them."""


class Following:
    """Keeps a channel turned to the members that there are."""

    def __init__(self, channel: Channel, moved: Moved) -> None:
        self._channel = channel
        self._moved = moved
        self._look = asyncio.Event()

    def changed(self) -> None:
        """Members may have changed."""
        self._look.set()

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._look.wait()
            self._look.clear()
            try:
                members = clients(await listed(self._channel))
            except UniosError:
                self._look.set()
                await asyncio.sleep(AGAIN_S)
                continue
            if members and set(members) != set(self._channel.members):
                self._channel.turn_to(self._moved(members))
            if not members:
                self._look.set()
                await asyncio.sleep(AGAIN_S)


def clients(members: tuple[MemberView, ...]) -> tuple[str, ...]:
    """Return where gateways may ask: host:port of each member that has started and votes."""
    return tuple(sorted(urlsplit(one.client).netloc for one in members if one.client and not one.learner))


def _views(members: tuple[messages.Listed, ...]) -> tuple[MemberView, ...]:
    if not members:
        raise Unavailable("etcd lists no member")
    return tuple(MemberView(one.id, one.name, next(iter(one.peers), ""), next(iter(one.clients), ""), one.learner) for one in members)
