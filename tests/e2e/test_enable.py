"""`unios enable`: the unit that it writes is one that systemd takes, and starts and stops what it says."""

import json
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import UNIOS, System


def enable(home: Path, *words: str, expect: int = 0) -> subprocess.CompletedProcess[bytes]:
    done = subprocess.run([UNIOS, *words], env={**os.environ, "UNIOS_HOME": str(home)}, capture_output=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == expect, (done.stdout + done.stderr).decode()
    return done


def test_the_unit_is_one_that_systemd_takes(tmp_path: Path) -> None:
    home = tmp_path / 'a home of 100% "quotes" and $dollars'
    enable(home, "enable", "--root", str(tmp_path))
    units = list(tmp_path.rglob("unios-*.service"))
    assert len(units) == 1
    assert "KillMode=" in units[0].read_text() and "Delegate=yes" in units[0].read_text()
    if shutil.which("systemd-analyze") is not None:
        checked = subprocess.run(["systemd-analyze", "verify", "--man=no", str(units[0])], capture_output=True, timeout=60)
        assert checked.returncode == 0 and units[0].name.encode() not in checked.stderr, checked.stderr.decode()
    enable(home, "disable", "--root", str(tmp_path))
    assert not list(tmp_path.rglob("*.service"))
    assert b"was not enabled" in enable(home, "disable", "--root", str(tmp_path)).stdout


def test_what_the_unit_runs_starts_and_stops_the_nodes() -> None:
    system = System()
    try:
        system.unios("up", "--nodes", "2")
        system.unios("down", "--all")
        text = json.loads(system.unios("enable", "--print", "--json").stdout)["unit"]
        lines = dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
        bare = {"PATH": "/usr/bin:/bin"}
        for which, nodes in (("ExecStart", 2), ("ExecReload", 2), ("ExecStop", 0)):
            subprocess.run(shlex.split(lines[which].replace("%%", "%")), env=bare, check=True, timeout=60, capture_output=True, cwd="/")
            assert len(system.leftovers()) >= nodes if nodes else True
        assert system.unios("ps", check=False).returncode == 75
    finally:
        system.close()


def test_without_systemd_it_says_how_else(tmp_path: Path) -> None:
    if Path("/run/systemd/system").is_dir():
        pytest.skip("this machine runs systemd, and its units are not a test's to change")
    (tmp_path / "system.json").write_text("{}")
    said = enable(tmp_path, "enable", expect=75).stderr.decode()
    assert "@reboot UNIOS_HOME=" in said and "crontab -e" in said
    assert "is no folder" in enable(tmp_path, "enable", "--root", "/nowhere", expect=2).stderr.decode()
