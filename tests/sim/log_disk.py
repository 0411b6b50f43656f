"""A replica's disk in the simulation: files of shipped frames. What was written and not synced is lost by a crash, in whole or in part, and not in order."""

import random
from collections.abc import Iterator

from unios.core import log_frames
from unios.core.log_replica import Commit, Kept, Replica

FILE_BYTES = 400


class File:
    """One file. `durable` has survived whatever comes."""

    def __init__(self, number: int, epoch: int, first: int, salt: int) -> None:
        self.number, self.epoch, self.first, self.salt = number, epoch, first, salt
        self.durable = b""
        self.written = b""


class Disk:
    """What one node has of the log."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self.files: list[File] = []
        self.fence = 0
        self.first = 0

    def _of(self, number: int) -> list[File]:
        return [file for file in self.files if file.number == number]

    def write(self, commit: Commit) -> None:
        """Write what `sync` makes durable."""
        for made in commit.created:
            self.files = [file for file in self.files if file.number != made.number]
            self.files.append(File(made.number, made.epoch, made.first, self._rng.getrandbits(32)))
        for write in commit.writes:
            file = self._of(write.number)[-1]
            if len(file.durable) + len(file.written) > FILE_BYTES:
                file = File(write.number, file.epoch, write.first, self._rng.getrandbits(32))
                self.files.append(file)
            file.written += log_frames.encode(file.salt, file.epoch, write.first, write.entries)

    def sync(self, commit: Commit) -> None:
        """Make it durable."""
        for file in self.files:
            file.durable, file.written = file.durable + file.written, b""
        self.fence, self.first = commit.fence or self.fence, commit.first or self.first

    def crash(self) -> None:
        """Lose some of what was not synced: the end of it, or a piece in its middle."""
        for file in self.files:
            torn = bytearray(file.written)
            match self._rng.randrange(4):
                case 0:
                    torn.clear()
                case 1:
                    del torn[self._rng.randrange(len(torn) + 1) :]
                case 2 if torn:
                    start = self._rng.randrange(len(torn))
                    torn[start : start + 16] = bytes(len(torn[start : start + 16]))
            file.durable, file.written = file.durable + bytes(torn), b""

    def start(self) -> Replica:
        """Read everything after a start: cut torn tails, and say what there is."""
        kept: dict[int, Kept] = {}
        for file in self.files:
            found = log_frames.scan(file.salt, file.epoch, file.durable, file.first)
            file.durable = file.durable[: found.good]
            end = found.places[-1].end if found.places else file.first
            before = kept.get(file.number)
            kept[file.number] = Kept(file.number, file.epoch, before.first if before else file.first, end)
        fence = max((self.fence, *(file.epoch for file in self.files)))
        return Replica(fence=fence, first=self.first, kept=kept.values())

    def read(self, number: int, offset: int, upto: int) -> Iterator[tuple[int, bytes]] | None:
        """Return (offset, entry) from there on, of one frame; None if it is damaged."""
        for file in self._of(number):
            for place in log_frames.scan(file.salt, file.epoch, file.durable, file.first).places:
                if place.first <= offset < place.end:
                    found = log_frames.decode(file.salt, file.epoch, file.durable, place.position)
                    assert found is not None
                    numbered = enumerate(found[1], place.first)
                    return iter([(at, entry) for at, entry in numbered if offset <= at < upto])
        return None

    def damage(self) -> bool:
        """Spoil a byte of a frame that is not the last one of its file."""
        files = [file for file in self.files if len(log_frames.scan(file.salt, file.epoch, file.durable, file.first).places) > 1]
        if not files:
            return False
        file = self._rng.choice(files)
        places = log_frames.scan(file.salt, file.epoch, file.durable, file.first).places
        at = self._rng.randrange(places[-1].position)
        file.durable = b"".join((file.durable[:at], bytes((file.durable[at] ^ 0x40,)), file.durable[at + 1 :]))
        return True
