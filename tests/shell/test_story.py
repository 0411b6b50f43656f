"""Events told as a story: what belongs together is one line, nothing is left out, and memory is bounded."""

import re
import time
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from unios.limits import STORY_GROUPS_MAX
from unios.shell.events import KINDS, Wanted
from unios.shell.story import FOLD_MS, LOSS_MS, Story, Told
from unios.shell.words import Given
from unios.wire.operations import EventView

ROOT = Path(__file__).parents[2]


def event(at_ms: int, kind: str, text: str, pid: int = 0, node: str = "n1") -> EventView:
    match = re.match(r"process (\d+)", text)
    return EventView(at_ms, node, kind, text, int(match[1]) if match else pid)


def told(*events: EventView) -> list[str]:
    story = Story()
    return [line.text for one in events for line in story.add(one)] + [line.text for line in story.rest()]


def test_a_loss_and_what_became_of_its_processes_are_one_line() -> None:
    assert told(
        event(0, "loss", "n2 is lost: its lease has ended"),
        event(10, "recovery", "process 301: n2 was lost: incarnation 2 runs again on n1"),
        event(10, "recovery", "process 302: n2 was lost: incarnation 5 waits for a node"),
        event(20, "loss", "process 303: n2 was lost and its restart policy is never"),
        event(30, "start", "process 301 runs on n1 as incarnation 2"),
        event(40, "loss", "n2 is lost: its lease has ended"),
        event(50, "start", "process 302 runs on n3 as incarnation 5"),
    ) == [
        "n2 was lost: its lease has ended; 2 processes of it run again: 301 on n1, 302 on n3; 303 is lost with it, since its restart policy is never"
    ]


def test_what_runs_on_a_node_that_came_back_is_not_told_before_its_loss() -> None:
    assert told(
        event(0, "start", "process 301 runs on n1"),
        event(5, "start", "process 302 runs on n2"),
        event(10, "loss", "n1 is lost: x"),
        event(20, "node", "n1 is back as incarnation 2"),
        event(30, "start", "process 303 runs on n1"),
        event(30, "start", "process 304 runs on n1"),
        event(40, "start", "process 305 runs on n2"),
    ) == ["301 runs on n1", "302, 305 run on n2", "n1 was lost: x", "n1 is back as incarnation 2", "303, 304 run on n1"]


def test_a_node_that_is_lost_again_after_its_return_is_told_again() -> None:
    lines = told(event(0, "loss", "n2 is lost: x"), event(5, "node", "n2 is back as incarnation 2"), event(9, "loss", "n2 is lost: x"))
    assert lines == ["n2 was lost: x", "n2 is back as incarnation 2", "n2 was lost: x"]


def test_who_still_waits_is_said() -> None:
    text = told(event(0, "loss", "n2 is lost: x"), event(10, "recovery", "process 302: n2 was lost: incarnation 2 waits for a node"))
    assert text == ["n2 was lost: x; 302 waits for a node"]


def test_another_loss_and_a_later_one_are_lines_of_their_own() -> None:
    lines = told(
        event(0, "loss", "n2 is lost: x"),
        event(5, "loss", "n3 is lost: x"),
        event(9, "recovery", "process 301: n3 was lost: incarnation 2 runs again on n1"),
        event(LOSS_MS + 1, "loss", "n2 is lost: x"),
    )
    assert lines == ["n2 was lost: x", "n3 was lost: x; 1 process of it runs again: 301 on n1", "n2 was lost: x"]


def test_what_repeats_itself_is_told_once_with_how_often() -> None:
    dying = [event(at * 5_000, "service", "recovery of n1 was replaced: signal 9") for at in range(12)]
    assert told(*dying, event(90_000, "node", "n1 is ready")) == ["recovery of n1 was replaced: signal 9 (12 times in 55 s)", "n1 is ready"]
    assert len(told(event(0, "service", "a"), event(FOLD_MS + 1, "service", "a"))) == 2


def test_the_same_of_several_processes_is_one_line() -> None:
    lines = told(*(event(i * 100, "exit", f"process {i} ended with 0 on n1") for i in range(300, 310)))
    assert lines == ["300, 301, 302, 303, 304, 305 and 4 more ended with 0 on n1 (within 1 s)"]
    assert told(event(0, "start", "process 300 runs on n1")) == ["300 runs on n1"]
    assert told(*(event(0, "start", f"process {i} runs on n1") for i in (300, 301))) == ["300, 301 run on n1"]
    assert told(*(event(0, "start", "process 300 runs on n1") for _ in range(2))) == ["300 runs on n1 (2 times)"]


def test_what_is_said_of_a_process_reads_as_a_sentence() -> None:
    again = "it ended with 3 and its policy is always; start 2: incarnation 2 runs again on n1"
    assert told(event(0, "recovery", f"process 305: {again}")) == [f"305: {again}"]
    assert told(*(event(0, "limit", f"process {pid}: its time limit is over on n1") for pid in (305, 306))) == [
        "305, 306: its time limit is over on n1"
    ]


def test_no_process_ends_before_it_runs() -> None:
    """One that is told with others is told after what has been told of itself."""
    assert told(
        event(0, "exit", "process 300 ended with 0 on n1"),
        event(10, "start", "process 301 runs on n2"),
        event(20, "exit", "process 301 ended with 0 on n1"),
        event(30, "exit", "process 302 ended with 0 on n1"),
    ) == ["300 ended with 0 on n1", "301 runs on n2", "301, 302 ended with 0 on n1"]


def test_what_starts_and_ends_again_and_again_is_two_lines() -> None:
    turn = [("start", "process 300 runs on n1"), ("exit", "process 300 ended with 1 on n1")]
    assert told(*(event(at * 1_000, *turn[at % 2]) for at in range(6))) == [
        "300 runs on n1 (3 times in 4 s)",
        "300 ended with 1 on n1 (3 times in 4 s)",
    ]


def test_every_kind_of_event_that_is_written_can_be_asked_for() -> None:
    source = "".join(path.read_text() for folder in ("kernel", "services") for path in (ROOT / "src/unios" / folder).glob("*.py"))
    written = set(re.findall(r"(?:events\.(?:put|write)|self\._event|self\._put)\(\s*\"(\w+)\"", source))
    assert written == set(KINDS)


def test_a_line_that_is_followed_is_told_when_it_has_come_to_rest() -> None:
    story = Story()
    story.add(event(1_000, "service", "a"))
    assert story.quiet(2_000, 2_000) == []
    story.add(event(2_500, "service", "a"))
    assert story.quiet(4_000, 2_000) == []
    assert story.quiet(4_500, 2_000) == [Told(1_000, "a (2 times in 2 s)")]
    assert story.rest() == []


TEXTS = (
    st.sampled_from(["n2 is lost: x", "process 1: n2 was lost: incarnation 2 runs again on n1", "process 1 runs on n1 as incarnation 2"]) | st.text()
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.builds(event, st.integers(0, 10**6), st.sampled_from(["loss", "start", "x"]), TEXTS, st.integers(0, 3)), max_size=40))
def test_no_event_breaks_the_story_and_it_ends_empty(events: list[EventView]) -> None:
    story = Story()
    lines = [line for one in events for line in story.add(one)] + story.rest()
    assert bool(lines) == bool(events) and story.rest() == []


def test_open_lines_are_bounded_and_the_oldest_is_told_first() -> None:
    story = Story()
    lines = [line.text for i in range(STORY_GROUPS_MAX + 2) for line in story.add(event(0, "x", str(i)))]
    assert lines == ["0", "1"] and len(story.rest()) == STORY_GROUPS_MAX


NOW = int(time.mktime((2026, 11, 24, 14, 0, 0, 0, 0, -1))) * 1000


def test_filters_hold_together() -> None:
    happened = [
        event(0, "loss", "n2 is lost"),
        event(NOW, "start", "process 300 runs on n22"),
        event(NOW, "start", "process 301 runs on n2", node="n3"),
    ]

    def taken(**values: object) -> list[int]:
        return [at for at, one in enumerate(happened) if Wanted(Given(dict(values)), NOW).takes(one)]

    assert taken() == [0, 1, 2]
    assert taken(node_of="n2") == [0, 2] and taken(node_of="n3") == [2] and taken(node_of="n1") == [0, 1]
    assert taken(pid=("300",)) == [1] and taken(kind=("loss", "exit")) == [0] and taken(since="1m") == [1, 2]
    assert taken(since="1m", node_of="n22") == [1] and not Wanted(Given({"since": "1m"}), NOW).everything and Wanted(Given({}), NOW).everything
