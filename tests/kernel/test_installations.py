"""Installations: what one says of itself, what a path means, and what a node runs."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unios import __version__
from unios.errors import CallerError, Unavailable
from unios.kernel import boot, guarded, installations, runfiles, supervisor, trees_protocol
from unios.store import sqlite
from unios.wire import installation
from unios.wire.home import Home
from unios.wire.installation import PACKAGE, Installation
from unios.wire.messages import PROTOCOL_MAX, PROTOCOL_MIN


def test_this_one_says_what_it_is() -> None:
    facts = installations.probe(installation.own_place())
    assert (facts.version, facts.package, facts.python) == (__version__, PACKAGE, sys.version_info[:2])
    assert facts.links == (PROTOCOL_MIN, PROTOCOL_MAX) and facts.store == (sqlite.FORMAT, sqlite.FORMAT)
    assert facts.trees == (trees_protocol.PROTOCOL_MIN, trees_protocol.PROTOCOL)
    assert installations.marked(installation.own_place(), facts) == installation.own()


def test_one_that_cannot_be_run_says_why(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="No such file"):
        installations.probe(Installation(str(tmp_path / "python")))
    (tmp_path / "unios").mkdir()
    (tmp_path / "unios" / "__init__.py").write_text("nothing")
    with pytest.raises(Unavailable, match="NameError"):
        installations.probe(Installation(sys.executable, str(tmp_path)))


def test_a_mark_stands_for_names_and_contents_of_the_python_files(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(PACKAGE, tmp_path / "unios", ignore=shutil.ignore_patterns("__pycache__")))
    assert installation.mark(str(copy)) == installation.mark(PACKAGE)
    (copy / "py.typed").write_text("not of Python")
    assert installation.mark(str(copy)) == installation.mark(PACKAGE)
    (copy / "ids.py").write_text((copy / "ids.py").read_text() + "\n")
    changed = installation.mark(str(copy))
    assert changed != installation.mark(PACKAGE)
    (copy / "ids.py").rename(copy / "ids2.py")
    assert installation.mark(str(copy)) not in (changed, installation.mark(PACKAGE))


def test_a_path_means_an_interpreter_an_environment_or_a_checkout(tmp_path: Path) -> None:
    assert installations.at(sys.executable) == Installation(sys.executable)
    checkout = tmp_path / "checkout"
    (checkout / "src" / "unios").mkdir(parents=True)
    (checkout / "src" / "unios" / "__init__.py").touch()
    assert installations.at(str(checkout)) == Installation(sys.executable, str(checkout / "src"))
    assert installations.at(str(checkout / "src")) == Installation(sys.executable, str(checkout / "src"))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    python = checkout / ".venv" / "bin" / "python"
    python.symlink_to(sys.executable)
    assert installations.at(str(checkout)) == Installation(str(python), str(checkout / "src"))
    assert installations.at(str(checkout / ".venv")) == Installation(str(python))
    with pytest.raises(CallerError, match="no installation"):
        installations.at(str(tmp_path))


def test_what_a_command_finds_depends_on_no_environment(tmp_path: Path) -> None:
    (tmp_path / "there.py").write_text("import sys; print(sys.executable, __file__)")
    command = Installation(sys.executable, str(tmp_path)).command("there")
    done = subprocess.run(command, env={"PYTHONPATH": "/nowhere"}, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [sys.executable, str(tmp_path / "there.py")]


def test_what_a_node_runs_is_what_its_supervisor_says_or_else_what_its_guard_is(tmp_path: Path) -> None:
    folder = Home(tmp_path).node("n1")
    folder.run.mkdir(parents=True)
    with pytest.raises(Unavailable, match="no guard"):
        installations.of_node(folder)
    older = {**os.environ, "PYTHONPATH": "/older/src"}
    guard = subprocess.Popen([sys.executable, "-c", "print(flush=True); input()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=older)
    try:
        assert guard.stdout is not None and guard.stdout.readline()  # Linux shows nothing of what it runs when it has just been made
        runfiles.write(folder.run / "guard.json", guard.pid)
        assert installations.of_node(folder) == Installation(sys.executable, "/older/src")
        runfiles.write(folder.run / "supervisor.json", os.getpid())
        installations.say(folder, os.getpid())
        assert installations.of_node(folder) == installation.own()
        runfiles.write(folder.run / "supervisor.json", guard.pid)  # one that does not say: what is written there is of another
        assert installations.of_node(folder) == Installation(sys.executable, "/older/src")
    finally:
        guard.communicate()


def test_of_a_process_that_has_just_begun_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_bytes", lambda _path: b"")  # as Linux has it for a moment after it was made
    with pytest.raises(Unavailable, match="just beginning, or ending"):
        installations._of_interpreter(os.getpid())


def test_what_is_remembered_is_found_again_and_a_damaged_file_says_nothing(tmp_path: Path) -> None:
    home, one, two = Home(tmp_path), Installation("/a", "/b", "1+c"), Installation("/d")
    assert installations.remembered(home) == {}
    installations.remember(home, now=one, before=None, next=two)
    assert installations.remembered(home) == {"now": one, "next": two}
    for text in ("", "[]", '{"now": 1}', '{"now": ["a", "b", "c", "d"]}'):
        runfiles.place(tmp_path / installation.FILE, text)
        assert installations.remembered(home) == {}


def test_a_tree_keeps_the_protocol_of_its_init(tmp_path: Path) -> None:
    tree = guarded.Tree(str(tmp_path), 1001, 1)
    tree.save()
    assert (found := guarded.load(str(tmp_path))) is not None and found.protocol == trees_protocol.PROTOCOL
    fields = json.loads((tmp_path / "tree.json").read_text())
    del fields["protocol"]
    (tmp_path / "tree.json").write_text(json.dumps(fields))
    assert (found := guarded.load(str(tmp_path))) is not None and found.protocol == 1, "one of an older guard"


def test_protocols_of_trees_that_are_spoken() -> None:
    assert all(map(trees_protocol.is_spoken, (None, trees_protocol.PROTOCOL_MIN, trees_protocol.PROTOCOL)))
    assert not any(map(trees_protocol.is_spoken, (trees_protocol.PROTOCOL_MIN - 1, trees_protocol.PROTOCOL + 1, "1")))


def test_a_supervisor_that_is_started_and_finds_that_another_is_to_run_is_late(tmp_path: Path) -> None:
    folder = Home(tmp_path).node("n1")
    folder.run.mkdir(parents=True)
    assert not boot._is_late(folder)
    runfiles.place(folder.run / "restart", json.dumps(supervisor.restart(folder)))
    assert not boot._is_late(folder)
    runfiles.place(folder.run / "restart", json.dumps(supervisor.restart(folder, Installation(sys.executable, "/other/src"))))
    assert boot._is_late(folder)
