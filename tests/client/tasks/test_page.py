"""The page that a parent shares with its workers."""

import os

from unios.client.tasks.page import Page


def test_what_is_barred_is_not_begun_nor_what_was_given_before_it() -> None:
    page = Page()
    place = page.take()
    assert page.begin(place, 3)
    assert page.bar(place, 4) == 3 == page.bar(place, 7)
    assert not page.begin(place, 4) and not page.begin(place, 7)
    assert page.begin(place, 8) and page.begun(place) == 8


def test_what_has_begun_is_not_barred() -> None:
    page = Page()
    page.take()
    place = page.take()
    assert page.begin(place, 5) and page.bar(place, 5) == 5 == page.bar(place, 4)


def test_a_place_that_is_taken_again_remembers_nothing() -> None:
    page = Page()
    place = page.take()
    page.begin(place, 5)
    page.bar(place, 9)
    page.give_back(place)
    assert page.take() == place and page.begun(place) == 0 and page.begin(place, 1)


def test_only_the_turn_that_is_disowned_is_and_only_while_it_runs() -> None:
    page = Page()
    place = page.take()
    assert not page.is_disowned(place)
    page.begin(place, 3)
    page.disown(place, 2)
    assert not page.is_disowned(place)
    page.disown(place, 3)
    assert page.is_disowned(place)
    page.begin(place, 4)
    assert not page.is_disowned(place)
    page.disown(place, 4)
    page.give_back(place)
    assert page.take() == place and page.begin(place, 4) and not page.is_disowned(place)


def test_of_a_worker_and_a_parent_at_the_same_moment_one_sees_the_other() -> None:
    """They race for many turns: never does the worker begin what the parent says is barred, and both may give way."""
    page = Page()
    place, rounds = page.take(), 400
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        begun = bytes(page.begin(place, turn) for turn in range(1, rounds + 1))
        os.write(writer, begun)
        os._exit(0)
    barred = {turn for turn in range(1, rounds + 1, 7) if page.bar(place, turn) < turn}
    os.waitpid(child, 0)
    begun = os.read(reader, rounds)
    os.close(reader)
    os.close(writer)
    assert len(begun) == rounds and not any(begun[turn - 1] for turn in barred)
