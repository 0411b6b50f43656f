from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.shell import clicks, main
from unios.shell.words import COMMON, INDEX, Given, Option, Word, find


def value(option: Option) -> st.SearchStrategy[str]:
    if option.choices:
        return st.sampled_from(option.choices)
    return st.integers(0, 99_999).map(str) if option.number else st.text("ab=-9é .", max_size=4)


@st.composite
def lines(draw: st.DrawFn) -> list[str]:
    """Command lines that are mostly right and sometimes not."""
    name = draw(st.sampled_from(sorted(INDEX)))
    word = find(name)
    assert word is not None
    before = [token for option in draw(st.lists(st.sampled_from(COMMON), max_size=2)) for token in draw(typed(option))]
    options = draw(st.lists(st.sampled_from([*word.options, *COMMON]), max_size=4))
    after = [token for option in options for token in draw(typed(option))]
    arguments = draw(st.lists(st.text("ab1-=é", max_size=4), max_size=3))
    if draw(st.booleans()):
        arguments.insert(0, "--")
    return [*before, name, *(after + arguments if draw(st.booleans()) else arguments + after)]


@st.composite
def typed(draw: st.DrawFn, option: Option) -> list[str]:
    name = draw(st.sampled_from(option.names))
    if option.is_flag:
        return [name]
    text = draw(value(option))
    return [f"{name}={text}"] if draw(st.booleans()) else [name, text]


def with_click(line: list[str]) -> tuple[Word, Given] | None:
    try:
        chosen = clicks.read(line)
    except click.ClickException:
        return None
    return (chosen.word, chosen.given) if isinstance(chosen, clicks.Chosen) else None


@settings(max_examples=1500, deadline=None)
@given(lines())
def test_what_the_fast_reader_takes_click_reads_the_same(line: list[str]) -> None:
    fast = main._plainly(line)
    if fast is not None:
        slow = with_click(line)
        assert slow is not None and slow[0] is fast[0] and slow[1] == fast[1], line


@pytest.mark.parametrize(
    "line",
    [
        ["ps"],
        ["ps", "-a", "--json"],
        ["--node", "n2", "--json", "ps"],
        ["nodes", "--json", "--node=n2"],
        ["run", "-d", "--json", "--", "sleep", "1000"],
        ["run", "-e", "A=b", "ls", "-l", "--json"],
        ["kill", "-9", "1001"],
        ["wait", "1001", "1002"],
        ["logs", "-f", "1001"],
        ["status"],
        ["up", "--nodes", "3"],
        ["down", "--all"],
    ],
)
def test_the_common_command_lines_do_not_need_click(line: list[str]) -> None:
    assert main._plainly(line) is not None


@pytest.mark.parametrize(
    "line",
    [["--help"], ["ps", "--help"], ["ps", "x"], ["ps", "--al"], ["nonsense"], [], ["up", "--nodes", "many"], ["logs"]],
)
def test_what_is_in_doubt_is_left_to_click(line: list[str]) -> None:
    assert main._plainly(line) is None


def test_options_after_the_program_are_the_programs() -> None:
    found = main._plainly(["run", "--json", "ls", "--node", "x"])
    assert found is not None
    assert found[1].arguments == ("ls", "--node", "x") and found[1].text("node") == ""


@pytest.mark.parametrize("name", sorted(INDEX))
def test_every_word_has_help_and_takes_the_common_options(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.execute([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert "--node NAME" in said and "--json" in said and "--home DIR" in said


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=5))
def test_no_command_line_breaks_the_readers(line: list[str]) -> None:
    found: Any = main._plainly(line)
    if found is None:
        with_click(line)
