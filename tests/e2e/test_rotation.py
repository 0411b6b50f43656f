"""Certificates of seconds: they rotate several times under a call that goes on, and nobody notices."""

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.homes import home_of, join, links
from tests.e2e.system import System, wait_for
from unios.kernel.certificates import LIFE_VARIABLE, mark

LIFE_S = 8


@pytest.fixture
def two() -> Iterator[tuple[System, System]]:
    env = {LIFE_VARIABLE: str(LIFE_S)}
    with System(env=env) as first, System(env=env) as second:
        first.unios("up")
        yield first, join(first, second, "n2")


def mark_of(system: System, name: str) -> str:
    return mark((home_of(system).node(name).path / "node.crt").read_bytes())


def warnings(system: System) -> list[str]:
    found: list[str] = json.loads(system.unios("status", "--json", check=False).stdout)["warnings"]
    return found


def test_certificates_rotate_under_a_call_and_nobody_notices(two: tuple[System, System]) -> None:
    first, second = two
    seen = {name: {mark_of(system, name)} for system, name in ((first, "n1"), (second, "n2"))}
    # It writes for longer than two whole lives: no certificate, and no link, of the beginning is good at the end.
    script = f"for i in $(seq 1 {4 * 2 * LIFE_S}); do echo $i; sleep 0.25; done"
    with first.start("run", "--on", "n2", "--", "sh", "-c", script, stdout=-1, stderr=-1) as running:

        def look() -> bool:
            for system, name in ((first, "n1"), (second, "n2")):
                seen[name].add(mark_of(system, name))
            return running.poll() is not None

        wait_for(look, bool, "it has written all", timeout=90)
        out, err = running.communicate()
    assert running.returncode == 0, err
    assert out.split() == [str(number).encode() for number in range(1, 4 * 2 * LIFE_S + 1)]
    assert all(len(marks) >= 4 for marks in seen.values()), {name: len(marks) for name, marks in seen.items()}
    nodes = first.nodes()
    assert (nodes["n1"]["incarnation"], nodes["n2"]["incarnation"]) == (1, 1)
    assert links(first)["n2"].up and links(second)["n1"].up
    assert not [text for text in warnings(first) if "certificate" in text]


def test_while_the_authoritys_machine_does_not_answer_a_person_is_told_and_it_goes_on_afterwards(two: tuple[System, System], tmp_path: Path) -> None:
    first, second = two
    key = home_of(first).ca / "ca.key"
    os.rename(key, tmp_path / "ca.key")
    told = wait_for(lambda: [text for text in warnings(second) if "certificate of n2" in text], bool, "it is told", timeout=30)
    assert "could not be renewed" in told[0] and "the authority's key" in told[0]
    before = mark_of(second, "n2")
    os.rename(tmp_path / "ca.key", key)
    wait_for(lambda: mark_of(second, "n2") != before, bool, "it is renewed after all", timeout=30)
    os.kill(first.nodes()["n1"]["kernel_pid"], signal.SIGKILL)
    wait_for(lambda: first.nodes()["n1"]["state"], lambda state: state == "ready", "a kernel that begins anew shows what it has on disk")
    assert second.unios("run", "--on", "n1", "--", "true").returncode == 0


def test_a_node_that_slept_while_the_stores_machine_got_another_certificate_comes_back(two: tuple[System, System]) -> None:
    first, second = two
    seen = mark_of(second, "n2")
    wait_for(lambda: mark_of(second, "n2") != seen, bool, "n2 has a fresh one", timeout=30)
    node = second.nodes()["n2"]
    asleep = [node["kernel_pid"], *(pid for pid in node["pids"] if pid != node["kernel_pid"])]  # whoever looks after the kernel finds it awake
    before, record = mark_of(first, "n1"), first.nodes()["n1"]
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(lambda: mark_of(first, "n1") != before, bool, "n1 has another one", timeout=30)
        wait_for(lambda: first.nodes()["n2"]["state"], lambda state: state == "lost", "n2 is thought lost")
    finally:
        for pid in asleep:
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.05)
    wait_for(lambda: first.nodes()["n2"]["state"], lambda state: state == "ready", "n2 is back")
    assert second.unios("run", "--on", "n1", "--", "echo", "back").stdout == b"back\n"
    assert first.unios("run", "--on", "n2", "--", "echo", "there").stdout == b"there\n"
    assert first.nodes()["n1"]["incarnation"] == record["incarnation"]
    assert second.nodes()["n2"]["kernel_pid"] == node["kernel_pid"], "it was not begun anew, which would have forgotten what it knew"
