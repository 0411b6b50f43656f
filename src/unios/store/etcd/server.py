"""The store's process where etcd is the engine: a gateway on the Unix socket `sock` of one folder. One process per folder: `lock` decides."""

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

from unios.errors import CallerError
from unios.store.etcd.address import Address, parse
from unios.store.etcd.channel import Channel
from unios.store.etcd.gateway import Gateway, Settles
from unios.store.etcd.members import Moved
from unios.store.requests import CompactRequest, DefragmentRequest, LeaseRequest, MemberRequest
from unios.store.server import Restores, be_store, decoded, send_all, size_of, tend, watch
from unios.store.sqlite import Compact, Grant
from unios.store.switch import Mover, Side
from unios.wire.peer import Call


class GatewayRequests:
    """What such a process answers: the same as any store."""

    def __init__(self, gateway: Gateway, restores: Restores | None = None) -> None:
        """`restores`: those that have begun with the engine whose place it takes."""
        self.gateway = self._gateway = gateway
        self.tally = gateway.tally
        self.restores = self._restores = restores or Restores()

    async def handle(self, call: Call) -> object:
        """Serve one request."""
        gateway = self._gateway
        match call.op:
            case "store.transact":
                return await gateway.do(decoded(call, gateway.tally))
            case "store.watch":
                return await watch(gateway, call)
            case "store.grant":
                return await gateway.do(Grant(call.decode(LeaseRequest).ttl_ms))
            case "store.renew":
                gateway.tally.asked("renew", size_of(call))
                return await gateway.renew(call.decode(LeaseRequest).lease)
            case "store.end":
                return await gateway.end(call.decode(LeaseRequest).lease)
            case "store.compact":
                return await gateway.do(Compact(call.decode(CompactRequest).revision))
            case "store.members":
                return await gateway.members()
            case "store.member":
                return await gateway.change_member(call.decode(MemberRequest))
            case "store.health":
                return await gateway.health()
            case "store.reconnect":
                gateway.reconnect()
                return 0
            case "store.defragment":
                return await gateway.defragment(call.decode(DefragmentRequest).id)
            case "store.disarm":
                return await gateway.disarm(call.decode(DefragmentRequest).id)
            case "store.dump":
                return await send_all(gateway.dump(), call)
            case "store.restore":
                return await self._restores.take(call, gateway.restore)
            case "store.statistics":
                return await gateway.statistics()
        raise CallerError(f"the store has no operation {call.op[:80]}")

    def at_once(self, _call: Call) -> bool:
        """Nothing: each request waits for etcd."""
        return False


async def serve(
    folder: Path,
    address: Address,
    beat: Callable[[], None],
    stop: asyncio.Event,
    moved: Moved | None = None,
    quota_bytes: int = 0,
    mover: Mover | None = None,
    settles: Settles | None = None,
) -> None:
    """Serve `folder` until `stop`; its lock must be held."""
    await tend(folder, side_of(gateway_to(address, moved, quota_bytes, settles)), beat, stop, mover)


def gateway_to(address: Address, moved: Moved | None = None, quota_bytes: int = 0, settles: Settles | None = None) -> Gateway:
    """Return a gateway that does not run yet; what follows the address is the gateway's."""
    return Gateway(Channel(address), address.root, lambda: time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000, moved, quota_bytes, settles)


def side_of(gateway: Gateway, restores: Restores | None = None) -> Side:
    """Return it as what stands behind a socket."""
    return Side(GatewayRequests(gateway, restores), gateway.run, gateway.close)


def main(
    folder: Path,
    address: Address,
    beat: Callable[[], None],
    moved: Moved | None = None,
    quota_bytes: int = 0,
    mover: Mover | None = None,
    settles: Settles | None = None,
) -> int:
    """Be the store of `folder` until SIGTERM; 0, at once if it has one."""
    return be_store(folder, lambda stop: serve(folder, address, beat, stop, moved, quota_bytes, mover, settles))


if __name__ == "__main__":
    import sys

    sys.exit(main(Path(sys.argv[1]), parse(os.environ["UNIOS_ETCD"]), lambda: None))  # no password in argv
