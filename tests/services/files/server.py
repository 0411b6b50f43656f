"""A process that serves one mount with a volume of its own: no node, no log, blocks in memory. `python -m tests.services.files.server DESCRIPTOR FOLDER [SESSION]`

One word a line comes in, one line of JSON goes out.
"""

import json
import sys
import threading
import time
from pathlib import Path
from typing import Any

from unios.core.files.check import faults
from unios.core.files.entry import Entry
from unios.core.files.inode import Owner
from unios.fuse import session
from unios.fuse.channel import Channel
from unios.fuse.session import Session
from unios.services.files.journal import Journal
from unios.services.files.mounts import LocalMount
from unios.services.files.serving import Serving
from unios.services.files.stage import Stage
from unios.services.files.volume import Volume
from unios.wire.manifests import name_of


class Around:
    """Blocks are files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.volume: Volume = None  # type: ignore[assignment]
        self.blocks = folder / "blocks"
        self.blocks.mkdir(exist_ok=True)

    def fetch(self, blocks: Any, then: Any) -> None:
        def work() -> None:
            for name in blocks:
                with self.volume.lock:
                    self.volume.stage.put(name, (self.blocks / name.hex()).read_bytes())
            then(None)

        threading.Thread(target=work).start()

    def sync(self, ino: int, then: Any) -> None:
        self.seal(ino)
        then(None)

    def seal(self, ino: int) -> None:
        volume = self.volume
        with volume.lock:
            if volume.patch(ino) is not None:
                return
            made = {}
            for index, staged in volume.staging.of(ino).items():
                data = volume.take(ino, index, staged)
                (self.blocks / name_of(data).hex()).write_bytes(data)
                made[index] = (staged, staged.version, name_of(data), len(data))
            volume.sealed(ino, made, volume.state.inodes[ino].size)

    def is_full(self) -> bool:
        return False

    def when_room(self, then: Any) -> None:
        raise NotImplementedError

    def changed(self, mount: Any, names: Any, inodes: Any) -> None:
        return

    def news(self) -> None:
        return None

    def free_bytes(self) -> tuple[int, int, int]:
        return 1 << 40, 1 << 39, 1 << 39


def main() -> None:
    descriptor, folder = int(sys.argv[1]), Path(sys.argv[2])
    agreed = Session(**json.loads(sys.argv[3])) if len(sys.argv) > 3 else None
    around, log = Around(folder), list[Entry]()
    tokens = [one.name for one in folder.iterdir() if (one / "").is_dir() and "." in one.name]
    journal = (Journal.find(folder, tokens[0], 0) if tokens else None) or Journal.begin(folder, 0)
    volume = around.volume = Volume(Stage(folder / "stage", fresh=not tokens), journal, log.append)
    volume.recall(journal.read(), 0)
    volume.stage.keep_only({staged.slot for _ino, _index, staged in volume.staging.all()})
    if not volume.state.inodes:
        volume.commit(volume.tree.found(Owner(0, 0), 0o777, time.time_ns()))
    if agreed:
        channel = Channel.adopt(descriptor, agreed)
    else:
        channel = Channel.begin(descriptor, wanted=session.WANTED)
    mount = LocalMount(1, channel, Serving(volume, around), lambda: True, lambda _mount: None)
    if agreed:
        mount.adopted()
    mount.start()
    agreed = channel.session
    print(json.dumps({name: getattr(agreed, name) for name in agreed.__struct_fields__}), flush=True)
    for line in sys.stdin:
        print(json.dumps(do(volume, around, line.split())), flush=True)


def do(volume: Volume, around: Around, words: list[str]) -> Any:
    with volume.lock:
        match words:
            case ["faults"]:
                return list(faults(volume.state))
            case ["seal"]:
                for ino in list(volume.staging.files):
                    around.seal(ino)
                return volume.staging.count
            case ["uncache"]:
                while volume.stage._cached:
                    volume.stage.uncache() if len(volume.stage._cached) > 1 else volume.stage.free(volume.stage._cached.popitem()[1])
            case ["inodes"]:
                return len(volume.state.inodes)
            case ["staged"]:
                return volume.staging.count
            case ["locks"]:
                return {ino: len(locks) for ino, locks in volume.state.locks.items()}
    return None


if __name__ == "__main__":
    main()
