"""The public face: names that are found at first use, typed, and cost who does not use them nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import unios
from unios import public

SOURCE = Path(public.__file__).read_text()


def said(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.strip()


def test_every_public_name_is_there() -> None:
    for name in public._WHERE:
        assert getattr(unios, name) is not None
        assert name in dir(unios)
    assert set(unios.__all__) == set(public._WHERE)  # type: ignore[attr-defined]


def test_what_type_checkers_see_is_what_is_there() -> None:
    """One line in the table, one for type checkers: the same name, from the same module."""
    typed = {
        name.asname: f"{node.module}:{name.name}"
        for branch in ast.parse(SOURCE).body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for name in node.names
    }
    assert typed == public._WHERE


def test_a_name_that_is_not_there_is_an_ordinary_mistake() -> None:
    with pytest.raises(AttributeError, match="module 'unios' has no attribute 'sytem'"):
        unios.sytem  # type: ignore[attr-defined]  # noqa: B018
    assert not hasattr(unios, "__path_of_nothing__")


def test_import_loads_nothing_and_a_short_command_none_of_it() -> None:
    assert said("import sys; before = set(sys.modules); import unios; print(sorted(set(sys.modules) - before))") == "['unios']"
    code = "import sys, unios.shell.main, unios.shell.session; from unios.shell import words; words.find('ps'); "
    assert said(code + "print([m for m in ('unios.public', 'unios.client.embedded', 'unios.client.progress') if m in sys.modules])") == "[]"


def test_star_takes_the_public_names() -> None:
    assert said("from unios import *; print(system.__module__, Unavailable.__name__)") == "unios.client.embedded Unavailable"


def test_programs_that_are_checked_strictly_see_the_types(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("import unios\n\nhome: str = unios.system().home\nunios.sytem()\nfor one in unios.progress([1]):\n    one.upper()\n")
    argv = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--cache-dir", str(tmp_path / "cache"), str(program)]
    env = {"MYPYPATH": str(Path(public.__file__).parents[1]), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=tmp_path, timeout=110, check=False)
    # Of an installed package only what the program says of it counts; here it is found in its source, and libraries of its own without types are told of too.
    said_of_it = [line for line in done.stdout.splitlines() if line.partition(":")[0].endswith(program.name)]
    wrong = [line.partition(": error: ")[2] for line in said_of_it if ": error: " in line]
    assert [text.split("  ")[0].split(";")[0] for text in wrong] == [
        'Incompatible types in assignment (expression has type "Path", variable has type "str")',
        'Module has no attribute "sytem"',
        '"int" has no attribute "upper"',
    ], done.stdout + done.stderr
