"""Screen: what of a terminal's past another one is shown, and how that one gets back to its own."""

import pytest

from unios.client.screen import Screen


def test_a_shells_past_is_shown_from_a_line_on_and_its_modes_are_set_after_it() -> None:
    assert Screen().replay(b"f a line\r\nwhole\r\n$ ", b"\x1b[?2004h", whole=False) == b"whole\r\n$ \x1b[?2004h"
    assert Screen().replay(b"all\r\n$ ", b"", whole=True) == b"all\r\n$ "


def test_what_was_on_the_other_screen_and_is_over_is_left_out() -> None:
    past = b"one\r\n\x1b[?1049hvim\x1b[?1049l$ two\r\n"
    assert Screen().replay(past, b"", whole=True) == b"one\r\n$ two\r\n"
    assert Screen().replay(b"rest of vim\r\n\x1b[?1049l$ two\r\n", b"", whole=False) == b"$ two\r\n"


def test_a_full_screen_program_gets_a_clear_screen_of_the_other_kind() -> None:
    past = b"$ vim\r\n\x1b[?1049h\x1b[?1hdrawn"
    assert Screen().replay(past, b"", whole=True) == b"\x1b[?1049h\x1b[H\x1b[2J\x1b[?1hdrawn\x1b[?1049h\x1b[?1h"
    assert Screen().replay(b"drawn", b"\x1b[?1049h", whole=False) == b"\x1b[?1049h\x1b[H\x1b[2Jdrawn\x1b[?1049h"


@pytest.mark.parametrize(
    "question",
    [
        b"\x1b[c",
        b"\x1b[>c",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[>0q",
        b"\x1b[?2026$p",
        b"\x1b]11;?\x07",
        b"\x1b]4;1;?\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1b[?u",
    ],
)
def test_what_a_program_asked_its_terminal_long_ago_is_not_asked_again(question: bytes) -> None:
    assert Screen().replay(b"a" + question + b"b", b"", whole=True) == b"ab"


def test_colours_and_movements_are_no_questions() -> None:
    past = b"\x1b[31mred\x1b[0m\x1b[2K\x1b[10;20H\x1b]0;title\x07\x1b[5n"[:-4]
    assert Screen().replay(past, b"", whole=True) == past


def test_undoing_brings_back_what_was_shown_and_only_that() -> None:
    screen = Screen()
    assert screen.show(b"plain") == b"plain" and screen.undo() == b"\x1b[0m"
    screen.show(b"\x1b[?1049h")
    assert screen.undo() == b"\x1b[?1049l\x1b[0m"
    assert screen.undo() == b"\x1b[0m"
