"""A Python program on a node of a test's system, told line by line what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.system import System

SOURCE = Path(__file__).parents[2] / "src"
LOOP = """
import gc, json, os, pickle, signal, sys, threading, time, traceback
names = dict(globals())
for line in sys.stdin:
    word, code = json.loads(line)
    try:
        found = eval(code, names) if word == "ask" else exec(code, names)
        said = {"value": found}
    except BaseException as error:
        said = {"error": type(error).__name__, "text": str(error)}
    names.pop("__builtins__", None)
    print(json.dumps(said), flush=True)
"""


class Raised(Exception):
    """What the program raised: (name of the class, text)."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name, self.text = name, text


class Remote:
    """Use with `with`: it ends well at the end, unless it was killed."""

    def __init__(self, system: System, node: str, **env: str) -> None:
        self.home = system.env["UNIOS_HOME"]
        path = os.pathsep.join(part for part in (str(SOURCE), os.environ.get("PYTHONPATH", "")) if part)
        self.program = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-c", LOOP],
            env={**system.env, "UNIOS_NODE": node, "PYTHONPATH": path, **env},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.do("import unios")

    def __enter__(self) -> "Remote":
        return self

    def __exit__(self, *_exc: object) -> None:
        assert self.program.stdin is not None and self.program.stdout is not None
        self.program.stdin.close()
        self.program.wait(20)
        self.program.stdout.close()

    def do(self, code: str) -> None:
        """Have statements done. Raises Raised."""
        self._say("do", code)

    def ask(self, code: str) -> Any:
        """Return the value of an expression. Raises Raised."""
        return self._say("ask", code)

    def begin(self, word: str, code: str) -> None:
        """Have it done without waiting; `result` waits."""
        assert self.program.stdin is not None
        self.program.stdin.write(json.dumps([word, code]) + "\n")
        self.program.stdin.flush()

    def result(self) -> Any:
        assert self.program.stdout is not None
        line = self.program.stdout.readline()
        assert line, f"the program has ended: {self.program.wait(10)}"
        said = json.loads(line)
        if "error" in said:
            raise Raised(said["error"], said["text"])
        return said["value"]

    def _say(self, word: str, code: str) -> Any:
        self.begin(word, code)
        return self.result()

    def give(self, name: str, other: "Remote", theirs: str = "") -> None:
        """Send a value to another program, as a message would carry it."""
        text = self.ask(f"pickle.dumps({name}).hex()")
        other.do(f"{theirs or name} = pickle.loads(bytes.fromhex({text!r}))")

    def statistics(self) -> dict[str, int]:
        """Return what the holder of the program's node counts."""
        self.do("from unios.client.objects.counts import ask as ask_holder")
        found = self.ask("ask_holder('statistics')")
        assert isinstance(found, dict)
        return found

    def kill(self) -> None:
        self.program.kill()
        self.program.wait()
