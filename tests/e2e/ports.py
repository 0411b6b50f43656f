"""Programs with ports, started and killed by tests."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.system import System
from unios.client.messages.port import Port

ROOT = str(Path(__file__).parents[2])


def start(system: System, name: str, node: str, mode: str = "600", *, user: int | None = None) -> "subprocess.Popen[bytes]":
    """Start a program that listens, and wait until it does."""
    env = {**system.env, "PYTHONPATH": f"{ROOT}/src:{ROOT}"}
    command = [sys.executable, "-m", "tests.e2e.portholder", name, node, mode]
    holder = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, user=user, cwd="/")
    assert holder.stdout is not None
    assert holder.stdout.readline() == b"listening\n"
    return holder


def stop(holder: "subprocess.Popen[bytes]") -> None:
    holder.kill()
    holder.communicate()


@contextlib.contextmanager
def held(system: System, name: str, node: str, mode: str = "600") -> Iterator["subprocess.Popen[bytes]"]:
    holder = start(system, name, node, mode)
    try:
        yield holder
    finally:
        stop(holder)


def port(system: System, name: str, node: str = "n1", timeout: float | None = 20) -> Port:
    return Port(name, home=system.env["UNIOS_HOME"], node=node, timeout=timeout)


def kill_kernel(system: System, node: str) -> None:
    """kill -9 the kernel of a node; its supervisor starts another."""
    found = json.loads((Path(system.env["UNIOS_HOME"]) / "nodes" / node / "run" / "kernel.json").read_bytes())
    os.kill(int(found["pid"]), signal.SIGKILL)
