"""What may follow on a command line, and what the answer to a shell's script looks like."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.shell import main
from unios.shell.completing import Possible, possible
from unios.shell.completion import _joined
from unios.shell.words import HIDDEN, INDEX, find


def texts(line: str) -> list[str]:
    """Return what may stand at the end of a line; a space at its end begins a new word."""
    typed = line.split(" ")
    return [text for text, _what in possible(typed, len(typed) - 1).texts if text.startswith(typed[-1])]


def kind(line: str) -> str:
    typed = line.split(" ")
    return possible(typed, len(typed) - 1).kind


def test_words_options_and_choices_come_from_the_declarations() -> None:
    assert set(texts("unios ")) == set(INDEX) and texts("unios sta") == ["status"]
    assert texts("unios --no") == ["--node"] and "--tree" in texts("unios kill --")
    assert texts("unios run --restart ") == ["never", "on-loss", "on-failure", "always"]
    assert texts("unios run --restart=on-") == ["--restart=on-loss", "--restart=on-failure"]
    assert texts("unios completion ") == ["bash", "zsh", "fish"]
    assert not set(HIDDEN) & set(texts("unios "))


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("unios kill ", "pids"),
        ("unios kill 300 ", "pids"),
        ("unios renice 5 ", "pids"),
        ("unios kill -s ", "signals"),
        ("unios kill --signal=", "signals"),
        ("unios --node ", "nodes"),
        ("unios --node n1 kill ", "pids"),
        ("unios ps --node ", "nodes"),
        ("unios events --node-of ", "nodes"),
        ("unios events --pid ", "pids"),
        ("unios run --on ", "nodes"),
        ("unios run --policy ", "policies"),
        ("unios policy ", "policies"),
        ("unios cancel ", "pids"),
        ("unios run --cwd ", "dirs"),
        ("unios run --user ", "users"),
        ("unios run ", "commands"),
        ("unios run -- ", "commands"),
        ("unios run -d ls ", "files"),
        ("unios run ls --node ", "files"),
        ("unios logs ", "pids"),
        ("unios logs 300 ", ""),
        ("unios ps ", ""),
        ("unios nonsense ", ""),
        ("unios run -e ", ""),
    ],
)
def test_what_only_the_system_knows_is_named_by_its_kind(line: str, what: str) -> None:
    assert kind(line) == what


def test_bash_splits_at_equal_signs_and_that_is_undone() -> None:
    assert _joined(["unios", "ps", "--node", "=", "n1"], 4) == (["unios", "ps", "--node=n1"], 2)
    assert _joined(["unios", "ps", "--node", "="], 3) == (["unios", "ps", "--node="], 2)
    assert _joined(["unios", "run", "A", "=", "b"], 4) == (["unios", "run", "A", "=", "b"], 4)


TOKENS = st.sampled_from(["unios", "run", "kill", "--node", "--", "-", "=", "--restart=", "n1", ""]) | st.text(max_size=5)


@settings(max_examples=300, deadline=None)
@given(st.lists(TOKENS, max_size=6), st.integers(0, 8))
def test_nothing_that_is_typed_breaks_completion(typed: list[str], at: int) -> None:
    assert isinstance(possible(typed, at), Possible)
    joined, place = _joined(typed, at)
    assert isinstance(possible(joined, place), Possible)


def test_without_a_node_nothing_is_offered_and_nothing_is_said(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["--home", str(tmp_path), "__complete", "bash", "2", "unios", "kill", ""]) == 0
    assert capfd.readouterr() == ("\n", "")
    assert main.execute(["--home", str(tmp_path), "__complete", "fish", "1", "unios", "stat"]) == 0
    assert capfd.readouterr().out.splitlines()[1].startswith("status\t")


def test_every_word_that_is_listed_or_hidden_is_there() -> None:
    assert all(find(name) is not None for name in (*INDEX, *HIDDEN)) and find("_none") is None


def test_an_unknown_shell_is_refused() -> None:
    assert main.execute(["completion", "tcsh"]) == 2
