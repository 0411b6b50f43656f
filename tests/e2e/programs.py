"""Python programs on the nodes of a system that synchronise: what the tests of locks start, tell and hear."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

from tests.e2e.system import System
from unios.client.connection import Connection

NODES = ("n1", "n2", "n3")


def via(system: System, node: str = "n1") -> Connection:
    return Connection(system.home / "home", node)


def manager(system: System) -> tuple[str, int]:
    """Return the node whose service keeps the locks, and that service's Linux pid."""
    for node in NODES:
        try:
            return node, int(json.loads((system.home / "home" / "nodes" / node / "run" / "locks.json").read_text())["pid"])
        except (OSError, ValueError):
            continue
    return "", 0


def program(system: System, node: str, code: str, *arguments: str) -> "subprocess.Popen[str]":
    """Start a Python program that talks to the system through a node; it reads lines and says some."""
    head = "import os, sys, time\nfrom unios.client.synchronisation.lock import Lock\nfrom unios.client.synchronisation.exchange import Queue\n"
    env = {**system.env, "UNIOS_NODE": node}
    words = [sys.executable, "-u", "-c", head + code, *arguments]
    return subprocess.Popen(words, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


HOLD = """
lock = Lock(sys.argv[1])
lock.acquire()
print(*lock.token)
for line in sys.stdin:
    try:
        lock.check() if line.strip() == "check" else lock.release()
        print("ok")
    except Exception as error:
        print(type(error).__name__)
"""


def said(running: "subprocess.Popen[str]") -> str:
    assert running.stdout is not None
    return running.stdout.readline().strip()


def tell(running: "subprocess.Popen[str]", text: str) -> str:
    assert running.stdin is not None
    running.stdin.write(text + "\n")
    running.stdin.flush()
    return said(running)


def token_of(line: str) -> tuple[int, ...]:
    return tuple(map(int, line.split()))


def ended(running: "subprocess.Popen[str]") -> None:
    running.kill()
    running.communicate()


class Beside(threading.Thread):
    """Something done beside the test; `result` waits for it."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self.start()

    def run(self) -> None:
        try:
            self.value: Any = self._work()
        except BaseException as error:  # noqa: BLE001 told to who asks
            self.value = error

    def result(self, timeout: float = 30) -> Any:
        self.join(timeout)
        assert not self.is_alive(), "it still waits"
        return self.value
