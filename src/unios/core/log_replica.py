"""A replica of a log: what it takes, refuses and shows. Decides only; kernel/log_files.py writes.

- Nothing is answered before it is on disk. Appends that wait while the disk works are brought there together (group commit).
- The *fence* is the newest epoch that it has heard of from who had it by the store. Who comes with an older one is refused, also after a crash.
- A span is made before the store names it, so a replica that does not know one that the record gives it has lost it, and says so: `gone`, never "empty".
- Offsets make appends idempotent: what is there already is not taken twice, and what would leave a hole is refused with the end that there is.
- What it shows ends where the writer has told that all is acknowledged, unless the reader knows by the record that the span is closed.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, NamedTuple

from unios.log_limits import LOG_COMMIT_BYTES, LOG_WAITING_MAX

Kind = Literal["fenced", "gone", "hole", "trimmed", "full", "failed"]
KEEP: Final = 0


class Refused(NamedTuple):
    """`number`: the fence, the end that there is (hole), or the first offset that is kept (trimmed)."""

    kind: Kind
    number: int = 0
    why: str = ""


class Kept(NamedTuple):
    """A span as the disk has it."""

    number: int
    epoch: int
    first: int
    end: int


class Answer(NamedTuple):
    """Order: tell who asked. A number is where the span ends on this disk."""

    token: object
    """None: nobody did."""
    result: int | Refused


class Write(NamedTuple):
    """Part of a commit: these entries, as one frame."""

    number: int
    first: int
    entries: tuple[bytes, ...]


class Commit(NamedTuple):
    """Order: bring all of that to disk, then say `synced`, or `failed`. `fence`, `first`: the new ones, or KEEP. Only one at a time is given."""

    created: tuple[Kept, ...]
    writes: tuple[Write, ...]
    fence: int
    first: int


Order = Answer | Commit


class _Span:
    """`end` is durable; `taken` is what has been accepted."""

    __slots__ = ("confirmed", "end", "epoch", "first", "taken")

    def __init__(self, kept: Kept) -> None:
        self.epoch, self.first, self.end = kept.epoch, kept.first, kept.end
        self.taken = self.end
        self.confirmed = kept.first


class _Waiting(NamedTuple):
    """A request that the disk has to do something for. `number` 0: none of a span's."""

    token: object
    number: int
    epoch: int
    first: int = 0
    entries: tuple[bytes, ...] = ()
    creates: int = 0
    """The epoch of the span that it makes; 0: of none."""


class Replica:
    """One log in one node. `kept`, `fence`, `first`: what the disk has."""

    def __init__(self, *, fence: int = 0, first: int = 0, kept: Iterable[Kept] = ()) -> None:
        self.fence = fence
        self.first = first
        self._spans = {each.number: _Span(each) for each in kept}
        self._on_disk = (fence, first)
        self._waiting: list[_Waiting] = []
        self._syncing: list[_Waiting] = []
        self._commit: Commit | None = None

    def spans(self) -> list[Kept]:
        """Return what is durable, by number."""
        return [Kept(number, span.epoch, span.first, span.end) for number, span in sorted(self._spans.items())]

    # what may be asked

    def create(self, token: object, *, epoch: int, number: int, first: int) -> list[Order]:
        """A writer prepares its next span here. Idempotent while nothing has been appended."""
        if (refused := self._refusal(epoch)) is not None:
            return [Answer(token, refused)]
        span = self._spans.get(number)
        if span is not None and span.epoch > epoch:
            return [Answer(token, Refused("fenced", span.epoch))]
        if span is not None and span.epoch == epoch and span.first != first:
            return [Answer(token, Refused("failed", 0, f"span {number} began at {span.first} here, and cannot begin at {first}"))]
        orders = self._raise_fence(epoch)
        makes = 0
        if span is None or span.epoch != epoch:
            self._spans[number] = _Span(Kept(number, epoch, first, first))
            makes = epoch
        return [*orders, *self._queue(_Waiting(token, number, epoch, first, creates=makes))]

    def append(self, token: object, *, epoch: int, number: int, of: int, first: int, entries: Sequence[bytes], confirmed: int = KEEP) -> list[Order]:
        """Entries of span `number` of the writer with epoch `of`; `epoch` is the asker's: a newer one completes a span that it has sealed here."""
        if (refused := self._refusal(epoch)) is not None:
            return [Answer(token, refused)]
        span = self._spans.get(number)
        if span is None or span.epoch != of or epoch > self.fence:
            return [Answer(token, Refused("gone"))]
        span.confirmed = max(span.confirmed, min(confirmed, span.end))
        return self._take(token, number, span, epoch, first, entries)

    def restore(self, token: object, *, number: int, of: int, first: int, entries: Sequence[bytes]) -> list[Order]:
        """Entries of a span that the record says is closed: whoever copies it needs no epoch, since nobody can change it any more.

        What is not here yet begins at `first`; what is goes on at its end.
        """
        span = self._spans.get(number)
        if span is not None and span.epoch > of:
            return [Answer(token, Refused("gone"))]
        made: list[Order] = []
        if span is None or span.epoch < of:
            span = self._spans[number] = _Span(Kept(number, of, first, first))
            made = self._queue(_Waiting(None, number, 0, first, creates=of))
        return [*made, *self._take(token, number, span, 0, first, entries)]

    def confirm(self, *, number: int, of: int, confirmed: int) -> None:
        """The writer tells what it has acknowledged."""
        span = self._spans.get(number)
        if span is not None and span.epoch == of:
            span.confirmed = max(span.confirmed, min(confirmed, span.end))

    def seal(self, token: object, *, epoch: int, number: int, of: int) -> list[Order]:
        """From now on nobody with an older epoch appends to the log here. Answered with the end of that span, when the disk knows the fence. Idempotent."""
        if (refused := self._refusal(epoch)) is not None:
            return [Answer(token, refused)]
        orders = self._raise_fence(epoch)
        span = self._spans.get(number)
        if span is None or span.epoch != of:
            return [*orders, Answer(token, Refused("gone"))]
        return [*orders, *self._queue(_Waiting(token, number, epoch))]

    def trim(self, token: object, upto: int) -> list[Order]:
        """Never show again what is before `upto`. Idempotent."""
        self.first = max(self.first, upto)
        return self._queue(_Waiting(token, 0, 0))

    def readable(self, *, number: int, of: int, offset: int, closed: int = KEEP) -> int | Refused:
        """Return up to where a span may be read from `offset` on, perhaps no further than that. `closed`: its end by the record."""
        if offset < self.first:
            return Refused("trimmed", self.first)
        span = self._spans.get(number)
        if span is None or span.epoch != of or offset < span.first:
            return Refused("gone")
        return min(span.end, closed if closed else span.confirmed)

    def forget(self, number: int) -> None:
        """The disk has none of that span any more."""
        self._spans.pop(number, None)

    # what the disk says

    def synced(self) -> list[Order]:
        """All of the last commit is on disk."""
        commit, done = self._commit, self._syncing
        assert commit is not None
        self._commit, self._syncing = None, []
        self._on_disk = (commit.fence or self._on_disk[0], commit.first or self._on_disk[1])
        for write in commit.writes:
            span = self._spans.get(write.number)
            if span is not None:
                span.end = max(span.end, write.first + len(write.entries))
        return [*(Answer(each.token, self._result(each)) for each in done), *self._begin()]

    def failed(self, why: str) -> list[Order]:
        """Nothing of the last commit counts: the disk has what it had before. Whatever waited behind it for the same spans is refused too."""
        commit, failed = self._commit, self._syncing
        assert commit is not None
        self._commit, self._syncing = None, []
        numbers = {each.number for each in failed if each.number}
        failed += [each for each in self._waiting if each.number in numbers]
        self._waiting = [each for each in self._waiting if each.number not in numbers]
        for made in commit.created:
            self.forget(made.number)
        for number in numbers & self._spans.keys():
            self._spans[number].taken = self._spans[number].end
        return [*(Answer(each.token, Refused("failed", 0, why)) for each in failed), *self._begin()]

    # inside

    def _take(self, token: object, number: int, span: _Span, epoch: int, first: int, entries: Sequence[bytes]) -> list[Order]:
        if first > span.taken:
            return [Answer(token, Refused("hole", span.taken))]
        until = first + len(entries)
        if until <= span.end:
            return [Answer(token, span.end)]
        if len(self._waiting) >= LOG_WAITING_MAX:
            return [Answer(token, Refused("full", 0, f"{LOG_WAITING_MAX} requests wait for the disk"))]
        fresh = tuple(entries[span.taken - first :])
        start, span.taken = span.taken, max(span.taken, until)
        return self._queue(_Waiting(token, number, epoch, start, fresh))

    def _refusal(self, epoch: int) -> Refused | None:
        return Refused("fenced", self.fence) if epoch < self.fence else None

    def _raise_fence(self, epoch: int) -> list[Order]:
        """Whoever came with an older epoch and is not being written yet is refused. The disk hears of it with the next commit, before anything is answered."""
        if epoch <= self.fence:
            return []
        self.fence = epoch
        late = [each for each in self._waiting if 0 < each.epoch < epoch]
        self._waiting = [each for each in self._waiting if not 0 < each.epoch < epoch]
        for each in late:
            span = self._spans.get(each.number)
            if span is not None and span.epoch == each.creates:
                self.forget(each.number)
            elif span is not None and each.entries:
                span.taken = min(span.taken, each.first)
        return [Answer(each.token, Refused("fenced", epoch)) for each in late]

    def _result(self, each: _Waiting) -> int | Refused:
        span = self._spans.get(each.number)
        if not each.number:
            return self.first
        return span.end if span is not None else Refused("gone")

    def _queue(self, waiting: _Waiting) -> list[Order]:
        self._waiting.append(waiting)
        return self._begin()

    def _begin(self) -> list[Order]:
        """Give the disk all that waits, up to its bound; answer at once what needs nothing of it."""
        if self._commit is not None or not self._waiting:
            return []
        taken, size = 0, 0
        for each in self._waiting:
            if taken and size + sum(map(len, each.entries)) > LOG_COMMIT_BYTES:
                break
            taken, size = taken + 1, size + sum(map(len, each.entries))
        now, self._waiting = self._waiting[:taken], self._waiting[taken:]
        commit = self._commit_of(now)
        if not (commit.created or commit.writes or commit.fence or commit.first):
            return [*(Answer(each.token, self._result(each)) for each in now), *self._begin()]
        self._commit, self._syncing = commit, now
        return [commit]

    def _commit_of(self, now: list[_Waiting]) -> Commit:
        created, writes = [], dict[int, list[bytes]]()
        starts: dict[int, int] = {}
        for each in now:
            if each.creates:
                created.append(Kept(each.number, each.creates, each.first, each.first))
            if each.entries:
                starts.setdefault(each.number, each.first)
                writes.setdefault(each.number, []).extend(each.entries)
        fence = self.fence if self.fence > self._on_disk[0] else KEEP
        first = self.first if self.first > self._on_disk[1] else KEEP
        frames = tuple(Write(number, starts[number], tuple(entries)) for number, entries in writes.items())
        return Commit(tuple(created), frames, fence, first)
