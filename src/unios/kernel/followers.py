"""Followers: the clients of an init that want to hear of output and exit, and the holds of those for whom no byte may be dropped.

A hold lets a stream grow to what its holder acknowledged plus what is kept; then the program waits. A holder that vanishes keeps its hold for
STREAM_HOLD_S or until another client takes one: that is its successor.
"""

from collections.abc import Mapping
from typing import Any, Final

from unios.kernel.poller import Client, Poller
from unios.limits import STREAM_FLIGHT_BYTES, STREAM_HOLD_S, STREAM_KEPT_BYTES, STREAM_SEGMENT_BYTES
from unios.wire.segments import NAMES, Name

WINDOW_BYTES: Final = STREAM_KEPT_BYTES - STREAM_SEGMENT_BYTES - STREAM_FLIGHT_BYTES
"""What a kernel has acknowledged may still be on its way to the reader: when a kernel dies there, it is asked for again and has to be there."""
UNBOUNDED: Final = 2**63


class _Follower:
    __slots__ = ("acknowledged", "hold", "told")

    def __init__(self, *, hold: bool, acknowledged: dict[Name, int]) -> None:
        self.hold, self.acknowledged = hold, acknowledged
        self.told: dict[str, Any] = {}

    @property
    def busy(self) -> bool:
        """Whether it is still to acknowledge something that it was told of: it reads to the end that it finds before it does, so it need not be told now."""
        return self.hold and any(self.told.get(name, 0) > self.acknowledged[name] for name in NAMES)


class Followers:
    """Those of one tree."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._followers: dict[Client, _Follower] = {}
        self._ghosts: dict[int, _Follower] = {}
        self._ghosts_seen = 0

    def follow(self, client: Client, *, hold: bool, offsets: Mapping[str, Any]) -> None:
        """Tell `client` from now on; with `hold` it has acknowledged `offsets`. Idempotent: the last call counts."""
        if hold:
            self._ghosts.clear()
        self._followers[client] = _Follower(hold=hold, acknowledged={name: int(offsets.get(name, 0)) for name in NAMES})

    def expect(self) -> None:
        """A holder is about to come: hold for it from the first byte on, as for one that has vanished."""
        self._keep(_Follower(hold=True, acknowledged=dict.fromkeys(NAMES, 0)))

    def acknowledge(self, client: Client, offsets: Mapping[str, Any]) -> None:
        """Note what a holder has safely taken; offsets never fall."""
        follower = self._followers.get(client)
        if follower is not None:
            for name in NAMES:
                follower.acknowledged[name] = max(follower.acknowledged[name], int(offsets.get(name, 0)))

    def gone(self, client: Client) -> None:
        """Forget a client; its hold lasts a while."""
        follower = self._followers.pop(client, None)
        if follower is not None and follower.hold:
            self._keep(follower)

    def _keep(self, follower: _Follower) -> None:
        self._ghosts_seen += 1
        number = self._ghosts_seen
        self._ghosts[number] = follower
        self._poller.after(STREAM_HOLD_S, lambda: self._forget(number))

    def _forget(self, number: int) -> None:
        self._ghosts.pop(number, None)

    def limit(self, name: Name) -> int:
        """Return the offset that the stream may reach."""
        holders = [*self._followers.values(), *self._ghosts.values()]
        return min((one.acknowledged[name] + WINDOW_BYTES for one in holders if one.hold), default=UNBOUNDED)

    def tell_growth(self, ends: dict[str, int]) -> None:
        """Tell each follower how far the streams are now, but for those that have not read yet what they were told before: they find it themselves."""
        for client, follower in list(self._followers.items()):
            if follower.told != ends and not client.behind and not follower.busy:
                follower.told = dict(ends)
                client.send({"event": "grew", **ends})

    def tell(self, event: dict[str, Any]) -> None:
        for client in list(self._followers):
            client.send(event)
