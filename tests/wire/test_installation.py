"""Where a user cannot start unios again, that is said with the folder that is in the way, and what to do."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from unios.wire.installation import obstacle

ROOT = os.geteuid() == 0 and shutil.which("setpriv") is not None
LOOK = """
import sys
from pathlib import Path
closed, package, folder = sys.argv[1:]
sys.executable = closed or sys.executable
from unios.errors import Unavailable
from unios.kernel import porting
from unios.wire import installation
if package:
    installation.PACKAGE = package
try:
    porting.look(porting.Account("nobody", 65534, 65534, []), folder, (b"/x",))
except Unavailable as error:
    print(error)
"""


def test_who_can_start_it_meets_no_obstacle() -> None:
    assert obstacle() == ""


@pytest.mark.skipif(not ROOT, reason="needs root and setpriv to be another user")
@pytest.mark.parametrize("what", ["interpreter", "package"])
def test_a_closed_folder_above_it_is_named(what: str, tmp_path: Path) -> None:
    """setpriv keeps its rights for the first program that it executes: that runs, and cannot start another."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_mode & 0o711 != 0o711:  # pytest's own are closed to others
            folder.chmod(0o755)
    closed = tmp_path / "closed"
    (closed / "in").mkdir(parents=True)
    (closed / "in" / "python").write_text("#!/bin/sh\n")
    (closed / "in" / "python").chmod(0o755)
    closed.chmod(0o700)
    inside = str(closed / "in" / "python") if what == "interpreter" else "/bin/false", str(closed / "in") if what == "package" else ""
    words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", LOOK, *inside, "/"]
    done = subprocess.run(words, capture_output=True, env={**os.environ, "PYTHONPATH": ":".join(sys.path)}, cwd="/")
    said = done.stdout.decode()
    assert f"user nobody may not enter {closed}" in said and f"chmod o+rx {closed}" in said, done
