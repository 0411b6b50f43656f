"""Whom an embedded system belongs to: who may claim one, who is taken for gone, and what is left alone."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import wait_for
from unios.errors import CallerError
from unios.kernel import owner, runfiles, storehost
from unios.kernel.owner import Owner, claim, is_owned, keep_from_tidiers, take_away, tidy
from unios.wire.home import Home


@pytest.fixture
def ended() -> int:
    """The pid of a process that is no more."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def embedded(folder: Path, pid: int, start: int | None = None) -> Home:
    """Make what is left of an embedded system of that process."""
    home = Home(folder / f"unios-{pid}-0123abcd")
    (home.nodes_folder / "n1/run").mkdir(parents=True)
    (home.path / "owner.json").write_text(json.dumps({"pid": pid, "start": runfiles.start_of(pid) if start is None else start}))
    return home


def test_only_who_starts_it_owns_it(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    with pytest.raises(CallerError, match="belongs to who starts it"):
        claim(home, os.getpid())
    assert not home.path.exists()
    owned = claim(home, os.getppid())
    assert is_owned(home) and not owned.gone and owned.descriptor >= 0
    assert home.path.stat().st_mode & 0o777 == 0o700


def test_a_home_that_is_there_is_never_claimed(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with pytest.raises(FileExistsError):
        claim(home, os.getppid())
    assert not is_owned(home)


def test_an_ordinary_home_belongs_to_nobody(tmp_path: Path) -> None:
    (tmp_path / "system.json").touch()
    ordinary = Owner(Home(tmp_path))
    ordinary.look()
    assert not ordinary.gone and ordinary.descriptor == -1


def test_a_supervisor_whose_home_was_taken_away_while_it_started_has_nobody_to_be_there_for(tmp_path: Path) -> None:
    assert Owner(Home(tmp_path)).gone


def test_an_owner_is_gone_when_it_has_ended_and_not_before(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owned = Owner(embedded(tmp_path, process.pid))
    owned.look()
    assert not owned.gone
    process.communicate()
    owned.look()
    assert owned.gone


def test_another_process_with_the_owners_pid_is_not_the_owner(tmp_path: Path) -> None:
    assert Owner(embedded(tmp_path, os.getpid(), start=1)).gone


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"pid": "x", "start": 1}', "\0"])
def test_a_home_whose_owner_cannot_be_read_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "owner.json").write_text(text)
    assert Owner(Home(tmp_path)).gone


def test_what_abandoned_systems_left_is_taken_away_and_nothing_else(tmp_path: Path, ended: int) -> None:
    beside = Home(tmp_path / f"unios-{os.getpid()}-ffffffff")
    beside.path.mkdir()
    left = embedded(tmp_path, ended, start=5)
    begun, beginning = tmp_path / f"unios-{ended}-11111111", tmp_path / f"unios-{ended}-44444444"
    begun.mkdir()
    os.utime(begun, (0, 0))
    beginning.mkdir()  # by who is seen in another pid namespace only
    living = embedded(tmp_path, os.getpid())
    ordinary = tmp_path / "unios-mine"
    ordinary.mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").touch()
    link = tmp_path / f"unios-{ended}-22222222"
    link.symlink_to(elsewhere)
    (tmp_path / f"unios-{ended}-33333333").touch()
    kept = {beside.path, beginning, living.path, ordinary, elsewhere, link, tmp_path / f"unios-{ended}-33333333"}
    tidy(beside)
    assert not left.path.exists() and not begun.exists()
    assert set(tmp_path.iterdir()) == kept and list(elsewhere.iterdir()) == [elsewhere / "file"]


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another user: needs root")
def test_what_another_user_left_is_left_alone(tmp_path: Path, ended: int) -> None:
    left = embedded(tmp_path, ended, start=5)
    os.chown(left.path, 12345, 12345)
    tidy(Home(tmp_path / "unios-1-00000000"))
    assert left.path.exists()


def test_a_system_whose_supervisor_lives_is_left_to_it(tmp_path: Path, ended: int) -> None:
    left = embedded(tmp_path, ended, start=5)
    left.node("n1").node_file.write_text("{}")
    supervisor = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    runfiles.write(left.node("n1").run / "supervisor.json", supervisor.pid)
    tidy(Home(tmp_path / "unios-1-00000000"))
    supervisor.communicate(b"\n")
    assert left.path.exists() and supervisor.returncode == 0


def test_one_whose_owner_had_the_pid_of_a_process_that_lives_is_taken_away(tmp_path: Path) -> None:
    left = embedded(tmp_path, os.getpid(), start=1)
    tidy(Home(tmp_path / "unios-1-00000000"))
    assert not left.path.exists()


def test_one_that_another_takes_away_is_left_to_that(tmp_path: Path, ended: int) -> None:
    left = embedded(tmp_path, ended, start=5)
    lock = owner.lock_of(left)
    assert lock is not None
    tidy(Home(tmp_path / "unios-1-00000000"))
    assert left.path.exists()
    os.close(lock)


@pytest.mark.parametrize("holder", ["who claims it", "a part"])
def test_one_that_is_held_lives_whatever_its_pids_say(tmp_path: Path, holder: str) -> None:
    """They are those of another pid namespace, perhaps."""
    home = Home(tmp_path / "unios-1-0123abcd")
    if holder == "a part":
        embedded(tmp_path, 1, start=5).path.rename(home.path)
    else:
        claim(home, os.getppid())
    pid = os.fork()
    if not pid:  # what the claim holds ends with this process, which goes on
        keep_from_tidiers(home)
        signal.pause()
    try:
        (home.path / "owner.json").write_text(json.dumps({"pid": 1, "start": 5}))
        if holder == "a part":
            wait_for(lambda: _is_locked(home.path), bool, "it is held")
        tidy(Home(tmp_path / "unios-1-00000000"))
        assert home.path.exists()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if holder == "a part":
        tidy(Home(tmp_path / "unios-1-00000000"))
        assert not home.path.exists()


def _is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_taking_away_is_idempotent_and_a_home_that_is_gone_has_no_lock(tmp_path: Path) -> None:
    home = embedded(tmp_path, 1)
    take_away(home)
    take_away(home)
    assert not home.path.exists() and owner.lock_of(home) is None


def test_only_an_embedded_systems_store_does_without_syncs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(storehost, "check", lambda _home: None)
    monkeypatch.setattr(storehost, "which", lambda _home: None)
    monkeypatch.setattr(storehost.server, "main", lambda _folder, _beat, *, durable, check, mover: asked.append(durable) or 0)
    homes = [embedded(tmp_path, os.getpid()), Home(tmp_path / "ordinary")]
    for home in homes:
        home.store.mkdir(parents=True)
        storehost.main(home.node("n1"), lambda: None)
    assert asked == [False, True]
