"""A process that serves descriptors of FUSE with a tree in memory, and does to it what a test says: one word and its arguments a line, one line of JSON back.

python -m tests.fuse.server DESCRIPTOR... [--adopt SESSION] [--writeback] [--keep]
"""

import argparse
import array
import contextlib
import errno
import json
import sys
import threading
import time
from typing import Any

from tests.fuse.memory import Tree
from unios.errors import ProtocolError
from unios.fuse import replies, session
from unios.fuse.abi import Feature, Op
from unios.fuse.channel import Channel
from unios.fuse.replies import Kept
from unios.fuse.requests import Request, op_name
from unios.fuse.session import Session


class Server:
    def __init__(self, channels: list[Channel], tree: Tree) -> None:
        self.channels, self.tree = channels, tree
        self.hangs = self.refuses = self.held = self.answers = ""
        self.resent: list[str] = []
        self.written = 0
        tree.before = self.before

    def before(self, channel: Channel, request: Request) -> bool:
        name = op_name(request.op)
        if request.resent:
            self.resent.append(name)
        if request.op == Op.WRITE:
            self.written += 1
        if name == self.hangs:
            self.held = name
            time.sleep(1_000)  # in the middle of it, with the request taken and nothing answered
        if request.op == Op.READ and self.answers:
            self.odd_answer(channel, request)
            return True
        if name == self.refuses:
            return channel.refuse(request, errno.EIO) or True
        return False

    def odd_answer(self, channel: Channel, request: Request) -> None:
        match self.answers:
            case "parts":
                channel.answer(request, *(b"hello"[at : at + 1] for at in range(5)), *(b"",) * 3_000)
            case "wide":
                channel.answer(request, memoryview(array.array("i", [0x6C6C6568, 0x6F])))  # "hello" in two numbers of four bytes
            case "too-much":
                with contextlib.suppress(ProtocolError):
                    channel.answer(request, bytes(2 << 20))
            case "no-errno":
                channel.refuse(request, 600)

    def do(self, word: str, *given: str) -> Any:
        tree = self.tree
        match word:
            case "file":
                tree.make(1, given[0].encode(), 0o100644).data[:] = given[1].encode()
            case "change":
                self.data(given[0])[:] = given[1].encode()
            case "data":
                return bytes(self.data(given[0])).decode(errors="replace")[:200]
            case "hang":
                self.hangs = given[0]
            case "answer":
                self.answers = given[0]
            case "refuse":
                self.refuses = given[0] if given else ""
            case "recall":
                before = self.written
                known = self.channels[0].tell(
                    *replies.invalidate_inode(int(given[0]) if given[0].isdigit() else tree.inodes[1].entries[given[0].encode()].ino)
                )
                return {"known": known, "written": self.written - before}
            case "forget":
                return self.channels[0].tell(*replies.invalidate_entry(1, given[0].encode()))
            case "gone":
                gone = tree.inodes[1].entries.pop(given[0].encode())
                return self.channels[0].tell(*replies.deleted(1, gone.ino, given[0].encode()))
            case "store":
                return self.channels[0].tell(*replies.store(tree.inodes[1].entries[given[0].encode()].ino, 0, given[1].encode()))
            case "seen":
                return sorted(tree.seen)
            case "state":
                return {"held": self.held, "resent": self.resent, "written": self.written, "waiting": len(tree.waiting)}
        return None

    def data(self, name: str) -> bytearray:
        return self.tree.inodes[1].entries[name.encode()].data


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("descriptors", nargs="+", type=int)
    parser.add_argument("--adopt", default="")
    parser.add_argument("--file", nargs=2, default=())
    parser.add_argument("--writeback", action="store_true")
    parser.add_argument("--keep", action="store_true")
    asked = parser.parse_args()
    tree = Tree(Kept(3_600_000, 3_600_000) if asked.keep else replies.NOT_KEPT)
    server = Server([], tree)
    if asked.file:
        server.do("file", *asked.file)
    wanted = session.WANTED | (Feature.WRITEBACK_CACHE if asked.writeback else 0)
    for descriptor in asked.descriptors:
        agreed = Session(**json.loads(asked.adopt)) if asked.adopt else None
        server.channels.append(Channel.adopt(descriptor, agreed) if agreed else Channel.begin(descriptor, wanted=wanted))
    for channel in server.channels:
        threading.Thread(target=tree.serve, args=(channel,), daemon=True).start()
    agreed = server.channels[0].session
    print(json.dumps({name: getattr(agreed, name) for name in agreed.__struct_fields__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(server.do(*json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
