"""Addresses of this node: takes links where it was told to, tells the system where that is, and tells it anew when an interface's address changes.

What is told is chosen by core/addresses.py. A machine that comes to another network (DHCP, a laptop) needs nobody: others learn the new address from the
record, and until then the node dials them. It never closes a link: one over an address that is gone does not answer, which the links see by themselves.
"""

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from unios.core.addresses import EVERYWHERE, is_loopback, join_address, split_address, told
from unios.core.nodes import NodeRecord
from unios.errors import CallerError, Unavailable, UniosError
from unios.kernel import interfaces, system
from unios.kernel.node_records import change_node
from unios.limits import ADDRESS_SETTLE_MS, DISK_RETRY_S, LINK_PORT, LINK_PORTS, PROBE_TIMEOUT_MS

if TYPE_CHECKING:
    from unios.kernel.node import Node


def ports_to_try(host: str, asked: int, last: int) -> list[int]:
    """Return the ports to try for taking links, in order; 0 is any. The one of last time first, so that an open firewall stays right."""
    if asked:
        return [asked]
    usual = [] if is_loopback(host) else range(LINK_PORT, LINK_PORT + LINK_PORTS)
    return list(dict.fromkeys([*([last] if last else []), *usual, 0]))


async def reach(address: str, nonce: bytes) -> str:
    """Return why whoever knows `nonce` is not reached at `address`, "" if it is."""
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_MS / 1000):
            host, port = split_address(address)
            reader, writer = await asyncio.open_connection(host, port, limit=64)
            try:
                said = await reader.readexactly(len(nonce))
            finally:
                writer.close()
        return "" if said == nonce else "another machine answers there"
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "no answer: a firewall drops it"
    except asyncio.IncompleteReadError:
        return "another machine answers there"
    except (OSError, UnicodeError, CallerError) as error:
        return getattr(error, "strerror", None) or str(error)


class Addresses:
    """Those of one node."""

    def __init__(self, node: "Node") -> None:
        self._node = node
        self._changed = asyncio.Event()

    @property
    def all(self) -> tuple[str, ...]:
        """Where other kernels may reach this one, the best first."""
        file = self._node.file
        return file.addresses or ((file.address,) if file.address else ())

    @property
    def best(self) -> str:
        return next(iter(self.all), "")

    def listen(self) -> None:
        """Take links at the address that was asked for: at its port, else that of last time, else the usual one, else any. Raises UniosError."""
        file = self._node.file
        host, asked = split_address(file.listen)
        last = split_address(file.address)[1] if file.address else 0
        why = ""
        for port in ports_to_try(host, asked, last):
            try:
                self._node.links.listen(host, port)
                break
            except OSError as error:
                why = error.strerror or str(error)
        else:
            raise Unavailable(
                f"links cannot be taken at {file.listen}: {why}; if the machine has another address now, `unios up --listen ADDRESS` says so"
            )
        self._look()

    def _look(self) -> bool:
        """Find out what to tell; remember it, and return whether it is something else than before."""
        node, file = self._node, self._node.file
        host = split_address(file.listen)[0]
        preferred = dict.fromkeys(interfaces.source_for(each) for addresses in node.system.members.values() for each in addresses)
        now = told(host, node.links.port, file.advertise, interfaces.local_addresses(), [each for each in preferred if each])
        if now == file.addresses:
            return False
        file.addresses, file.address = now, join_address(host, node.links.port)
        with contextlib.suppress(OSError):  # a full disk: at the next start it is found out again
            system.write(node.folder.node_file, file)
        return True

    async def run(self) -> None:
        """Watch the interfaces and tell of changes; ends only by cancellation."""
        sock = interfaces.watch() if split_address(self._node.file.listen)[0] in EVERYWHERE else None
        if sock is None:
            await asyncio.Event().wait()
            return
        loop = asyncio.get_running_loop()

        def heard() -> None:
            with contextlib.suppress(OSError):  # too much at once: something has changed all the same
                while sock.recv(65536):
                    pass
            self._changed.set()

        loop.add_reader(sock.fileno(), heard)
        try:
            while True:
                await self._changed.wait()
                await asyncio.sleep(ADDRESS_SETTLE_MS / 1000)
                self._changed.clear()
                if self._look():
                    await self._tell()
        finally:
            loop.remove_reader(sock.fileno())
            sock.close()

    async def _tell(self) -> None:
        """Write the addresses into the node's record, that of its member of etcd among them, however long it takes; a later change comes to the same place."""
        node = self._node
        await node.quorum.readdress()
        told_event = node.events.put("node", f"{node.name} is reached at {', '.join(self.all)} from now on")
        while True:
            with contextlib.suppress(UniosError):
                await change_node(node.store, node.name, self.as_it_is, told_event)
                return
            await asyncio.sleep(DISK_RETRY_S)

    def as_it_is(self, record: NodeRecord) -> NodeRecord:
        """Return the node's record with where the node, and its member of etcd if it can have one, is reached now."""
        return msgspec.structs.replace(record, addresses=self.all, etcd=self._node.quorum.offer)
