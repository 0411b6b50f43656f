"""Lease bridge: renews the lease of a node whose kernel is being replaced, so that nobody claims what runs there, however long the new one takes.

It does what the kernel does (kernel/leasing.py) with the lease that this has left in run/lease.json: the deadline moves only when the store has acknowledged a
renewal, counted from when that was sent, and only while the page still says that lease. It never gets a lease. Works where the machine has the store's socket;
elsewhere the new kernel has what is left of the lease.
"""

import asyncio
import contextlib
import json
import threading
from typing import Final

from unios.errors import NotFound, UniosError
from unios.ids import LeaseId
from unios.kernel.clocks import boot_ms
from unios.kernel.leasing import DeadlinePage
from unios.limits import LEASE_HOLD_MS, LEASE_RENEW_MS
from unios.store import client
from unios.wire.doors import connect_unix
from unios.wire.home import Home, NodeFolder
from unios.wire.peer import Peer
from unios.wire.transport import SocketTransport

LOOK_S: Final = LEASE_RENEW_MS / 1000


class LeaseBridge:
    """That of one node, a context: it renews between entry and exit, in a thread of its own."""

    def __init__(self, home: Home, folder: NodeFolder) -> None:
        self._home, self._folder = home, folder
        self._end = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name=f"lease of {folder.name}", daemon=True)

    def __enter__(self) -> "LeaseBridge":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._end.set()
        self._thread.join()

    async def _peer(self) -> Peer:
        peer = Peer(SocketTransport(connect_unix(self._home.store / "sock", timeout_s=0)), role=f"upgrade of {self._folder.name}")
        await peer.start()
        return peer

    async def _run(self) -> None:
        store = client.StoreClient(self._peer)
        page = DeadlinePage(self._folder.lease)
        try:
            while not self._end.is_set():
                with contextlib.suppress(UniosError, OSError, TimeoutError):
                    await self._renew(store, page)
                await asyncio.sleep(LOOK_S)
        finally:
            await store.close()

    async def _renew(self, store: client.StoreClient, page: DeadlinePage) -> None:
        """Renew once what run/lease.json names, if the node's page still says so too."""
        lease, number = self._recorded()
        if not lease or page.lease != number:
            return
        sent_ms = boot_ms()
        try:
            async with asyncio.timeout(LEASE_HOLD_MS / 1000):
                await store.lease_renew(lease)
        except NotFound:  # it has ended: only the kernel may get another
            return
        page.extend(sent_ms + LEASE_HOLD_MS, number)

    def _recorded(self) -> tuple[LeaseId, int]:
        try:
            fields = json.loads((self._folder.run / "lease.json").read_text())
            return LeaseId(int(fields["lease"])), int(fields["incarnation"])
        except (OSError, ValueError, KeyError, TypeError):
            return LeaseId(0), 0
