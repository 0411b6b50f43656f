"""Sizes, durations, dependencies and arrays as they are typed."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.demands import After, Queueing, Resources
from unios.shell import demands
from unios.shell import resources as asked
from unios.shell.batches import elements
from unios.shell.ps import compact
from unios.shell.words import Given, Misused
from unios.wire.operations import ProcessView
from unios.wire.queueing import Element


def given_(*arguments: str, **values: object) -> Given:
    return Given(dict(values), arguments)


@pytest.mark.parametrize(("text", "size"), [("0", 0), ("500M", 500 << 20), ("2G", 2 << 30), ("1.5k", 1536), ("2GiB", 2 << 30), ("7b", 7)])
def test_sizes(text: str, size: int) -> None:
    assert asked.size("--memory", text) == size


@pytest.mark.parametrize(
    ("text", "ms"),
    [("90", 90_000), ("10m", 600_000), ("2h", 7_200_000), ("1d", 86_400_000), ("1:30:00", 5_400_000), ("5:07", 307_000), ("250ms", 250)],
)
def test_durations(text: str, ms: int) -> None:
    assert demands.duration_ms(text, "--time") == ms


def read(what: Callable[[], object]) -> str:
    """Return what is said of nonsense, "" if it made sense."""
    try:
        what()
    except Misused as error:
        return str(error)
    return ""


@given(st.text(max_size=12))
def test_whatever_is_typed_is_read_or_refused_with_a_sentence(text: str) -> None:
    assert read(lambda: demands.duration_ms(text, "--x"))[:4] in ("", "--x ")
    assert read(lambda: asked.size("--x", text))[:4] in ("", "--x ")
    assert read(lambda: asked.cores("--x", text))[:4] in ("", "--x ")
    assert read(lambda: demands.queueing(given_(after=(text,))))[:8] in ("", "--after ")
    assert read(lambda: demands.queueing(given_(array=text)))[:8] in ("", "--array ")


def test_what_is_typed_becomes_the_demands_of_the_program() -> None:
    typed = given_(cpus="0.5", memory="1G", device=("gpu:2",), priority=20, time="1m", after=("301", "302:failed"), hold=True)
    assert asked.resources(typed) == Resources(500, 1 << 30, ("gpu:2",))
    assert demands.queueing(typed) == Queueing(20, 60_000, (After(301, "ok"), After(302, "failed")), True)
    assert demands.placing(given_(on="n1", not_on=("n2",))).forbidden == ("n2",)
    assert "leave no node" in read(lambda: demands.placing(given_(on="n1", not_on=("n2", "n1"))))
    assert asked.resources(given_()) == Resources() and demands.queueing(given_()) == Queueing()


def test_arrays_and_batches() -> None:
    assert demands.array(given_(array="1-500%8")) == (1, 500, 8)
    assert elements(given_("true", array="3-5")) == [Element(index=3), Element(index=4), Element(index=5)]
    for wrong in (given_("true", array="1-2", batch="-"), given_(array="1-2"), given_("true", array="1-2", stdin=True), given_("x", array="1-99999")):
        with pytest.raises(Misused):
            elements(wrong)


def test_the_waiting_elements_of_a_long_array_are_one_row() -> None:
    def view(pid: int, state: str = "pending", node: str = "") -> ProcessView:
        return ProcessView(pid, state, node, "ann", (b"x",), 1, reason="waits", queueing=Queueing(array=300, index=pid - 300))

    shown = compact((view(300, "running", "n1"), *map(view, range(301, 400)), view(400, "running", "n1")))
    assert [one.pid for one in shown] == [300, 301, 400]
    assert shown[1].reason == "and 98 more of array 300, up to 399; waits"
    few = tuple(map(view, range(301, 305)))
    assert compact(few) == list(few)
