"""Auditing: what this kernel writes down of who did what, and what it answers about the log.

Nothing waits for the log: what was done stands whether it can be written down just then or not, and is kept until it can. A node that does not speak for
root may not write to the chain; a node that does writes down for it, under the name in its certificate.
"""

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core.audit import HEAD_KEY, Draft, Head, Outcome, Seen, Waiting, fault
from unios.core.gate import is_trusted
from unios.errors import Denied, Unavailable, UniosError
from unios.kernel import runfiles
from unios.kernel.callers import Caller
from unios.kernel.clocks import wall_ms
from unios.security_limits import AUDIT_AGAIN_S, AUDIT_LOOK_S
from unios.store.audit import append, read
from unios.store.mirror import Mirror
from unios.undecodable import UNDECODABLE
from unios.wire.auditing import AuditVerdict, AuditView, NoteAudit, ReadAudit
from unios.wire.operations import Empty
from unios.wire.peer import Call
from unios.wire.ticks import tick_or

if TYPE_CHECKING:
    from unios.kernel.node import Node

WRITTEN: Final = frozenset(
    {
        "node.token",
        "node.stop",
        "node.leave",
        "node.remove",
        "node.expel",
        "node.certify",
        "store.backup",
        "store.restore",
        "store.move",
        "store.rekey",
        "processes.signal",
        "processes.freeze",
    }
    | {"processes.thaw", "processes.exec", "processes.attach", "processes.terminal", "processes.feed", "processes.follow", "processes.renice"}
)
"""Operations that are written down however they come out; of those on processes only what is done to another user's. Of all others, what is denied."""
SHOWN: Final = ("name", "pid", "number", "path", "user", "root", "ttl_s", "force", "to")
"""Of what was asked, what is written down. Never arguments, environments, tokens or bytes of programs."""


class Auditing:
    """That of one kernel."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._waiting = Waiting()
        self._wake = asyncio.Event()
        self._file = node.folder.run / "audit"
        self._seen: Seen | None = None
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            fields = json.loads(self._file.read_text())
            self._seen = Seen(int(fields["number"]), str(fields["hash"]))
        self.is_trusted = is_trusted(node.identity.users, node.user)
        self.head: Mirror[Head] = Mirror(node.store, HEAD_KEY, Head, self._on_head, calm_ms=1_000)

    def _on_head(self, _key: str, _before: Head | None, now: Head | None) -> None:
        """Remember how far the log had come, so that one that is made anew is noticed."""
        if now is not None and (self._seen is None or now.number > self._seen.number):
            self._remember(now)

    def _remember(self, head: Head) -> None:
        self._seen = Seen(head.number, head.hash)
        with contextlib.suppress(OSError):
            runfiles.place(self._file, json.dumps({"number": head.number, "hash": head.hash}))

    # writing

    def note(self, caller: Caller, act: str, what: str, outcome: Outcome) -> None:
        """Have something written down that somebody did here, or was not let do."""
        via = caller.node if caller.node != self._node.name else ""
        self.add(Draft(wall_ms(), self._node.name, caller.user, act, what, outcome, caller.pid, via))

    def add(self, said: Draft) -> None:
        self._waiting.add(said)
        self._wake.set()

    def told(self, caller: Caller, call: Call, error: UniosError | None) -> None:
        """An operation has come to its end."""
        outcome: Outcome = "done" if error is None else "denied" if isinstance(error, Denied) else "failed"
        if outcome != "denied" and (call.op not in WRITTEN or (call.op.startswith("processes.") and self._is_own(caller, call))):
            return
        words = [asked(call), *([str(error)] if error is not None else [])]
        self.note(caller, call.op, ": ".join(filter(None, words)), outcome)

    def _is_own(self, caller: Caller, call: Call) -> bool:
        pid = fields_of(call).get("pid", 0)
        record = self._node.processes.values.get(f"/processes/{pid:010d}") if isinstance(pid, int) else None
        return record is None or record.user == caller.user or record.node != self._node.name

    async def run(self) -> None:
        """Write what waits; ends only by cancellation."""
        if not self.is_trusted:
            await self._write_on()
        else:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.head.run())
                group.create_task(self._write_on())

    async def _write_on(self) -> None:
        while True:
            self._wake.clear()
            said = self._waiting.take(wall_ms())
            if said is None:
                await tick_or(self._wake, AUDIT_LOOK_S)
                continue
            try:
                if self.is_trusted:
                    self._remember(await append(self._node.store, said))
                else:
                    await self._have_written(said)
            except UniosError:
                self._waiting.give_back(said)
                await asyncio.sleep(AUDIT_AGAIN_S)

    async def _have_written(self, said: Draft) -> None:
        node = self._node
        for name in node.links.names():
            identity = node.links.identity(name)
            if identity is not None and "root" in identity.users:
                await node.links.call(name, "node.note", NoteAudit(msgspec.msgpack.encode(said)), Empty, user=node.user)
                return
        raise Unavailable("no node that may write the audit log is linked")

    # what is asked

    async def written_for(self, caller: Caller, call: Call) -> object:
        """Write down what another kernel has seen; its name is that of its certificate, whatever it says."""
        if not caller.users:
            raise Denied("only a kernel has something written down")
        try:
            said = msgspec.msgpack.decode(call.decode(NoteAudit).said, type=Draft)
        except UNDECODABLE as error:
            raise Denied("that is no entry of the audit log") from error
        self.add(msgspec.structs.replace(said, node=caller.node))
        return Empty()

    async def show(self, caller: Caller, call: Call) -> object:
        """The log, and whether it is whole as far as this node knows."""
        if not caller.privileged:
            raise Denied("only the system's owner may read the audit log")
        if not self.is_trusted:
            raise Denied(f"{self._node.name} may not read the audit log: ask a node that speaks for root (--node)")
        last = call.decode(ReadAudit).last
        head, entries = await read(self._node.store)
        for entry in entries[-last:] if last else entries:
            said = entry.said
            await call.send(
                AuditView(
                    entry.number, said.at_ms, said.node, said.user, said.act, said.what, said.outcome, pid=said.pid, via=said.via, times=said.times
                )
            )
        seen = self._seen if self._seen is not None and self._seen.number <= head.number else None
        if self._seen is not None and seen is None:  # one that was appended since, or what was taken away
            later, _entries = await read(self._node.store)
            seen = self._seen if later.number < self._seen.number else None
        return AuditVerdict(fault(head, entries, seen), head.first, head.number)


def fields_of(call: Call) -> dict[str, object]:
    """Return what was asked, as far as it is a table."""
    try:
        found = msgspec.msgpack.decode(call.body)
    except (msgspec.MsgspecError, TypeError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def asked(call: Call) -> str:
    """Return what may be written down of what was asked, as words."""
    found = fields_of(call)
    return ", ".join(f"{name} {found[name]}" for name in SHOWN if isinstance(found.get(name), str | int) and found.get(name) not in ("", False))
