"""Which system a program uses, where its own would go, and what a fork or a signal in the middle finds."""

import os
import socket
import threading
from pathlib import Path

import pytest

from unios.client import embedded
from unios.client.embedded import System
from unios.errors import Unavailable
from unios.wire.home import Home
from unios.wire.installation import PACKAGE, environment


@pytest.fixture(autouse=True)
def program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> embedded._Program:
    """A program that has used nothing yet, for which no real node is started."""
    made = embedded._Program()
    monkeypatch.setattr(embedded, "_program", made)
    monkeypatch.setenv("UNIOS_HOME", str(tmp_path / "none"))
    monkeypatch.delenv("UNIOS_PID", raising=False)
    monkeypatch.setattr(embedded, "start", lambda: started(tmp_path / "own"))
    return made


def started(home: Path) -> System:
    home.mkdir()
    (home / "system.json").write_text("{}")
    return System(home, embedded=True, owner=os.getpid())


def door(home: Path) -> socket.socket:
    """Make a home with a node that takes connections."""
    node = Home(home).node("n1")
    node.path.mkdir(parents=True)
    node.node_file.write_text("{}")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(node.door))
    listening.listen()
    return listening


def test_the_system_that_runs_is_found_and_stays_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder, door(Path(folder)):
        monkeypatch.setenv("UNIOS_HOME", folder)
        found = embedded.system()
        assert (str(found.home), found.embedded) == (folder, False) and embedded.system() is found


def test_nothing_running_one_is_started_once_and_named_in_the_environment(tmp_path: Path) -> None:
    own = embedded.system()
    assert own.embedded and embedded.system() is own and os.environ["UNIOS_HOME"] == str(tmp_path / "own")
    os.environ["UNIOS_HOME"] = str(tmp_path / "other")
    assert embedded.system() is own


def test_after_close_the_environment_is_as_it_was(tmp_path: Path) -> None:
    embedded.system().close()
    assert os.environ["UNIOS_HOME"] == str(tmp_path / "none") and not (tmp_path / "own").exists()
    assert embedded.system().embedded


def test_one_that_is_named_and_down_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none/system.json").write_text("{}")
    with pytest.raises(Unavailable, match="is down: `unios up` starts it"):
        embedded.system()


def test_a_program_of_a_system_never_starts_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNIOS_PID", "300")
    assert embedded.system().home == tmp_path / "none" and not embedded.system().embedded


def test_one_that_a_forked_child_has_inherited_is_not_its_to_close(tmp_path: Path) -> None:
    inherited = System(tmp_path, embedded=True, owner=os.getpid() + 1)
    inherited.close()
    assert tmp_path.exists()


def test_a_forked_child_is_not_held_up_by_a_thread_that_it_does_not_have(program: embedded._Program) -> None:
    with program.lock:
        program.starting = True
        program.forked()
        entered: list[bool] = []
        other = threading.Thread(target=lambda: entered.append(embedded.system().embedded))
        other.start()
        other.join(10)
        assert entered == [True]


def test_a_signal_handler_in_the_middle_of_a_start_gets_a_sentence(program: embedded._Program) -> None:
    program.starting = True
    with pytest.raises(Unavailable, match="just being started"):
        embedded.system()


@pytest.mark.parametrize(("say_s", "said"), [(0.0, "unios: starting a node for this program ...\n"), (3600.0, "")])
def test_only_a_start_that_takes_long_is_told_and_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], say_s: float, said: str
) -> None:
    told, tell = threading.Event(), embedded._tell
    monkeypatch.setattr(embedded, "EMBEDDED_SAY_S", say_s)
    monkeypatch.setattr(embedded, "_tell", lambda: (tell(), told.set()))
    with embedded._told_when_slow():
        assert told.wait(10 if said else 0) == bool(said)
    assert capsys.readouterr() == ("", said)


def test_homes_go_where_programs_may_run_and_paths_are_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = Path("/tmp") / f"ux{os.getpid()}"
    good.mkdir(mode=0o700)
    try:
        monkeypatch.setenv("XDG_RUNTIME_DIR", str(good))
        assert embedded._parent() == str(good)
        for bad in ("", "relative", str(good / "missing"), str(tmp_path / ("x" * 50)), "/proc"):
            monkeypatch.setenv("XDG_RUNTIME_DIR", bad)
            assert embedded._parent() == "/tmp"
    finally:
        good.rmdir()


def test_nodes_find_the_unios_that_the_program_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", f"relative{os.pathsep}{os.pathsep}/absolute")
    paths = environment()["PYTHONPATH"].split(os.pathsep)
    assert paths[-2:] == [os.path.abspath("relative"), "/absolute"] and os.path.dirname(PACKAGE) in paths
