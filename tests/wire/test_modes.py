"""Modes: seen however the output is cut, given again and undone exactly, and bounded whatever a program writes."""

import random

import pytest

from unios.wire.modes import MODES_MAX, Modes

VIM = b"\x1b[?1049h\x1b[?1h\x1b=\x1b[?2004h\x1b[?25l"


def test_what_is_on_is_given_again_and_undone_in_reverse() -> None:
    modes = Modes(b"text" + VIM + b"more text")
    assert modes.other_screen
    assert Modes(modes.text()).text() == modes.text() == b"\x1b[?1049h\x1b[?1h\x1b[?2004h\x1b[?25l\x1b="
    assert modes.undo() == b"\x1b>\x1b[?25h\x1b[?2004l\x1b[?1l\x1b[?1049l\x1b[0m"
    modes.see(modes.undo())
    assert modes.text() == b"" and not modes.other_screen


@pytest.mark.parametrize("cut", range(1, len(VIM)))
def test_a_sequence_that_is_cut_in_two_is_seen(cut: int) -> None:
    modes = Modes()
    modes.see(b"x" * 100 + VIM[:cut])
    modes.see(VIM[cut:] + b"y")
    assert modes.text() == Modes(VIM).text()


def test_several_in_one_sequence_and_a_reset() -> None:
    modes = Modes(b"\x1b[?1000;1006;25h")
    assert modes.text() == b"\x1b[?1000h\x1b[?1006h"
    modes.see(b"\x1b[?1049h\x1b[!p")
    assert modes.text() == b"\x1b[?1049h"
    modes.see(b"\x1bc")
    assert modes.text() == b""


def test_what_clears_the_screen_by_itself_is_never_repeated() -> None:
    assert Modes(b"\x1b[?3h\x1b[?2026h").text() == b""


def test_garbage_is_bounded_and_harmless() -> None:
    modes = Modes(b"".join(b"\x1b[?%dh" % number for number in range(100, 1_000)))
    assert modes.text().count(b"h") == MODES_MAX
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    modes = Modes()
    for _ in range(3_000):
        modes.see(bytes(chance.choice(b"\x1b[?;0123456789hlc=>!p\xff\x00") for _ in range(chance.randrange(40))))
        assert len(modes.text()) < 20 * (MODES_MAX + 1), f"seed {seed}"
        assert Modes(modes.text()).text() == modes.text(), f"seed {seed}"
