"""Renewing: the node's certificate is exchanged for another one, with a new key, before it ends, unasked and without an interruption.

The order is what makes it safe: the authority's machine writes the new certificate's hash into the node's record beside the present one (both are
accepted from then on), and only then hands it out; the node has it on disk whole before it shows it; links are made again beside the old ones; the record is
changed to the new one alone, and the old certificate is refused. Killed anywhere in between the node goes on with one of the two.
"""

import asyncio
import contextlib
import datetime
import os
import ssl
from typing import TYPE_CHECKING, Final

import msgspec

from unios.core import renewal
from unios.core.nodes import NodeRecord, node_key
from unios.core.validity import Validity, validity
from unios.errors import Denied, InternalError, ProtocolError, Unavailable, UniosError
from unios.kernel import certificates, keys
from unios.kernel.callers import Caller
from unios.kernel.certificates import Identity, mark
from unios.kernel.clocks import wall_ms
from unios.kernel.node_records import change_node
from unios.store.model import Compare, Put, Transaction
from unios.wire.certifying import Certified, Certify
from unios.wire.peer import Call
from unios.wire.ticks import tick

if TYPE_CHECKING:
    from unios.kernel.node import Node

LOOK_S: Final = 30.0
LOOK_S_MIN: Final = 0.2
ANSWER_MS: Final = 30_000
ATTEMPTS_MAX: Final = 5
TRUST_MS: Final = 5_000
"""So long after a link was made on trust the records have been read anew, if the lease is held."""


class Renewing:
    """That of one kernel."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        folder = node.folder.path
        self.renewal = renewal.Renewal(_of_pem((folder / "node.crt").read_bytes()))
        self._authority = _of_pem((node.home.ca / "ca.crt").read_bytes())
        left_ms = self.renewal.validity.until_ms - wall_ms()
        if left_ms <= 0:
            node.keep_out(
                f"the certificate of {node.name} ended on {_day(self.renewal.validity.until_ms)}, while it was away: "
                f"let it join anew, with a token (`unios join` on a member), after `unios leave --dead {node.name}` there"
            )

    async def run(self) -> None:
        """Renew whenever it is time; ends only by cancellation."""
        while True:
            if self.renewal.on(renewal.Tick(wall_ms())):
                try:
                    await self._renew()
                    self.renewal.on(renewal.Renewed(_of_pem((self._node.folder.path / "node.crt").read_bytes())))
                except (UniosError, OSError, TimeoutError) as error:
                    self.renewal.on(renewal.Failed(wall_ms(), str(error) or "no answer in time"))
            with contextlib.suppress(UniosError):
                await self._promote()
            if self._node.leasing.left_ms() > 0:
                self._node.acquaintance.look_again(since_ms=TRUST_MS)
            life_s = (self.renewal.validity.until_ms - self.renewal.validity.made_ms) / 1000
            await tick(min(LOOK_S, max(LOOK_S_MIN, life_s / 40)))

    async def _renew(self) -> None:
        node = self._node
        made = await asyncio.to_thread(certificates.ask, {"key": True})
        if (node.home.ca / "ca.key").exists():
            found = await self._certify(node.identity, made["public"].encode())
        else:
            found = await self._have_certified(made["public"].encode())
        keys.keep_next(node.folder.path, made["key"].encode(), found)
        keys.install(node.folder.path)
        node.certificate = mark(found)
        node.links.show(node.folder.path / "node.crt", node.folder.path / "node.key", _of_pem(found).until_ms)
        await self._promote()

    async def _have_certified(self, public_key: bytes) -> bytes:
        node = self._node
        why = f"no node of the machine that has the authority's key is linked with {node.name}"
        for record in list(node.nodes.values.values()):
            if record.machine == node.system.founder and record.state == "joined" and node.covers(record.name) and node.links.has(record.name):
                try:
                    body = Certify(public_key)
                    found: Certified = await node.links.call(record.name, "node.certify", body, Certified, user=node.user, timeout_ms=ANSWER_MS)
                except UniosError as error:
                    why = f"{record.name}: {error}"
                    continue
                return found.certificate
        raise Unavailable(why)

    async def _promote(self) -> None:
        """Have the record name the certificate that this node shows alone: from then on the one before is refused."""
        node = self._node
        record = node.nodes.values.get(node_key(node.name))
        if record is None or record.next_certificate != node.certificate or record.state != "joined":
            return

        def change(seen: NodeRecord) -> NodeRecord:
            if seen.next_certificate != node.certificate or seen.state != "joined":
                return seen
            return msgspec.structs.replace(seen, certificate=node.certificate, next_certificate="")

        await change_node(node.store, node.name, change)

    # the authority's side

    async def certify(self, caller: Caller, call: Call) -> object:
        """Make another certificate for the kernel that asks: the same identity, and no other."""
        if not caller.users:
            raise Denied("a certificate is made for a kernel that shows the one that it has")
        if not (self._node.home.ca / "ca.key").exists():
            raise Unavailable(f"{self._node.name} has not the key of the system's authority")
        identity = Identity(self._node.system.id, caller.node, caller.machine, caller.users)
        return Certified(await self._certify(identity, call.decode(Certify).public_key))

    async def _certify(self, identity: Identity, public_key: bytes) -> bytes:
        node = self._node
        request = {"sign": public_key.decode("ascii", "replace"), "ca": os.fspath(node.home.ca), "identity": list(identity)}
        try:
            made: str = (await asyncio.to_thread(certificates.ask, request))["certificate"]
        except InternalError as error:
            raise Unavailable(str(error)) from error
        for _attempt in range(ATTEMPTS_MAX):
            found, _revision = await node.store.range(node_key(identity.node))
            if not found.records:
                raise Denied(f"there is no node {identity.node}")
            record = msgspec.msgpack.decode(found.records[0].value, type=NodeRecord)
            if record.state != "joined" or record.machine != identity.machine:
                raise Denied(f"{identity.node} is no member any more")
            put = Put(found.records[0].key, msgspec.msgpack.encode(msgspec.structs.replace(record, next_certificate=mark(made.encode()))))
            compare = Compare(put.key, "modified", "==", found.records[0].modified)
            if (await node.store.transact(Transaction((compare,), (put,)))).succeeded:
                return made.encode()
        raise Unavailable(f"the record of {identity.node} keeps changing: try again")

    # what a person should know

    def warnings(self) -> list[str]:
        """Return what has to be done by a person, as sentences."""
        now_ms, found = wall_ms(), list[str]()
        if self.renewal.is_urgent(now_ms):
            why = f": {self.renewal.why}" if self.renewal.why else ""
            found.append(
                f"the certificate of {self._node.name} ends on {_day(self.renewal.validity.until_ms)} and could not be renewed{why}; "
                "let the machine that has the authority's key (the founding one) be up, and the two see each other"
            )
        if renewal.authority_ends(self._authority, now_ms):
            found.append(
                f"the certificate of the system's authority ends on {_day(self._authority.until_ms)}, and with it those of all nodes: "
                "found a new system before that (`unios store backup` keeps the records)"
            )
        return found


def _of_pem(pem: bytes) -> Validity:
    try:
        return validity(ssl.PEM_cert_to_DER_cert(pem.decode("ascii")))
    except ValueError as error:
        raise ProtocolError("that is no certificate") from error


def _day(ms: int) -> str:
    return datetime.datetime.fromtimestamp(ms / 1000, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
