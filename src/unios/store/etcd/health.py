"""How each member of the etcd cluster stands, asked one by one: a member that is ill is not seen while the others answer in its place.

Whoever asks has a connection of its own to each, kept while it is asked again within KEPT_S: a handshake costs more than a question.
"""

import asyncio
import contextlib
from typing import Final
from urllib.parse import urlsplit

from unios.errors import CallerError, UniosError
from unios.store.etcd import messages
from unios.store.etcd.channel import Channel
from unios.store.requests import MemberHealth, MemberView

ANSWER_S: Final = 2.0
"""So long a member may take to say how it is."""
KEPT_S: Final = 30.0
DEFRAGMENT_S: Final = 120.0
ALARMS: Final = {1: "nospace", 2: "corrupt"}


class Doctor:
    """That of one gateway."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._asked: dict[str, Channel] = {}
        """By where a member takes clients."""
        self._later: asyncio.TimerHandle | None = None
        self._closing: set[asyncio.Task[None]] = set()

    async def look(self, members: tuple[MemberView, ...]) -> tuple[MemberHealth, ...]:
        """Return how each stands, in their order. What one has to say it says within ANSWER_S."""
        where = {urlsplit(one.client).netloc for one in members}
        for gone in self._asked.keys() - where:
            self._let_go(gone)
        raised: dict[int, str] = {}
        with contextlib.suppress(UniosError):
            raised = {member: ALARMS[alarm] for member, alarm in await self._alarms() if alarm in ALARMS}
        found = await asyncio.gather(*(self._ask(one, raised.get(one.id, "")) for one in members))
        self._later = self._later or asyncio.get_running_loop().call_later(KEPT_S, self._let_all_go)
        return tuple(found)

    async def _alarms(self) -> tuple[tuple[int, int], ...]:
        return messages.read_alarms(await self._channel.call("Maintenance/Alarm", messages.alarms()))

    async def _ask(self, member: MemberView, alarm: str) -> MemberHealth:
        name, client = member.name, urlsplit(member.client).netloc
        ill = MemberHealth(member.id, name, member.peer, member.client, member.learner, alarm=alarm, trouble="it has not begun yet")
        if not client:
            return ill
        try:
            async with asyncio.timeout(ANSWER_S):
                status = messages.read_status(await self._at(client).call("Maintenance/Status", b""))
        except (UniosError, TimeoutError) as error:
            return _replace(ill, trouble=str(error) or f"it has not answered within {ANSWER_S:.0f} s")
        if status.member != member.id:
            return _replace(ill, trouble="another member answers in its place")
        return MemberHealth(
            member.id,
            name,
            member.peer,
            member.client,
            member.learner,
            answers=bool(status.leader),
            version=status.version,
            leader=status.leader == member.id,
            bytes=status.bytes,
            used_bytes=status.used_bytes or status.bytes,
            alarm=alarm,
            trouble=" and ".join(status.errors) or ("" if status.leader else "it knows of no leader"),
        )

    def _at(self, client: str) -> Channel:
        if client not in self._asked:
            self._asked[client] = self._channel.to_one(client)
        return self._asked[client]

    async def defragment(self, members: tuple[MemberView, ...], member: int) -> None:
        """Have one write its file anew. Raises CallerError, Unavailable."""
        client = next((urlsplit(one.client).netloc for one in members if one.id == member), "")
        if not client:
            raise CallerError(f"etcd has no member {member:x} that has begun")
        one = self._channel.to_one(client)
        try:
            await one.call("Maintenance/Defragment", b"", timeout_s=DEFRAGMENT_S)
        finally:
            await one.close()

    async def disarm(self, member: int) -> None:
        """Take back a member's alarm of no space."""
        await self._channel.call("Maintenance/Alarm", messages.alarms(disarm=member, alarm=1))

    def reconnect(self) -> None:
        """Ask over new connections from now on."""
        for client in list(self._asked):
            self._let_go(client)

    def _let_all_go(self) -> None:
        self._later = None
        self.reconnect()

    def _let_go(self, client: str) -> None:
        task = asyncio.get_running_loop().create_task(self._asked.pop(client).close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._let_all_go()
        await asyncio.gather(*self._closing)


def _replace(ill: MemberHealth, *, trouble: str) -> MemberHealth:
    return MemberHealth(ill.id, ill.name, ill.peer, ill.client, ill.learner, alarm=ill.alarm, trouble=trouble)
