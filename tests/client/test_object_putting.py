"""Putting and getting without a holder: what is said to it, also when that does not end well."""

import gc
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.client.messages.interrupting import Interrupted, Interrupter
from unios.client.messages import memory
from unios.client.objects import putting
from unios.client.objects.counts import COUNTS, Counts
from unios.client.objects.getting import get
from unios.client.objects.putting import put, store
from unios.client.objects.reading import watch
from unios.client.objects.ref import Ref, collecting
from unios.client.objects.tie import Gone
from unios.errors import CallerError, DataLost, OutcomeUnknown, Unavailable, UniosError
from unios.wire.objects import Known
from unios.wire.values import encode


class Scripted:
    """A tie; `answers` is what the holder does."""

    def __init__(self) -> None:
        self.ids: dict[str, Known] = {}
        self.reading: Counter[str] = Counter()
        self.unsaid: dict[str, tuple[Known, str]] = {}
        self.said: list[tuple[Any, ...]] = []
        self.answers: Callable[[str], Any] = lambda _op: False

    def call(self, op: str, *args: Any, deadline: float | None = None) -> Any:
        self.said.append((op, *args))
        found = self.answers(op)
        if isinstance(found, BaseException):
            raise found
        return found

    wait = call

    def post(self, work: Callable[[], object]) -> None:
        work()

    def hold(self, known: Known, token: str = "") -> None:
        self.said.append(("hold", known, token))

    def drop(self, id_: str) -> None:
        if self.ids.pop(id_, None) is not None:
            self.said.append(("drop", id_))

    def tell(self, op: str, *args: Any, start: bool = True) -> bool:
        self.said.append((op, *args))
        return True

    def lend(self, ids: list[str], token: str, *, start: bool = True) -> None:
        self.said.append(("lend", ids))

    def take_unsaid(self, id_: str) -> tuple[Known, str] | None:
        return self.unsaid.pop(id_, None)

    @property
    def ops(self) -> list[str]:
        return [op for op, *_args in self.said]


@pytest.fixture
def tie(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scripted]:
    made = Scripted()
    monkeypatch.setattr(Counts, "tie", lambda _counts: made)
    monkeypatch.setattr(COUNTS, "_tie", made)
    monkeypatch.setattr(COUNTS, "node", "n1")
    yield made
    COUNTS._counts.clear()


@pytest.mark.parametrize("error", [OutcomeUnknown("no answer"), KeyboardInterrupt(), Unavailable("no room")])
def test_what_was_put_in_vain_is_let_go_of_since_the_holder_may_keep_it(tie: Scripted, error: BaseException) -> None:
    tie.answers = lambda _op: error
    with pytest.raises(type(error)):
        put([1, 2, 3])
    id_ = tie.said[0][1]
    assert tie.said[1:] == [("drop", id_)] and not tie.ids


def test_what_is_known_already_is_not_let_go_of_when_it_cannot_be_made_again(tie: Scripted) -> None:
    tie.ids["a"] = ("a", "n2", 5)
    tie.answers = lambda _op: Unavailable("no room")
    with pytest.raises(Unavailable):
        store("a", [1])
    assert tie.ops == ["put"] and "a" in tie.ids


def test_a_reference_is_counted_and_the_last_one_is_told(tie: Scripted) -> None:
    ref = put("it")
    again = get_copy(ref)
    id_ = ref.id
    del ref
    assert "drop" not in tie.ops
    del again
    assert tie.said[-1] == ("drop", id_)


def get_copy(ref: Ref[Any]) -> Ref[Any]:
    return ref.__copy__()


def test_a_reference_that_is_kept_with_its_pickle_needs_no_loan(tie: Scripted) -> None:
    ref = put("it")
    with collecting() as outer:
        with collecting() as found:
            ref.__reduce__()
        ref.__reduce__()
    assert found == [ref] == outer and "lend" not in tie.ops
    ref.__reduce__()
    assert tie.said[-1] == ("lend", [ref.id])


@pytest.mark.parametrize(
    ("error", "raised"),
    [(Gone("ended"), DataLost), (DataLost("not kept"), DataLost), (OutcomeUnknown("no answer"), Unavailable), (Unavailable("no room"), Unavailable)],
)
def test_what_cannot_be_got_is_said_and_only_what_is_lost_is_made_again(tie: Scripted, error: UniosError, raised: type[UniosError]) -> None:
    plain, made = put("it"), put("it", remake=(str.upper, "made"))
    tie.answers = lambda op: error if op == "get" else False
    with pytest.raises(raised):
        get(plain)
    if raised is DataLost:
        assert get(made) == "MADE"
        assert tie.ops.count("put") == 3, "others have it then"
    else:
        with pytest.raises(raised):
            get(made)


@pytest.mark.parametrize("timeout", [1e10, math.inf])
def test_a_get_may_take_as_long_as_one_likes_and_that_is_a_number(tie: Scripted, monkeypatch: pytest.MonkeyPatch, timeout: float) -> None:
    ref, deadlines = put("value"), list[float | None]()

    def call(_op: str, *_args: Any, deadline: float | None) -> Any:
        deadlines.append(deadline)
        return False, [encode("value", trusted=True).body]

    monkeypatch.setattr(tie, "call", call)
    assert get(ref, timeout=timeout) == "value" and deadlines == [None]  # locks of threads wait for a few hundred years at most
    with pytest.raises(CallerError, match="nan"):
        get(ref, timeout=math.nan)


def test_that_a_reference_came_is_said_with_the_first_get_or_after_it(tie: Scripted) -> None:
    ref = put("it")
    tie.unsaid[ref.id] = (ref.known, "token")
    tie.answers = lambda _op: KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        get(ref)
    assert tie.said[-2:] == [("get", ref.known, "token"), ("hold", ref.known, "token")]


def test_what_is_not_here_is_brought_and_asked_for_again(tie: Scripted) -> None:
    ref = put("it")
    body = encode("it", trusted=True).body
    found = iter([None, "brought", (False, [bytes(body)])])
    tie.answers = lambda _op: next(found)
    assert get(ref) == "it"
    assert tie.ops == ["put", "get", "bring", "get"]


def test_what_lies_in_shared_memory_is_read_until_its_last_view_is_gone(tie: Scripted) -> None:
    buffer = memory.allocate(1_000_000)
    tie.answers = lambda _op: True
    ref = put(buffer)
    assert tie.reading == {ref.id: 1}
    body = encode(putting._View(buffer), trusted=True).body
    data = [bytes(body), memory.allocate(1_000_000)]
    tie.answers = lambda _op: (True, data)
    found = get(ref)
    assert found.nbytes == 1_000_000 and tie.reading == {ref.id: 2}
    data = []
    gc.collect()
    assert tie.reading == {ref.id: 2}
    del found
    gc.collect()
    assert tie.reading == {ref.id: 1} and tie.said[-1] == ("read", ref.id)
    tie.said.clear()
    del buffer
    gc.collect()
    assert not tie.reading and tie.said == [("read", ref.id)]
    part = memory.allocate(200_000)
    watch("none", [])
    assert tie.said[-1] == ("read", "none"), "at once, if nothing of it is mapped here"
    watch("two", [memory.mapping_of(part), memory.mapping_of(part)])  # type: ignore[list-item]
    del part
    gc.collect()
    assert tie.said[-1] == ("read", "two") and not tie.reading


def test_a_reference_that_comes_is_told_once_and_with_its_loan_each_time(tie: Scripted) -> None:
    known = ("a" * 32, "n1", 5)
    refs = [Ref(known)]
    assert tie.said == [("hold", known, "")]
    tie.ids[known[0]] = known
    refs.append(Ref(known))
    assert len(tie.said) == 1
    refs.append(Ref(known, token="loan"))
    assert tie.said[1:] == [("hold", known, "loan")]


def test_before_a_fork_a_loan_keeps_what_the_child_refers_to(tie: Scripted) -> None:
    COUNTS.before_fork()
    COUNTS.after_fork()
    assert not tie.said, "nothing is referred to"
    ref = put("it")
    COUNTS.before_fork()
    COUNTS.after_fork()
    assert tie.said[-1] == ("lend", [ref.id])
    forked: list[str] = []
    tie.forked = forked.append  # type: ignore[attr-defined]
    COUNTS.before_fork()
    COUNTS.forked()
    assert forked == [COUNTS._token] != [""]
    del ref
    assert tie.ops[-1] == "drop", "the child can lock anew"


def test_a_program_that_ends_says_so_if_anybody_hears_it(tie: Scripted) -> None:
    for tie.is_connected in (False, True):  # type: ignore[attr-defined]
        COUNTS.leave()
    assert tie.ops == ["leave"]


@pytest.mark.parametrize("remake", [5, (), ("no function", 1), (len, lambda: 1), (bytes, bytes(100_000))])
def test_a_recipe_that_nobody_could_use_is_refused(tie: Scripted, remake: Any) -> None:
    with pytest.raises(CallerError, match="remake"):
        put(1, remake=remake)
    assert not tie.said


def test_a_small_part_of_a_large_buffer_is_copied_and_not_kept_with_all_of_it() -> None:
    whole = memory.allocate(1_000_000)
    assert putting._whole(whole) is whole
    part = putting._whole(whole[:1_000])
    assert memory.mapping_of(part) is None and part == whole[:1_000]


@pytest.mark.parametrize("refs", [5, "text", [1], {}])
def test_what_is_no_reference_is_refused(refs: Any) -> None:
    with pytest.raises(CallerError, match="get takes a reference"):
        get(refs)


def test_wherever_a_signals_handler_raises_in_a_put_nothing_stays_that_nobody_can_refer_to(tie: Scripted) -> None:
    kept: list[object] = []
    for n in itertools.count():
        interrupter = Interrupter(n, ("objects/putting.py", "objects/ref.py", "objects/counts.py"))
        try:
            interrupter.run(lambda: kept.append(put("it")))
        except Interrupted:
            pass
        if not interrupter.where:
            break
        kept.clear()
        assert not tie.ids and tie.ops.count("put") <= tie.ops.count("drop"), interrupter.where
        assert not COUNTS._counts, interrupter.where
        tie.said.clear()
    assert n > 20


def test_an_array_of_python_objects_is_refused() -> None:
    with pytest.raises(CallerError, match="cannot lie in shared memory"):
        putting.empty((2,), dtype=object)
