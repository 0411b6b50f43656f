"""Cancelling where others have to be asked, by a task or while the one who knows does not answer; and an end that a parent does not hear of."""

import os
import signal
from pathlib import Path

import pytest

from tests.e2e import deeds
from tests.e2e.system import System, wait_for
from tests.e2e.test_executor import alive, executor

pytestmark = pytest.mark.timeout(90)


def test_a_task_cancels_what_it_has_submitted_until_that_has_begun(whole: System, tmp_path: Path) -> None:
    with executor(whole, 2) as pool:
        cancelled, outcomes, begun, told = pool.submit(deeds.cancel_own, pool, str(tmp_path)).result(60)
    assert begun is False and told == "told"
    assert any(cancelled) and outcomes == [None if gone else number for number, gone in enumerate(cancelled)]
    assert {int(name) for name in os.listdir(tmp_path) if name.isdigit()} == {number for number, gone in enumerate(cancelled) if not gone}


def test_a_process_that_a_task_has_forked_uses_nothing_of_its_executor(whole: System) -> None:
    with executor(whole, 2) as pool:
        assert pool.submit(deeds.fork_and_submit, pool).result(60) == (7, 5)


def test_what_cancel_says_while_the_parent_is_stopped_holds_when_it_goes_on(whole: System, tmp_path: Path) -> None:
    with executor(whole, 1, node="n1") as pool:
        before = pool.submit(deeds.until_there, str(tmp_path / "go"))
        wait_for(before.running, bool, "it runs")
        ahead = [pool.submit(deeds.touch, str(tmp_path / str(number))) for number in range(3)]
        wait_for(lambda: all(future._given for future in ahead), bool, "they are given")  # type: ignore[attr-defined]
        processes = [int(pid) for pid in alive(whole)]
        parent = next(pid for pid in processes if parent_of(pid) not in processes)
        os.kill(parent, signal.SIGSTOP)
        try:
            assert not ahead[0].cancel()
        finally:
            os.kill(parent, signal.SIGCONT)
        (tmp_path / "go").touch()
        for future in ahead:
            future.result(20)
    assert sorted(os.listdir(tmp_path)) == ["0", "1", "2", "go"]


def test_a_shutdown_ends_a_parent_that_is_stopped(whole: System) -> None:
    """Else it holds for ever what was set aside for it."""
    pool = executor(whole, 2, node="n1")
    assert pool.submit(abs, -1).result(20) == 1
    for pid in alive(whole):
        os.kill(int(pid), signal.SIGSTOP)
    pool.shutdown()
    wait_for(lambda: alive(whole), lambda left: not left, "none is left")


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
