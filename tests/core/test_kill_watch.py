"""Trees that go on after a kill for want of memory: told once, a look later, and then ever more rarely."""

from unios.core.kill_watch import KillWatch

ONE, OTHER = (1001, 1), (1002, 1)


def test_a_tree_that_is_still_there_a_look_later_is_told_of_once() -> None:
    watch = KillWatch({})
    assert watch.look({ONE: 0, OTHER: 0}) == {} and not watch.waits
    assert watch.look({ONE: 1, OTHER: 0}) == {} and watch.waits
    assert watch.look({ONE: 1, OTHER: 0}) == {ONE: 1} and not watch.waits
    assert watch.look({ONE: 1, OTHER: 0}) == {}


def test_one_whose_program_was_killed_is_told_by_its_end() -> None:
    watch = KillWatch({})
    watch.look({ONE: 1})
    assert watch.look({}) == {} and not watch.waits


def test_kills_again_and_again_are_told_at_twice_as_many_each_time() -> None:
    watch = KillWatch({})
    told = [number for count in range(1, 101) for number in watch.look({ONE: count}).values()]
    assert told == [2, 5, 11, 23, 47, 95]


def test_what_a_predecessor_saw_and_what_nobody_counts_is_no_news() -> None:
    watch = KillWatch({ONE: 3, OTHER: -1})
    for _look in range(3):
        assert watch.look({ONE: 3, OTHER: -1}) == {} and not watch.waits
