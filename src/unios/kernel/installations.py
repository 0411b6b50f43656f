"""Installations of unios on this machine: what one says of itself, which one a node runs, and what of that is remembered in UNIOS_HOME.

An installation may be older than this file: what it does not say by itself is read off its modules, and which one a node runs that does not say so off its guard,
an interpreter of its own.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from unios.core.upgrading import Facts
from unios.errors import CallerError, Unavailable
from unios.kernel import runfiles
from unios.undecodable import UNDECODABLE
from unios.wire import installation
from unios.wire.home import Home, NodeFolder
from unios.wire.installation import Installation

PROBE_S: Final = 30.0
SAID: Final = "installation"
"""In a node's folder `run`: what its supervisor runs."""
PROBE: Final = """
import json, os, sys
import unios
from unios.kernel import boot, trees_protocol
from unios.store import sqlite
from unios.wire import messages
newest = getattr(trees_protocol, "PROTOCOL", 1)
print(json.dumps({
    "version": unios.__version__,
    "package": os.path.dirname(os.path.abspath(unios.__file__)),
    "python": list(sys.version_info[:2]),
    "links": [messages.PROTOCOL_MIN, messages.PROTOCOL_MAX],
    "trees": [getattr(trees_protocol, "PROTOCOL_MIN", 1), newest],
    "store": [getattr(sqlite, "FORMAT_MIN", sqlite.FORMAT), sqlite.FORMAT],
}))
"""


def probe(one: Installation) -> Facts:
    """Have an installation say what it is. Unavailable: it cannot, and why."""
    try:
        done = subprocess.run(
            [one.python, "-P", "-c", PROBE],
            env=one.environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=PROBE_S,
            check=False,
        )
        if done.returncode == 0:
            return msgspec.json.decode(done.stdout, type=Facts)
        why = (done.stderr.decode(errors="replace").strip().splitlines() or [f"it ended with {done.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired, *UNDECODABLE) as error:
        why = str(error)
    raise Unavailable(f"{_named(one)} cannot be run: {why}")


def marked(one: Installation, facts: Facts) -> Installation:
    """Return an installation with the release that its files are now."""
    return one._replace(release=f"{facts.version}+{installation.mark(facts.package)}")


def at(path: str) -> Installation:
    """Return the installation that a person means by a path: an interpreter, a virtual environment, or a checkout. CallerError if there is none.

    A checkout without an environment of its own is run by this process's interpreter.
    """
    place = Path(path).absolute()
    if place.is_file() and os.access(place, os.X_OK):
        return Installation(str(place), "")
    source = next((folder for folder in (place / "src", place) if (folder / "unios" / "__init__.py").is_file()), None)
    python = next((file for file in (place / ".venv/bin/python", place / "bin/python") if os.access(file, os.X_OK)), None)
    if source is None and python is None:
        raise CallerError(f"{path} is no installation of unios: give an interpreter, a virtual environment, or a checkout")
    return Installation(str(python or sys.executable), str(source) if source else "")


def say(folder: NodeFolder, pid: int) -> None:
    """Have a node's folder say what its supervisor, that process, runs."""
    one = installation.own()
    fields = {"pid": pid, "start": runfiles.start_of(pid), "python": one.python, "path": one.path, "release": one.release}
    runfiles.place(folder.run / SAID, json.dumps(fields))


def of_node(folder: NodeFolder) -> Installation:
    """Return what a node's supervisor runs. Unavailable if that cannot be told."""
    supervisor = runfiles.read(folder.run / "supervisor.json")
    try:
        fields = json.loads((folder.run / SAID).read_text())
        if supervisor is not None and runfiles.Running(int(fields["pid"]), int(fields["start"])) == supervisor:
            return Installation(str(fields["python"]), str(fields["path"]), str(fields["release"]))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # one that is older than this file
    guard = runfiles.read(folder.run / "guard.json")
    if guard is None:
        raise Unavailable(f"{folder.name} has no guard, so what it runs cannot be told: see `unios status`")
    return _of_interpreter(guard.pid)


def _of_interpreter(pid: int) -> Installation:
    try:
        python = os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0", 1)[0])
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError as error:
        raise Unavailable(f"what process {pid} runs cannot be told: {error.strerror}") from error
    if not python:  # Linux shows nothing of one that has just begun, and of one that has ended
        raise Unavailable(f"what process {pid} runs cannot be told: it is just beginning, or ending")
    paths = [os.fsdecode(each.partition(b"=")[2]) for each in variables if each.startswith(b"PYTHONPATH=")]
    return Installation(python, paths[0] if paths else "")


def remember(home: Home, **known: Installation | None) -> None:
    """Write which installations this machine's nodes run, ran, and are about to run. OSError."""
    fields = {name: list(one) for name, one in known.items() if one is not None}
    runfiles.place(home.path / installation.FILE, json.dumps(fields))


def remembered(home: Home) -> dict[str, Installation]:
    """Return what `remember` wrote last."""
    return installation.remembered(home.path)


def _named(one: Installation) -> str:
    return f"unios with {one.python}{f' in {one.path}' if one.path else ''}"
