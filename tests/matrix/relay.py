"""A relay of Ethernet frames between two interfaces that holds each for some time: a slow link where netem is missing. Run as a program, with JSON.

`ends`: the interfaces. `delay_ms`. `ports`: TCP ports whose segments are held; null: everything is. Frames come and go with what Linux still has to do to
them (checksums, segmentation: PACKET_VNET_HDR), and stay in order. Over QUEUE_MAX frames are dropped, as a router drops them.
"""

import collections
import json
import select
import socket
import struct
import sys
import time
from typing import Final

ETH_P_ALL: Final = 3
SOL_PACKET: Final = 263
PACKET_VNET_HDR: Final = 15
PACKET_ADD_MEMBERSHIP: Final = 1
PACKET_MR_PROMISC: Final = 1
PACKET_OUTGOING: Final = 4
FRAME_BYTES: Final = 1 << 17
VNET_BYTES: Final = 10
QUEUE_MAX: Final = 20_000


def end(name: str) -> socket.socket:
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    sock.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    sock.bind((name, 0x0003))
    request = struct.pack("iHH8s", socket.if_nametoindex(name), PACKET_MR_PROMISC, 0, b"")
    sock.setsockopt(SOL_PACKET, PACKET_ADD_MEMBERSHIP, request)
    sock.setblocking(False)
    return sock


def is_held(frame: bytes, ports: frozenset[int] | None) -> bool:
    """Whether the frame is one of those that are slow."""
    if ports is None:
        return True
    packet = frame[VNET_BYTES + 14 :]
    if frame[VNET_BYTES + 12 : VNET_BYTES + 14] != b"\x08\x00" or len(packet) < 20 or packet[9] != socket.IPPROTO_TCP:
        return False
    start = (packet[0] & 15) * 4
    return not ports.isdisjoint(struct.unpack_from("!HH", packet, start)) if len(packet) >= start + 4 else False


def main(settings: str) -> None:
    fields = json.loads(settings)
    delay_s = fields["delay_ms"] / 1000
    ports = None if fields["ports"] is None else frozenset(fields["ports"])
    ends = [end(name) for name in fields["ends"]]
    held: collections.deque[tuple[float, socket.socket, bytes]] = collections.deque()
    while True:
        wait = None if not held else max(0.0, held[0][0] - time.monotonic())
        for sock in select.select(ends, [], [], wait)[0]:
            other = ends[1 - ends.index(sock)]
            frame, address = sock.recvfrom(FRAME_BYTES)
            if address[2] == PACKET_OUTGOING:
                continue
            if not is_held(frame, ports):
                send(other, frame)
            elif len(held) < QUEUE_MAX:
                held.append((time.monotonic() + delay_s, other, frame))
        while held and held[0][0] <= time.monotonic():
            _at, other, frame = held.popleft()
            send(other, frame)


def send(sock: socket.socket, frame: bytes) -> None:
    try:
        sock.send(frame)
    except OSError:
        pass  # full, or the interface is going away: it is lost, as on a wire


if __name__ == "__main__":
    main(sys.argv[1])
