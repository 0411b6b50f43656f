"""What may take over from what, and the roll over the nodes of a machine."""

import msgspec
import pytest

from unios.core.upgrading import (
    FREE_BYTES_MIN,
    Around,
    BrokenOff,
    Facts,
    Failed,
    Finish,
    PutBack,
    Replace,
    Replaced,
    Roll,
    WasPutBack,
    changes_store,
    meet,
    obstacles,
)

NEW = Facts("2", "/new", (3, 12), (1, 2), (1, 2), (1, 1))
AROUND = Around({"n1": (1, 1), "n2": (2, 3)}, {1001: 1, 1002: 2}, 1, FREE_BYTES_MIN)


def test_nothing_is_in_the_way_of_what_understands_all_that_is_there() -> None:
    assert obstacles(NEW, AROUND) == []
    assert obstacles(msgspec.structs.replace(NEW, store=(2, 2)), msgspec.structs.replace(AROUND, store=0)) == []  # this machine has no store


@pytest.mark.parametrize(
    ("new", "around", "said"),
    [
        ({"python": (3, 10)}, {}, "Python is 3.10"),
        ({"links": (2, 2)}, {}, "n1 (1)"),
        ({"links": (4, 5)}, {}, "n1 (1), n2 (2 to 3)"),
        ({"trees": (2, 2)}, {}, "(1001)"),
        ({"trees": (1, 1)}, {}, "(1002)"),
        ({}, {"store": 2}, "use a newer one"),
        ({"store": (2, 3)}, {}, "go by a version in between"),
        ({}, {"free_bytes": FREE_BYTES_MIN - 1}, "MiB are free"),
    ],
)
def test_each_thing_that_is_in_the_way_is_said(new: dict[str, object], around: dict[str, object], said: str) -> None:
    (found,) = obstacles(msgspec.structs.replace(NEW, **new), msgspec.structs.replace(AROUND, **around))
    assert said in found


def test_a_newer_format_of_the_store_has_no_way_back() -> None:
    assert not changes_store(NEW, AROUND)
    assert changes_store(msgspec.structs.replace(NEW, store=(1, 2)), AROUND)


def test_spans_meet_in_one_number() -> None:
    assert meet((1, 2), (2, 3)) and meet((2, 3), (1, 2)) and not meet((1, 1), (2, 3))


def test_the_roll_goes_node_by_node_and_takes_the_store_last() -> None:
    roll = Roll(["n10", "n1", "n2"], "n1", way_back=True)
    assert roll.begin() == Replace("n2")
    assert roll.on(Replaced("n2")) == Replace("n10")
    assert roll.on(Replaced("n10")) == Replace("n1")
    assert roll.on(Replaced("n1")) == Finish()


def test_the_first_failure_ends_the_roll_and_that_node_is_put_back() -> None:
    roll = Roll(["n1", "n2"], "", way_back=True)
    assert roll.begin() == Replace("n1")
    assert roll.on(Failed("n1", "it died")) == PutBack("n1", "it died")
    end = roll.on(WasPutBack("n1"))
    assert isinstance(end, Finish) and "n1: it died" in end.why and "put back" in end.why


def test_what_cannot_be_put_back_is_said() -> None:
    roll = Roll(["n1", "n2"], "", way_back=True)
    roll.begin()
    roll.on(Failed("n1", "it died"))
    end = roll.on(WasPutBack("n1", "no disk"))
    assert isinstance(end, Finish) and "could not be put back: no disk" in end.why
    roll = Roll(["n1", "n2"], "", way_back=False)
    roll.begin()
    end = roll.on(Failed("n1", "it died"))
    assert isinstance(end, Finish) and "not there any more" in end.why


def test_a_roll_that_is_broken_off_ends_with_the_node_that_it_is_at() -> None:
    roll = Roll(["n1", "n2"], "", way_back=True)
    roll.begin()
    assert roll.on(BrokenOff()) is None
    end = roll.on(Replaced("n1"))
    assert isinstance(end, Finish) and "broken off" in end.why
