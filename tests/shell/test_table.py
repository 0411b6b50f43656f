import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.shell.logs import tail
from unios.shell.ps import command_line
from unios.shell.session import tell
from unios.shell.signals import number_of
from unios.shell.table import age, plain, table
from unios.wire.operations import Chunk


def test_columns_align_and_long_lines_are_cut_to_the_terminal() -> None:
    text = table(["A", "BB"], [[1, "x" * 50], [222, "y"]], columns=20, colour=False)
    assert text.splitlines() == ["A    BB", "1    xxxxxxxxxxxxxx…", "222  y"]


def test_states_are_coloured_only_where_asked() -> None:
    assert "\x1b[32mready" in table(["N", "S"], [["n1", "ready"]], columns=0, colour=True)
    assert "\x1b" not in table(["N", "S"], [["n1", "ready"]], columns=0, colour=False)


def test_what_a_terminal_would_obey_is_shown_escaped() -> None:
    assert "\x1b" not in table(["A"], [["\x1b[2Jgone"]], columns=0, colour=False)


@pytest.mark.parametrize(("as_json", "line"), [(False, b"unios: no \\xff here\n"), (True, b'{"error":"usage","text":"no \\\\xff here"}\n')])
def test_an_error_shows_the_bytes_that_are_no_text_as_ps_does(capfd: pytest.CaptureFixture[str], as_json: bool, line: bytes) -> None:
    assert plain(os.fsdecode(b"\xff\xc3\xbc")) == "\\xffü"
    tell("usage", f"no {os.fsdecode(bytes([255]))} here", as_json=as_json)
    assert capfd.readouterr().err.encode() == line


@pytest.mark.parametrize(("ms", "shown"), [(5_000, "5s"), (65_000, "1m05s"), (3_600_000, "1h00m"), (90_000_000, "1d01h")])
def test_ages_have_at_most_two_units(ms: int, shown: str) -> None:
    assert age(1, 1 + ms) == shown


def test_a_command_line_is_quoted_as_a_shell_would_need_it() -> None:
    assert command_line((b"sh", b"-c", b"echo $A; it's", b"")) == "sh -c 'echo $A; it'\\''s' ''"


@pytest.mark.parametrize(("text", "number"), [("TERM", 15), ("SIGKILL", 9), ("int", 2), ("9", 9), ("0", 0)])
def test_signals_are_read_by_name_and_number(text: str, number: int) -> None:
    assert number_of(text) == number


@given(st.lists(st.tuples(st.sampled_from(["out", "err"]), st.text("a\n", max_size=6))), st.integers(0, 6))
def test_tail_shows_the_last_lines_of_each_stream(pieces: list[tuple[str, str]], lines: int) -> None:
    at = {"out": 0, "err": 0}
    chunks = []
    for stream, text in pieces:
        chunks.append(Chunk(stream, 1, at[stream], text.encode()))
        at[stream] += len(text)
    kept = list(tail(chunks, lines))
    for stream in ("out", "err"):
        whole = "".join(text for name, text in pieces if name == stream)
        expected = "".join(whole.splitlines(keepends=True)[-lines:]) if lines else ""
        assert b"".join(chunk.data for chunk in kept if chunk.stream == stream).decode() == expected
        assert all(whole.encode()[c.offset : c.offset + len(c.data)] == c.data for c in kept if c.stream == stream)
