"""What a terminal sends becomes keys, and what is shown becomes as few bytes as needed."""

from hypothesis import given
from hypothesis import strategies as st

from unios.shell.fullscreen import keys, paint
from unios.shell.top_screen import Line


def test_sequences_controls_and_text_become_keys() -> None:
    found, rest = keys(b"k\x1b[A\x1bOB\x1b[6~\r\x7f\xc3\xa4\x1b[1;5C\x03", final=False)
    assert (found, rest) == (["k", "up", "down", "pagedown", "enter", "backspace", "ä", "unknown", "interrupt"], b"")


def test_a_sequence_that_is_not_whole_waits_and_a_lone_escape_is_one_at_last() -> None:
    assert keys(b"q\x1b", final=False) == (["q"], b"\x1b")
    assert keys(b"\x1b[", final=False) == ([], b"\x1b[")
    assert keys(b"\x1b", final=True) == (["escape"], b"")
    assert keys(b"\xc3", final=False) == ([], b"\xc3")


@given(st.binary(max_size=40), st.integers(0, 40))
def test_however_the_bytes_are_cut_the_same_keys_come(data: bytes, at: int) -> None:
    first, rest = keys(data[:at], final=False)
    second, left = keys(rest + data[at:], final=False)
    assert (first + second, left) == keys(data, final=False)
    assert keys(left, final=True)[1] == b""


def test_only_lines_that_have_changed_are_painted() -> None:
    before = [Line("a"), Line("b", "red")]
    assert paint(before, before, colour=True) == b""
    assert paint([Line("a"), Line("c", "red")], before, colour=True) == b"\x1b[2;1H\x1b[31mc\x1b[0m\x1b[K"
    assert b"\x1b[31m" not in paint(before, [], colour=False) and b"\x1b[2J" in paint(before, [], colour=False)
