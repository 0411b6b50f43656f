"""Locks over whole machines: a holder that stands still past its lease, a machine without power, one that is cut off."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab, Machine
from unios.client.synchronisation.token_guard import TokenGuard
from unios.errors import LeaseLost

pytestmark = pytest.mark.live

PROGRAM = """
import sys
from unios.client.synchronisation.lock import Lock
lock = Lock("shared")
for line in sys.stdin:
    try:
        word = line.strip()
        if word == "acquire":
            lock.acquire()
        elif word == "release":
            lock.release()
        print("token", *lock.token) if word == "token" or word == "acquire" else print(word, lock.check() if word == "check" else "")
    except Exception as error:
        print(type(error).__name__, error)
"""


class Program:
    """A Python program in a machine that does to the lock what it is told."""

    def __init__(self, machine: Machine) -> None:
        words = machine.command(sys.executable, "-u", "-c", PROGRAM)
        self.running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def say(self, word: str) -> None:
        assert self.running.stdin is not None
        self.running.stdin.write(word + "\n")
        self.running.stdin.flush()

    def hear(self) -> str:
        assert self.running.stdout is not None
        return self.running.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.say(word)
        return self.hear()

    def signal(self, number: int) -> None:
        """Signal the program itself: it is the child of what has entered the machine, which stands still with it and does not go on by itself."""
        pid = self.running.pid
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            os.kill(int(child), number)
        if number != signal.SIGSTOP:
            os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        if self.running.poll() is None:
            self.signal(signal.SIGKILL)
        self.running.communicate()


def token(line: str) -> tuple[int, int]:
    word, epoch, number = line.split()
    assert word == "token", line
    return int(epoch), int(number)


def test_a_holder_stopped_past_its_lease_loses_the_lock_to_another_machine_and_its_late_write_is_refused(three: Lab) -> None:
    guard = TokenGuard()
    holder, successor = Program(three.machines[1]), Program(three.machines[2])
    try:
        late = token(holder.ask("acquire"))
        guard.admit(late)
        successor.say("acquire")
        holder.signal(signal.SIGSTOP)
        now = token(successor.hear())
        assert now > late
        guard.admit(now)
        holder.signal(signal.SIGCONT)
        with pytest.raises(LeaseLost, match="later holder"):
            guard.admit(late)
        assert holder.ask("check").startswith("LeaseLost")
        assert successor.ask("check").startswith("check")
    finally:
        holder.close()
        successor.close()


def test_the_lock_of_a_machine_that_loses_its_power_goes_to_the_next(three: Lab) -> None:
    holder, successor = Program(three.machines[1]), Program(three.machines[2])
    try:
        late = token(holder.ask("acquire"))
        successor.say("acquire")
        three.machines[1].die()
        assert token(successor.hear()) > late
    finally:
        holder.close()
        successor.close()


def test_a_machine_that_is_cut_off_with_the_manager_grants_nothing_beside_its_successor(three: Lab) -> None:
    """The manager is on the second machine, since it was used there first; it and its holder go on without the rest, for as long as they may."""
    inside, outside = Program(three.machines[1]), Program(three.machines[2])
    waiting = Program(three.machines[1])
    try:
        late = token(inside.ask("acquire"))
        waiting.say("acquire")
        outside.say("acquire")
        three.machines[1].cut_from(three.machines[0], three.machines[2])
        now = token(outside.hear())
        assert now > late and now[0] > late[0]
        assert inside.ask("check").startswith("LeaseLost")
        three.machines[1].heal()
        assert outside.ask("check").startswith("check")
        assert outside.ask("release").startswith("release")
        assert token(waiting.hear()) > now
    finally:
        for each in (inside, outside, waiting):
            each.close()


CONTENDER = """
import sys
import threading
import time
from unios.client.synchronisation.lock import Lock
from unios.errors import LeaseLost
lock, ended = Lock("fought for"), threading.Event()
threading.Thread(target=lambda: sys.stdin.read() or ended.set(), daemon=True).start()
while not ended.is_set():
    lock.acquire()
    token, begun = lock.token, time.monotonic()
    try:
        time.sleep(0.002)
        until = time.monotonic()
        lock.check()
        print(*token, begun, until, flush=True)
        lock.release()
    except LeaseLost:
        pass
"""


class Hold(NamedTuple):
    """That the lock was held under a token, from when until when at least (time.monotonic, which all machines have together)."""

    token: tuple[int, int]
    begun_s: float
    until_s: float


class Contender:
    """A program in a machine that acquires the lock again and again."""

    def __init__(self, machine: Machine) -> None:
        self.running = subprocess.Popen(
            machine.command(sys.executable, "-u", "-c", CONTENDER), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.held: list[Hold] = []
        self._reading = threading.Thread(target=self._read)
        self._reading.start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            if len(words := line.split()) == 4:  # the last of one that dies may be cut off
                self.held.append(Hold((int(words[0]), int(words[1])), float(words[2]), float(words[3])))

    def count(self, after_epoch: int = 0) -> int:
        return sum(hold.token[0] > after_epoch for hold in self.held)

    def end(self) -> str:
        """Return what it said was wrong."""
        assert self.running.stdin is not None and self.running.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            self.running.stdin.close()
        said = self.running.stderr.read()
        self.running.wait(timeout=20)
        self._reading.join()
        return said


def test_the_machine_of_the_manager_dies_and_those_of_the_other_two_go_on_one_at_a_time(three: Lab) -> None:
    first, second, third = three.machines
    contenders = [Contender(second)]  # the manager is where the lock was used first
    try:
        wait_for(contenders[0].count, bool, "the first holds the lock")
        contenders += [Contender(first), Contender(third)]
        wait_for(lambda: min(one.count() for one in contenders), lambda count: count >= 50, "all three get it in turn")
        epoch = contenders[0].held[0].token[0]
        second.die()
        wait_for(lambda: min(one.count(epoch) for one in contenders[1:]), lambda count: count >= 50, "the other two go on under the next manager")
    finally:
        said = [one.end() for one in contenders]
    assert said[1:] == ["", ""]
    for one in contenders:
        assert [hold.token for hold in one.held] == sorted({hold.token for hold in one.held})
    holds = sorted(hold for one in contenders for hold in one.held)
    assert len({hold.token for hold in holds}) == len(holds)
    overlapping = [(one, other) for one, other in itertools.pairwise(holds) if other.begun_s < one.until_s]
    assert overlapping == []
