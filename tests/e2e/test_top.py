"""`unios top` on a real terminal of 80x24: its keys do what they say, and the terminal is given back whatever happens."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.e2e.screen import Screen
from tests.e2e.system import System, nice_values


@pytest.fixture
def screen(whole: System) -> Iterator[Screen]:
    found = Screen(whole, "top")
    try:
        yield found
    finally:
        found.close()


def test_keys_freeze_thaw_renice_and_kill_what_is_chosen(whole: System, screen: Screen) -> None:
    mark = f"{100_000 + os.getpid()}"
    pid = whole.run_detached("sleep", mark)
    other = whole.run_detached("sleep", "100001")
    screen.wait_for(f"sleep {mark}")
    screen.type(f"/{mark}\r")
    screen.wait(lambda text: "sleep 100001" not in text and mark in text, "only one is shown")
    screen.type("f")
    screen.wait_for(f"{pid} is frozen")
    assert whole.process(pid)["state"] == "frozen"
    screen.type("t")
    screen.wait_for(f"{pid} goes on")
    screen.type("r7\r")
    screen.wait_for(f"{pid} has the nice value 7 now")
    assert nice_values(mark) == {7} and whole.process(pid)["nice"] == 7
    screen.type("k")
    screen.wait_for(f"signal to {pid} [TERM]:")
    screen.type("KILL\r")
    whole.wait_process(pid, lambda record: record["state"] == "exited", "is killed")
    screen.wait_for("no process contains")
    assert whole.process(pid)["signal"] == 9 and whole.process(other)["state"] == "running"
    screen.type("q")
    assert screen.finish() == 0 and screen.is_restored()
    whole.unios("kill", str(other))


def test_sorting_details_and_a_resize(whole: System, screen: Screen) -> None:
    first = whole.run_detached("sh", "-c", "echo said by it; sleep 100002")
    second = whole.run_detached("sleep", "100003")
    screen.type("/10000\r")
    screen.wait(lambda text: f"{first} root" in text and f"{second} root" in text, "both are shown")
    screen.type("sss")
    text = screen.wait_for("PID*")
    assert text.index(f"{first} root") < text.index(f"{second} root")
    screen.type("\x1b[H\r")
    assert "said by it" in screen.wait_for(f"process {first}: running on n") and "restart        on-loss" in screen.text
    screen.type("q")
    screen.resize(10, 60)

    def fits(text: str) -> bool:
        return "COMMAND" in text and len([line for line in screen.lines if line]) <= 10 and all(len(line) <= 60 for line in screen.lines)

    screen.wait(fits, "ten lines of sixty columns are drawn")
    screen.process.send_signal(signal.SIGTERM)
    assert screen.finish() == 143 and screen.is_restored()
    whole.unios("kill", str(first), str(second))


def test_the_terminal_is_given_back_while_it_is_stopped_and_after_an_interrupt(whole: System) -> None:
    screen = Screen(whole, shell='"$0" top; echo stopped; read line; echo "read $line"; read line; fg; exit $?')  # the screen is fg's at once
    try:
        screen.wait_for("COMMAND")
        screen.type("\x1a")
        screen.wait_for("stopped")
        assert screen.is_restored()
        screen.type("this\n")
        screen.wait_for("read this")
        screen.type("\n")
        screen.wait(lambda text: screen.alternate and "COMMAND" in text, "it is drawn again")
        screen.type("\x03")
        assert screen.finish() == 130 and screen.is_restored()
    finally:
        screen.close()


def test_in_a_pipe_it_is_plain_text_and_json_is_for_programs(whole: System) -> None:
    pid = whole.run_detached("sh", "-c", "while :; do :; done")
    try:
        said = whole.unios("top").stdout.decode()
        assert "\x1b" not in said and [line.split()[0] for line in said.splitlines()[1:4]] == ["n1", "n2", "n3"]
        found = json.loads(whole.unios("top", "--json").stdout)
        row = next(row for row in found["processes"] if row["pid"] == pid)
        assert row["cpu"] > 0 and row["cpu_ms"] > 0 and row["memory_bytes"] > 0
        assert all(0 < node["busy"] <= 1 and node["memory_bytes"] < node["memory_total"] for node in found["nodes"])
        assert whole.unios("top", "-n", "0", check=False).returncode == 2
    finally:
        whole.unios("kill", str(pid))


def test_it_goes_on_while_a_node_dies(fresh: System) -> None:
    moving = fresh.run_detached("sleep", "100005")
    home = fresh.process(moving)["node"]
    screen = Screen(fresh, "top", "--node", "n1" if home != "n1" else "n2")
    try:
        screen.wait_for("sleep 100005")
        fresh.power_cut(home)
        screen.wait(lambda text: any(line.startswith(home) and "lost" in line for line in text.splitlines()), f"{home} is shown as lost")
        screen.wait(lambda text: any("100005" in line and "running" in line and home not in line for line in text.splitlines()), "it runs elsewhere")
        screen.type("q")
        assert screen.finish() == 0 and screen.is_restored()
    finally:
        screen.close()
