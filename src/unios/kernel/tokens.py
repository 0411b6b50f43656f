"""Join tokens: made here, spent here. A token is a bearer secret that admits one node, once, before it expires.

It carries the addresses to try and the fingerprint of the authority, so that the joiner knows whom it talks to. The store keeps a hash of the secret.
"""

import asyncio
import base64
import hashlib
import os
import re
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from unios import __version__
from unios.core.audit import Draft, Outcome
from unios.core.nodes import NodeRecord, TokenRecord, covers, may_claim_machine, may_speak_for, node_key
from unios.errors import CallerError, Denied, OutcomeUnknown, Unavailable, UniosError
from unios.kernel import certificates, cluster
from unios.kernel.addresses import reach
from unios.kernel.callers import user_of
from unios.kernel.certificates import Identity
from unios.limits import ADDRESSES_MAX, LEASE_TTL_MS_MAX
from unios.store.model import Compare, Put, Record, Transaction
from unios.store.pages import every
from unios.wire.joining import JoinAsk, Joined, JoinGreeting, JoinProbe, JoinProbed
from unios.wire.operations import MakeToken, Token
from unios.wire.peer import Call

if TYPE_CHECKING:
    from unios.kernel.node import Node

T = TypeVar("T")
PREFIX: Final = "unios1."
PERSIST_S: Final = 10.0
"""So long a store that has just lost a machine is asked again."""
AGAIN_S: Final = 0.1
NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?")


class TokenText(msgspec.Struct, frozen=True):
    """What a token says."""

    addresses: tuple[str, ...]
    fingerprint: str
    secret: str


def encode(text: TokenText) -> str:
    """Return the token as it is typed."""
    return PREFIX + base64.urlsafe_b64encode(msgspec.msgpack.encode(text)).decode().rstrip("=")


def decode(token: str) -> TokenText:
    """Return what a token says. Raises CallerError."""
    body = token.strip().removeprefix(PREFIX)
    try:
        if body == token.strip():
            raise ValueError("no prefix")
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=TokenText)
    except (ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise CallerError("this is no token of unios, or a part of it is missing: `unios join` on a machine of the system makes one") from error


async def _persist(ask: Callable[[], Awaitable[T]]) -> T:
    """Ask the store again while it does not say; only what may be done twice."""
    loop = asyncio.get_running_loop()
    until = loop.time() + PERSIST_S
    while True:
        try:
            return await ask()
        except (Unavailable, OutcomeUnknown):
            if loop.time() >= until:
                raise
            await asyncio.sleep(AGAIN_S)


def check_name(name: str) -> None:
    """Raise CallerError unless a node may be called so."""
    if not NAME.fullmatch(name):
        raise CallerError(f"{name[:80]!r} is no name for a node: use up to 32 letters, digits and . _ - with a letter or digit at both ends")


def key_of(secret: str) -> str:
    return f"/tokens/{hashlib.sha256(secret.encode()).hexdigest()}"


class Tokens:
    """Those that one kernel makes and spends."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._fingerprint = ""

    async def make(self, ttl_s: int, *, root: bool) -> tuple[str, int, tuple[str, ...]]:
        """Return a token, when it expires, and the addresses in it."""
        node = self._node
        if not (node.home.ca / "ca.key").exists():
            return await self._have_made(ttl_s, root)
        if root and "root" not in node.identity.users:
            raise Denied("this system does not run as root: it cannot trust another machine's root")
        if not self._fingerprint:
            request = {"fingerprint": (node.home.ca / "ca.crt").read_text()}
            self._fingerprint = (await asyncio.to_thread(certificates.ask, request))["fingerprint"]
        secret = os.urandom(20).hex()
        users = (*(user for user in node.identity.users if user != "root"), *(("root",) if root else ()))
        expires_ms = node.wall_ms() + 1000 * ttl_s
        lease = await _persist(lambda: node.store.lease_grant(min(1000 * ttl_s, LEASE_TTL_MS_MAX)))
        await _persist(lambda: node.store.put(key_of(secret), msgspec.msgpack.encode(TokenRecord(expires_ms, users)), lease=lease))
        addresses = self._addresses()
        return encode(TokenText(addresses, self._fingerprint, secret)), expires_ms, addresses

    def _addresses(self) -> tuple[str, ...]:
        """Return where a joiner may try: this node, then others that can let it in, since they have the authority's key too."""
        node = self._node
        others = [
            record.addresses
            for record in node.nodes.values.values()
            if record.machine == node.system.founder and record.name != node.name and node.membership.view(record.name)[0] == "ready"
        ]
        return tuple(dict.fromkeys([*node.addresses.all, *(each for addresses in others for each in addresses)]))[:ADDRESSES_MAX]

    async def _have_made(self, ttl_s: int, root: bool) -> tuple[str, int, tuple[str, ...]]:
        """Only the founding machine has the authority's key."""
        node = self._node
        for record in node.nodes.values.values():
            if record.machine == node.system.founder and node.covers(record.name) and node.membership.view(record.name)[0] == "ready":
                body = MakeToken(ttl_s, root)
                token: Token = await node.links.call(record.name, "node.token", body, Token, user=node.user, timeout_ms=30_000)
                return token.token, token.expires_ms, token.addresses
        raise Unavailable("tokens are made on the founding machine, which has the key of the system's authority, and no node of it is ready")

    # spending

    async def join(self, call: Call) -> object:
        """Serve a stranger: join.hello, join.probe, join.ask."""
        if call.op == "join.hello":
            return JoinGreeting((self._node.home.ca / "ca.crt").read_bytes(), __version__, self._node.wall_ms(), True)
        if call.op == "join.probe":
            return await self._probe(call.decode(JoinProbe))
        ask = call.decode(JoinAsk)
        try:
            joined = await self._admit(ask)
        except UniosError as error:
            self._note(ask, str(error), "denied" if isinstance(error, Denied) else "failed")
            raise
        self._note(ask, f"{joined.name} is let in", "done")
        return joined

    def _note(self, ask: JoinAsk, what: str, outcome: Outcome) -> None:
        """Who joins says himself who he is: it is written down as what a stranger says."""
        node = self._node
        told = f"{what} (by its own words machine {ask.machine[:12]}, {', '.join(ask.users)[:80]})"
        node.auditing.add(Draft(node.wall_ms(), node.name, "a stranger", "join", told, outcome))

    async def _probe(self, ask: JoinProbe) -> JoinProbed:
        """Try to reach who would join, at the addresses that he would tell; only for the holder of a token, and a few."""
        await self._valid(ask.secret)
        if len(ask.addresses) > ADDRESSES_MAX or not 8 <= len(ask.nonce) <= 64:
            raise CallerError(f"a probe takes up to {ADDRESSES_MAX} addresses and 8 to 64 bytes that answer there")
        found = await asyncio.gather(*(reach(address, ask.nonce) for address in ask.addresses))
        return JoinProbed(tuple((address, why) for address, why in zip(ask.addresses, found, strict=True) if why), self._node.name)

    async def _admit(self, ask: JoinAsk) -> Joined:
        node = self._node
        await node.engine_moving.look_if_changed()
        if node.system.forgone:
            raise Unavailable("the store is being moved: join when it has come to its end")
        token, record = await self._valid(ask.secret)
        users = _granted(record.users, ask.users)
        await self._check_machine(ask.machine, users)
        for _attempt in range(5):
            name, compare = await self._free_name(ask.name)
            identity = Identity(node.system.id, name, ask.machine, users)
            request = {"sign": ask.public_key.decode("ascii", "replace"), "ca": os.fspath(node.home.ca), "identity": list(identity)}
            signed = await asyncio.to_thread(certificates.ask, request)
            certificate = signed["certificate"].encode()
            entry = NodeRecord(
                name, ask.machine, 0, users=users, version=ask.version, joined_ms=node.wall_ms(), certificate=certificates.mark(certificate)
            )
            spent = msgspec.msgpack.encode(TokenRecord(record.expires_ms, record.users, name))
            admission = Transaction(
                (compare, Compare(token.key, "modified", "==", token.modified)),
                (
                    Put(node_key(name), msgspec.msgpack.encode(entry)),
                    Put(token.key, spent, token.lease),
                    node.events.put("join", f"{name} joined with a token (machine {ask.machine[:12]}, for {', '.join(users)})"),
                ),
            )
            if await self._written(admission, entry):
                await node.engine_moving.look_if_changed()  # the store may have gone elsewhere meanwhile
                return self._joined(name, certificate, users)
            token, record = await self._valid(ask.secret)
        raise Unavailable("too many nodes join at the same time: try again")

    async def _written(self, admission: Transaction, entry: NodeRecord) -> bool:
        """Say whether the node is in the records with that certificate; where the store's answer was lost the record says it."""
        store = self._node.store
        try:
            return (await store.transact(admission)).succeeded
        except OutcomeUnknown:
            found, _revision = await _persist(lambda: store.range(node_key(entry.name)))
            return any(msgspec.msgpack.decode(record.value, type=NodeRecord).certificate == entry.certificate for record in found.records)

    async def _check_machine(self, machine: str, users: tuple[str, ...]) -> None:
        """Refuse one that calls itself a node of a machine on which it has no business."""
        node = self._node
        known = [msgspec.msgpack.decode(record.value, type=NodeRecord) for record in (await _persist(lambda: every(node.store, "/nodes/")))[0]]
        kept = frozenset({node.system.store_machine, node.system.founder, node.system.machine})
        if not NAME.fullmatch(machine) or not may_claim_machine(machine, users, kept, known, owner=user_of(os.geteuid())):
            raise Denied(
                f"the token does not let a node for {', '.join(users)} into machine {machine[:12]}: give the machine a UNIOS_HOME of its own"
            )

    def _joined(self, name: str, certificate: bytes, users: tuple[str, ...]) -> Joined:
        node = self._node
        members = {record.name: record.addresses for record in node.nodes.values.values() if record.state == "joined" and record.addresses}
        may_know = node.system.gateway and covers(users, node.identity.users)
        etcd = cluster.read(node.home) if may_know else None
        return Joined(
            name,
            certificate,
            node.system.id,
            node.system.engine,
            node.system.store_machine,
            node.system.generation,
            members,
            msgspec.json.encode(etcd) if etcd is not None else b"",
        )

    async def _valid(self, secret: str) -> tuple[Record, TokenRecord]:
        result, _revision = await _persist(lambda: self._node.store.range(key_of(secret)))
        if not result.records:
            raise Denied("the token has expired, or this system never made it: `unios join` on a machine of the system makes a new one")
        record = msgspec.msgpack.decode(result.records[0].value, type=TokenRecord)
        if record.used_by:
            raise Denied(f"the token has been used already, by {record.used_by}: `unios join` on a machine of the system makes a new one")
        if self._node.wall_ms() > record.expires_ms:
            raise Denied("the token has expired: `unios join` on a machine of the system makes a new one")
        return result.records[0], record

    async def _free_name(self, wish: str) -> tuple[str, Compare]:
        """Return a name that is free and the condition under which it still is."""
        if wish:
            check_name(wish)
            result, _revision = await _persist(lambda: self._node.store.range(node_key(wish)))
            if not result.records:
                return wish, Compare(node_key(wish), "version", "==", 0)
            if msgspec.msgpack.decode(result.records[0].value, type=NodeRecord).state == "left":
                return wish, Compare(node_key(wish), "modified", "==", result.records[0].modified)
            raise CallerError(f"there is a node {wish} already: choose another name")
        taken = {record.key for record in (await _persist(lambda: every(self._node.store, "/nodes/")))[0]}
        number = 1
        while node_key(f"n{number}") in taken:
            number += 1
        return f"n{number}", Compare(node_key(f"n{number}"), "version", "==", 0)


def _granted(granted: tuple[str, ...], wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Return for whom a joining node may speak. `wanted`: "*" and "root" from one that runs as root, else its user."""
    if "root" in wanted:
        if "root" not in granted:
            raise Denied(
                "this node would run as root, and the token is for ordinary users: run join as one of them, "
                "or make a token with `unios join --root`, which trusts this machine's root"
            )
        return granted
    found = tuple(user for user in wanted if may_speak_for(granted, user))
    if not found:
        raise Denied(f"the token is for {', '.join(granted)}, and this node would run as {', '.join(wanted)}")
    return found
