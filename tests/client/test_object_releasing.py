"""Releasing: what waits for which node before another node's object is let go of, and that a silent node holds up only what depends on it, and not for ever."""

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.client.objects import releasing
from unios.client.objects.releasing import Releases, Waiting
from unios.client.objects.tie import Gone
from unios.errors import Unavailable

A, B = ("a", "n1"), ("b", "n2")


def test_what_depends_on_nobody_is_let_go_of_at_once() -> None:
    waiting = Waiting()
    assert waiting.released(A) == [A]
    waiting.told("n1")  # the node itself hears all in its order
    assert waiting.released(A) == [A]
    assert not waiting.asks()


def test_an_object_waits_until_each_other_node_has_heard_what_it_was_told_before_and_not_what_it_was_told_since() -> None:
    waiting = Waiting()
    waiting.told("n2")
    waiting.told("n3")
    assert waiting.released(A) == []
    first = dict(waiting.asks())
    assert first.keys() == {"n2", "n3"}
    waiting.told("n2")
    assert waiting.heard("n2", first["n2"]) == []
    assert waiting.heard("n3", first["n3"]) == [A]
    assert not waiting.asks()  # nobody waits for n2, though it was told something since
    assert waiting.released(A) == []
    assert waiting.heard("n2", waiting.asks()["n2"]) == [A]


def test_who_has_heard_less_than_was_told_is_asked_again() -> None:
    waiting = Waiting()
    waiting.told("n2")
    upto = 1
    waiting.told("n2")
    assert waiting.released(A) == []
    assert waiting.heard("n2", upto) == []
    assert waiting.heard("n2", waiting.asks()["n2"]) == [A]


def test_what_waits_is_bounded_and_the_oldest_goes_first() -> None:
    waiting = Waiting(waiting_max=2)
    waiting.told("n9")
    assert [waiting.released((str(number), "n1")) for number in range(4)] == [[], [], [("0", "n1")], [("1", "n1")]]
    assert waiting.heard("n9", waiting.asks()["n9"]) == [("2", "n1"), ("3", "n1")]


@given(st.lists(st.tuples(st.sampled_from(["told", "released", "heard"]), st.sampled_from(["n1", "n2", "n3"])), max_size=60))
def test_nothing_goes_before_what_it_waits_for_and_nothing_waits_for_ever(steps: list[tuple[str, str]]) -> None:
    waiting, told, heard, needs = Waiting(), dict[str, int](), dict[str, int](), dict[tuple[str, str], dict[str, int]]()
    count = 0

    def gone(objects: list[tuple[str, str]]) -> None:
        for one in objects:
            assert all(heard.get(node, 0) >= number for node, number in needs.pop(one).items())

    def answered(node: str) -> None:
        if (number := waiting.asks().get(node)) is not None:
            heard[node] = number
            gone(waiting.heard(node, number))

    for number, (step, node) in enumerate(steps):
        if step == "told":
            waiting.told(node)
            count += 1
            told[node] = count
        elif step == "released":
            one = (str(number), node)
            needs[one] = {other: last for other, last in told.items() if other != node and heard.get(other, 0) < last}
            gone(waiting.released(one))
        else:
            answered(node)
    for node in ("n1", "n2", "n3"):
        answered(node)
    assert not needs and not waiting.asks()


class Scripted:
    """A tie to a node: `answers` says what it does when it is asked whether it has heard all."""

    def __init__(self, answers: Callable[[], object]) -> None:
        self._answers = answers
        self.dropped: list[str] = []
        self.posts = threading.Event()
        self.posts.set()

    def post(self, work: Callable[[], object]) -> None:
        if self.posts.is_set():
            work()

    def drop(self, id_: str) -> None:
        self.dropped.append(id_)

    def call(self, _op: str, *_args: object, deadline: float | None = None) -> None:
        assert deadline is not None
        self._answers()


class Rig:
    def __init__(self, **ties: Scripted) -> None:
        self.ties = ties
        self.wanted: set[str] = set()
        self.lock = threading.RLock()
        self.releases = Releases(self.lock, self.tie, lambda id_, _node: id_ in self.wanted)

    def tie(self, node: str) -> Any:
        return self.ties[node]

    def __call__(self, op: str, *args: str) -> None:
        with self.lock:
            getattr(self.releases, op)(*args)


def until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.001)


def silent() -> None:
    raise Unavailable("nobody answers")


def well() -> None:
    pass


def gone() -> None:
    raise Gone("it has ended")


@pytest.mark.parametrize("third", [well, gone])
def test_a_silent_node_holds_up_only_what_depends_on_it(third: Callable[[], None]) -> None:
    rig = Rig(n1=Scripted(well), n2=Scripted(silent), n3=Scripted(third))
    rig("acquired", "n2")
    rig("released", "depends", "n1")
    until(lambda: "n2" in rig.releases._asked, "it is asked")
    rig("acquired", "n3")
    rig("released", "too", "n2")  # which waits for n3 alone
    until(lambda: rig.ties["n2"].dropped == ["too"], "n3 has answered")
    assert not rig.ties["n1"].dropped
    rig.ties["n2"]._answers = well
    until(lambda: rig.ties["n1"].dropped == ["depends"], "n2 has answered")
    until(lambda: not rig.releases._asked, "nobody is asked any more")


@pytest.mark.parametrize("how", ["does not answer", "takes nothing"])
def test_a_node_that_is_silent_for_too_long_is_waited_for_no_longer_and_that_is_said(
    how: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(releasing, "OBJECT_AWAY_FAR_MS", 200)
    monkeypatch.setattr(releasing, "OBJECT_SILENT_MS", 20)
    monkeypatch.setattr(releasing, "_AGAIN_S", 0.01)
    rig = Rig(n1=Scripted(well), n2=Scripted(silent))
    if how == "takes nothing":
        rig.ties["n2"].posts.clear()
    rig("acquired", "n2")
    began = time.monotonic()
    rig("released", "depends", "n1")
    until(lambda: rig.ties["n1"].dropped == ["depends"], "it goes in the end")
    assert time.monotonic() - began >= 0.2
    assert "node n2 has not answered for 0 s, and is waited for no longer" in capsys.readouterr().err
    until(lambda: not rig.releases._asked, "nobody is asked any more")


def test_what_is_referred_to_again_while_it_waited_is_kept() -> None:
    may_answer = threading.Event()
    rig = Rig(n1=Scripted(well), n2=Scripted(lambda: may_answer.wait(20)))
    rig("acquired", "n2")
    rig("released", "again", "n1")
    rig("released", "gone", "n1")
    rig.wanted.add("again")
    may_answer.set()
    until(lambda: rig.ties["n1"].dropped == ["gone"], "what is not wanted goes")
    until(lambda: not rig.releases._asked, "nobody is asked any more")
    assert rig.ties["n1"].dropped == ["gone"]


def test_what_no_thread_could_ask_for_is_asked_for_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    rig = Rig(n1=Scripted(well), n2=Scripted(well))
    rig("acquired", "n2")
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        rig("released", "one", "n1")
    assert not rig.ties["n1"].dropped
    rig("released", "two", "n1")
    until(lambda: sorted(rig.ties["n1"].dropped) == ["one", "two"], "both go")
    until(lambda: not rig.releases._asked, "nobody is asked any more")
