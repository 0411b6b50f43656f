"""The manual page is made of the declarations, holds all of them, and is up to date; its examples can be read back from it."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios import __version__
from unios.shell import main, man
from unios.shell.manual import _text, matches, page, plainly, read, read_page
from unios.shell.words import GROUPS, INDEX, find, groups

MAN = Path(__file__).parents[2] / "docs/man"
PAGE = MAN / "unios.1"
SOURCE = (MAN / "examples.txt").read_text()


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == page(read(SOURCE), __version__), "type: python scripts/make_man.py"


def test_every_word_and_every_option_is_in_it() -> None:
    text = plainly(PAGE.read_text())
    for name in INDEX:
        word = find(name)
        assert word is not None and f".SS unios {name}" in text
        assert all(option.text in text and all(one in text for one in option.names) for option in word.options)
    assert "__complete" not in text


def test_every_word_is_in_one_group_of_help() -> None:
    listed = [name for _title, names in groups() for name in names]
    assert sorted(listed) == sorted(INDEX)
    named = [name for _title, names in GROUPS for name in names]
    assert len(named) == len(set(named))


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_it_renders_without_warnings() -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-Tutf8", str(PAGE)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "") and "unios run" in done.stdout


def test_the_script_makes_the_page() -> None:
    code = "import runpy; print(runpy.run_path('scripts/make_man.py')['make'](), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=MAN.parents[1], capture_output=True, text=True, check=True)
    assert done.stdout == PAGE.read_text()


def test_examples_are_read_back_from_the_page() -> None:
    assert read_page(PAGE.read_text()) == read(SOURCE)


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\n\r"), max_size=30))
def test_text_passes_through_roff_unchanged(text: str) -> None:
    assert plainly(_text(text)) == text
    assert not _text(text).startswith((".", "'"))


def test_a_command_may_go_on_and_what_follows_is_what_it_prints() -> None:
    found = read("% Why:\n$ one \\\n> two\nsaid\n> said\n$ three\n\n% More:\n$ four\n")
    assert [(one.text, one.command, one.output) for one in found] == [
        ("Why:", "one \\\ntwo", ("said", "> said")),
        ("", "three", ()),
        ("More:", "four", ()),
    ]
    with pytest.raises(ValueError, match="line 1"):
        read("output of nothing")


def test_dots_stand_for_anything() -> None:
    assert matches(("a ... c",), "a b\nb c\n") and matches((), "\n") and not matches(("a",), "ab") and not matches((), "x")


def test_without_a_pager_the_page_is_plain_text(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert main.execute(["man"]) == 0
    said = capfd.readouterr().out
    assert "EXAMPLES" in said and "    $ unios up --nodes 3" in said and "\\-" not in said and "\\f" not in said and "\n.SH" not in said
    monkeypatch.setattr(man, "_PLACES", ())
    assert main.execute(["man"]) == 1


def test_help_is_of_all_words_or_of_one(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["help"]) == 0
    assert "The first five minutes" in capfd.readouterr().out
    assert main.execute(["help", "kill"]) == 0
    assert "--tree" in capfd.readouterr().out
    assert main.execute(["help", "nonsense"]) == 2
