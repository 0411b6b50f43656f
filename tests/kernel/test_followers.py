"""Followers: for whom output is held, how far, and for how long. The poller is a stand-in whose timers fire when the test says so."""

from collections.abc import Callable
from typing import Any, cast

from unios.kernel.followers import UNBOUNDED, WINDOW_BYTES, Followers
from unios.kernel.poller import Client, Poller


class Timers:
    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def after(self, _seconds: float, callback: Callable[[], None]) -> int:
        self.due.append(callback)
        return len(self.due)

    def fire(self) -> None:
        due, self.due = self.due, []
        for callback in due:
            callback()


class Somebody:
    behind = False

    def __init__(self) -> None:
        self.told: list[dict[str, Any]] = []

    def send(self, fields: dict[str, Any]) -> None:
        self.told.append(fields)


def made() -> tuple[Followers, Timers]:
    timers = Timers()
    return Followers(cast(Poller, timers)), timers


def test_without_a_holder_output_goes_on_and_on() -> None:
    followers, _timers = made()
    followers.follow(cast(Client, Somebody()), hold=False, offsets={})
    assert followers.limit("out") == UNBOUNDED


def test_a_holder_who_was_announced_is_waited_for_from_the_first_byte_and_then_no_more() -> None:
    followers, timers = made()
    followers.expect()
    assert followers.limit("out") == followers.limit("err") == WINDOW_BYTES
    timers.fire()
    assert followers.limit("out") == UNBOUNDED


def test_whoever_comes_takes_the_hold_over_at_what_he_has() -> None:
    followers, timers = made()
    followers.expect()
    reader = cast(Client, Somebody())
    followers.follow(reader, hold=True, offsets={"out": 0, "err": 0})
    followers.acknowledge(reader, {"out": 5_000, "err": 0})
    followers.acknowledge(reader, {"out": 4_000})  # offsets never fall
    timers.fire()
    assert (followers.limit("out"), followers.limit("err")) == (5_000 + WINDOW_BYTES, WINDOW_BYTES)
    followers.gone(reader)
    assert followers.limit("out") == 5_000 + WINDOW_BYTES
    timers.fire()
    assert followers.limit("out") == UNBOUNDED


def test_a_follower_is_told_of_growth_once_and_not_while_it_is_behind() -> None:
    followers, _timers = made()
    reader = Somebody()
    followers.follow(cast(Client, reader), hold=False, offsets={})
    for _ in range(3):
        followers.tell_growth({"out": 10, "err": 0})
    reader.behind = True  # type: ignore[misc]
    followers.tell_growth({"out": 20, "err": 0})
    assert reader.told == [{"event": "grew", "out": 10, "err": 0}]


def test_a_holder_is_told_again_when_it_has_acknowledged_what_it_was_told_and_not_before() -> None:
    followers, _timers = made()
    holder = Somebody()
    followers.follow(cast(Client, holder), hold=True, offsets={"out": 3})
    for end in (10, 20, 30):
        followers.tell_growth({"out": end, "err": 0})
    assert [event["out"] for event in holder.told] == [10]  # it reads to the end that it finds, and acknowledges that
    followers.acknowledge(cast(Client, holder), {"out": 9, "err": 0})
    followers.tell_growth({"out": 30, "err": 0})
    assert [event["out"] for event in holder.told] == [10]
    followers.acknowledge(cast(Client, holder), {"out": 10, "err": 0})
    followers.tell_growth({"out": 30, "err": 0})
    assert [event["out"] for event in holder.told] == [10, 30]
    followers.acknowledge(cast(Client, holder), {"out": 40, "err": 0})  # it has read further than it was told
    followers.tell_growth({"out": 40, "err": 5})
    assert holder.told[-1] == {"event": "grew", "out": 40, "err": 5}


def test_one_who_does_not_hold_acknowledges_nothing_and_is_told_each_time() -> None:
    followers, _timers = made()
    reader = Somebody()
    followers.follow(cast(Client, reader), hold=False, offsets={})
    for end in (10, 20):
        followers.tell_growth({"out": end, "err": 0})
    assert [event["out"] for event in reader.told] == [10, 20]
