"""A connection to an etcd cluster: bytes of a request there, bytes of an answer back, and what went wrong as errors of ours.

Nothing is sent twice. A write that may have reached etcd and has no answer is OutcomeUnknown; one that etcd refused, or that never left, is not.
The library (grpcio) is loaded here and only when a channel is made: who uses the embedded store does not need it.
"""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, Final

from unios.errors import CallerError, Compacted, Denied, DiskFull, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.store.etcd import messages
from unios.store.etcd.address import Address
from unios.store.model import Traffic
from unios.store.tally import Tally

CALL_TIMEOUT_S: Final = 2.5
"""A follower whose leader has just died drops what it passes on, and never says so: this is how long such a request takes."""
PARTING_S: Final = 0.5
"""So long what is under way over a channel that is left may go on."""
_LEADER: Final = (("hasleader", "true"),)
"""A member that knows of no leader refuses at once, and ends watches."""
WRITES: Final = frozenset(
    {
        "KV/Put",
        "KV/Txn",
        "KV/DeleteRange",
        "KV/Compact",
        "Lease/LeaseGrant",
        "Lease/LeaseRevoke",
        "Cluster/MemberAdd",
        "Cluster/MemberRemove",
        "Cluster/MemberPromote",
        "Cluster/MemberUpdate",
    }
)
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_retries", 0),
    ("grpc.use_local_subchannel_pool", 1),  # a channel that is opened anew connects anew
    ("grpc.keepalive_time_ms", 10_000),  # etcd ends connections that ask more often than each 5 s
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # so long an attempt to connect may take
    ("grpc.max_reconnect_backoff_ms", 500),
)
_REFUSED: Final = ("failed to connect to all addresses", "too many requests", "not capable", "user name is empty", "invalid auth token")
"""In what these answer, nothing was done."""


class Channel:
    """Give it back with `close`. Runs in one asyncio loop."""

    def __init__(self, address: Address) -> None:
        try:
            import grpc.aio
        except ImportError as error:
            raise Unavailable("etcd needs the package grpcio: install unios[etcd]") from error
        self._grpc = grpc
        self._address = address
        self._token = ""
        self._channel = self._open()
        self._methods: dict[str, Any] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._beside: dict[str, Channel] = {}
        self._turned_s = 0.0
        self._mute_s = 0.0
        """Since when nothing has been answered that was asked with less patience than CALL_TIMEOUT_S; 0: something has."""
        self.tally = Tally()

    def traffic(self) -> dict[str, Traffic]:
        """Return what was asked of etcd, by operation, and what its watches said."""
        asked, heard = self.tally.shown()
        return asked | heard

    def _open(self) -> Any:
        address, grpc = self._address, self._grpc
        if _numeric(address.members):
            target = ("ipv6:" if address.members[0].startswith("[") else "ipv4:") + ",".join(address.members)
        else:
            target = address.members[0]
        if not (address.ca or address.cert):
            return grpc.aio.insecure_channel(target, options=_OPTIONS)
        named = (("grpc.ssl_target_name_override", address.server),) if address.server else ()
        return grpc.aio.secure_channel(target, self._credentials(), options=(*_OPTIONS, *named))

    @property
    def members(self) -> tuple[str, ...]:
        return self._address.members

    def to_one(self, member: str) -> "Channel":
        """Return a connection to that member alone, let in as this one is. Give it back with `close`."""
        return Channel(self._address._replace(members=(member,)))

    def beside(self, number: int) -> "Channel":
        """Return whom to ask that for the `number`-th time, from 0: this one, then another member after the other. It is given back with this one."""
        members = self._address.members
        if not number or len(members) == 1:
            return self
        member = members[number % len(members)]
        if member not in self._beside:
            self._beside[member] = self.to_one(member)
            self._beside[member].tally = self.tally
        return self._beside[member]

    def turn_to(self, members: tuple[str, ...]) -> None:
        """Ask these from now on. What is under way ends by itself or is cut off after PARTING_S, when watches are gone on with at the others."""
        if members != self._address.members:
            self._turn(members)

    def reconnect(self) -> None:
        """Connect anew, with the certificates that lie in the files now. What is under way ends as with `turn_to`. Raises Unavailable."""
        self._turn(self._address.members)

    def _silent(self) -> None:
        """A member has not answered in time. It may be on a machine that is gone, of which Linux says nothing for long: the next one is asked, connected anew."""
        now = asyncio.get_running_loop().time()
        if now - self._turned_s >= CALL_TIMEOUT_S:
            self._turned_s = now
            self._turn((*self._address.members[1:], self._address.members[0]))

    def _turn(self, members: tuple[str, ...]) -> None:
        self._address = self._address._replace(members=members)
        before, self._channel = self._channel, self._open()
        self._methods.clear()
        beside, self._beside = self._beside, {}
        self._part(before.close(PARTING_S))
        for other in beside.values():
            self._part(other.close(PARTING_S))

    def _part(self, closing: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(closing)
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    def _credentials(self) -> Any:
        def read(path: str) -> bytes | None:
            return Path(path).read_bytes() if path else None

        address = self._address
        try:
            return self._grpc.ssl_channel_credentials(read(address.ca), read(address.key), read(address.cert))
        except OSError as error:
            raise Unavailable(f"a certificate for etcd cannot be read: {error}") from error

    async def _metadata(self) -> tuple[tuple[str, str], ...]:
        if not self._address.user:
            return _LEADER
        if not self._token:
            request = messages.authenticate(self._address.user, self._address.password)
            try:
                answer = await self._method("Auth/Authenticate")(request, timeout=CALL_TIMEOUT_S)
            except self._grpc.aio.AioRpcError as error:
                raise self._told(error, writes=False) from error
            self._token = messages.read_token(answer)
        return (("token", self._token), *_LEADER)

    def _method(self, name: str) -> Any:
        if name not in self._methods:
            self._methods[name] = self._channel.unary_unary(f"/etcdserverpb.{name}")
        return self._methods[name]

    async def call(self, name: str, request: bytes, *, writes: bool | None = None, timeout_s: float = CALL_TIMEOUT_S) -> bytes:
        """Ask one thing. `writes`: whether it may change something, for a transaction that only reads. One that is waited for less long than CALL_TIMEOUT_S
        says nothing of the member if it is not answered. Raises what `_told` says."""
        metadata = await self._metadata()
        self.tally.asked(name, len(request))
        try:
            answer: bytes = await self._method(name)(request, timeout=timeout_s, metadata=metadata)
        except self._grpc.aio.AioRpcError as error:
            told = self._told(error, writes=name in WRITES if writes is None else writes, patient=timeout_s >= CALL_TIMEOUT_S)
            raise told from error
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            changes = name in WRITES if writes is None else writes
            raise (OutcomeUnknown if changes else Unavailable)(f"etcd at {','.join(self._address.members)}: {CUT}") from None
        self._mute_s = 0.0
        return answer

    async def watch(self, prefix: bytes, start: int, end: bytes = b"") -> AsyncIterator[messages.Watched]:
        """Yield the messages of a watch of a prefix, or of what lies before `end`, until it breaks. Raises Unavailable, Compacted."""
        stream = self._channel.stream_stream("/etcdserverpb.Watch/Watch")(metadata=await self._metadata())
        try:
            await stream.write(messages.watch(prefix, start, end))
            while (data := await stream.read()) is not self._grpc.aio.EOF:
                told = messages.read_watch(data)
                self.tally.told("watch", 1, len(data), len(told.changes))
                if told.compacted:
                    raise Compacted(f"etcd has compacted its history up to revision {told.compacted}: read everything again")
                if told.canceled:
                    raise Unavailable(f"etcd ended a watch: {told.reason}")
                yield told
            raise Unavailable("etcd ended a watch")
        except self._grpc.aio.AioRpcError as error:
            raise self._told(error, writes=False) from error
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            raise Unavailable(f"etcd ended a watch: {CUT}") from None
        finally:
            stream.cancel()

    def _is_mute(self, *, patient: bool) -> bool:
        """Return whether it has been waited long enough for an answer to say that none will come."""
        now = asyncio.get_running_loop().time()
        self._mute_s = self._mute_s or now
        return patient or now - self._mute_s >= CALL_TIMEOUT_S

    def _told(self, error: Any, *, writes: bool, patient: bool = True) -> UniosError:
        """Return what an error of the library is to us."""
        code, said = error.code().name, str(error.details() or "")
        sentence = f"etcd at {','.join(self._address.members)}: {said or code}"
        one_alone = len(self._address.members) > 1 and not _numeric(self._address.members)  # of names the library is given the first
        if (code == "DEADLINE_EXCEEDED" and self._is_mute(patient=patient)) or (code == "UNAVAILABLE" and one_alone):
            self._silent()
        if "invalid auth token" in said or code == "UNAUTHENTICATED":
            self._token = ""
        match code:
            case "NOT_FOUND":
                return NotFound(sentence)
            case "FAILED_PRECONDITION":  # a change of members that it does not take at present
                return Unavailable(sentence)
            case "OUT_OF_RANGE":
                return Compacted(f"{sentence}: read everything again")
            case "RESOURCE_EXHAUSTED" if "space exceeded" in said:
                return DiskFull(f"{sentence}; {FULL_OURS if self._address.server else FULL}")
            case "RESOURCE_EXHAUSTED" if "grpc: received message larger" in said:  # so says the member of what it has not looked at
                return CallerError(f"{sentence}; start its members with --max-request-bytes={REQUEST_BYTES_MAX}")
            case "PERMISSION_DENIED":
                return Denied(sentence)
            case "INVALID_ARGUMENT" if "too large" in said:
                return CallerError(f"{sentence}; start its members with --max-request-bytes={REQUEST_BYTES_MAX}")
            case "INVALID_ARGUMENT" if "too many operations" in said:
                return CallerError(f"{sentence}; start its members with --max-txn-ops={OPERATIONS_MAX}")
            case "INVALID_ARGUMENT" if "auth token" not in said and "user name" not in said:
                return CallerError(sentence)
        if writes and code != "UNAUTHENTICATED" and not any(words in said for words in _REFUSED):
            return OutcomeUnknown(f"{sentence}: whether it was done is not known")
        return Unavailable(sentence)

    async def close(self, parting_s: float | None = None) -> None:
        """Give it back; what is under way is cut off after so long, at once without."""
        beside, self._beside = self._beside, {}
        for other in beside.values():
            await other.close(parting_s)
        await self._channel.close(parting_s)


REQUEST_BYTES_MAX: Final = 8 * 1024 * 1024
OPERATIONS_MAX: Final = 1_024
"""What members are to be started with: a value has up to 4 MiB, a transaction up to 512 parts of ours and some of the gateway's."""


FULL: Final = "compact and defragment it, or raise its --quota-backend-bytes, then disarm the alarm"
FULL_OURS: Final = (
    "unios compacts its members and gives back what they do not need, within a minute; if that is not enough (`unios store status`), the system's owner "
    "has to raise quota_bytes in store/cluster.json on each machine that has it, and start the nodes there anew, one machine after the other"
)
CUT: Final = "the connection was given up, since another member is asked now"


def _is_cancelled() -> bool:
    """Whether it is this task that is cancelled: the library says the same of a call whose connection was closed."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _numeric(members: tuple[str, ...]) -> bool:
    hosts = [member.rpartition(":")[0] for member in members]
    return all(host.replace(".", "").isdigit() for host in hosts) or all(host.startswith("[") for host in hosts)
