import io
import json
import subprocess
from pathlib import Path

import pytest

from unios.shell import doctor, doctor_disk, doctor_home, doctor_linux, main
from unios.shell.finding import Finding


def test_doctor_needs_no_node_and_says_it_in_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main.execute(["doctor", "--json", "--home", str(tmp_path)])
    findings = json.loads(capfd.readouterr().out)
    assert {"python", "freezer", "fsync", "disk"} <= {finding["check"] for finding in findings}
    assert code == (1 if any(finding["essential"] and not finding["ok"] for finding in findings) else 0)


def test_what_lacks_says_what_it_costs_and_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor_disk, "_FSYNC_MS_MAX", -1.0)
    main.execute(["doctor", "--home", str(tmp_path)])
    said = capfd.readouterr().out
    assert "LACKING  fsync" in said and "costs: every start" in said and "mend:  set UNIOS_HOME" in said


def test_only_what_is_essential_fails_the_doctor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for essential, code in ((True, 1), (False, 0)):
        lacking = Finding("x", "y", "costs", "mend", essential)
        monkeypatch.setattr(doctor, "CHECKS", (lambda _home, finding=lacking: finding,))
        assert main.execute(["doctor", "--home", str(tmp_path)]) == code


def test_a_check_that_cannot_be_made_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_home: Path) -> Finding:
        raise PermissionError("no")

    monkeypatch.setattr(doctor, "CHECKS", (broken,))
    assert main.execute(["doctor", "--home", str(tmp_path)]) == 0


def test_a_node_named_that_does_not_answer_fails_the_doctor(tmp_path: Path) -> None:
    assert main.execute(["doctor", "--home", str(tmp_path), "--node", "n9"]) == 1


def lacking(home: Path) -> Finding:
    done = home / "done"
    return Finding("done", "yes") if done.exists() else Finding("done", "no", "much", "make it", command=f"touch '{done}'")


def test_mending_runs_the_command_and_looks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lacking,))
    assert main.execute(["doctor", "--home", str(tmp_path)]) == 0
    assert "`unios doctor --mend` mends done" in capfd.readouterr().out
    assert main.execute(["doctor", "--yes", "--home", str(tmp_path)]) == 0
    said = capfd.readouterr()
    assert "ok       done: yes" in said.out and "done: touch" in said.err


def test_a_mend_that_fails_is_said_and_shows_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lambda _home: Finding("x", "y", "z", command="exit 3"),))
    assert main.execute(["doctor", "--yes", "--home", str(tmp_path)]) == 1
    assert "`exit 3` ended with 3" in capfd.readouterr().err


def test_mending_asks_first_and_needs_a_terminal_for_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "CHECKS", (lacking,))
    assert main.execute(["doctor", "--mend", "--home", str(tmp_path)]) == 2
    monkeypatch.setattr(doctor, "is_terminal", lambda _descriptor: True)
    for answer, made in (("n", False), ("", False), ("y", True)):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer + "\n"))
        assert main.execute(["doctor", "--mend", "--home", str(tmp_path)]) == 0
        assert (tmp_path / "done").exists() == made
    assert "run this? [y/N]" in capfd.readouterr().err


def test_a_home_that_is_open_to_others_is_closed(tmp_path: Path) -> None:
    key = tmp_path / "nodes/n1/node.key"
    key.parent.mkdir(parents=True)
    key.write_text("secret")
    key.chmod(0o644)
    tmp_path.chmod(0o777)
    finding = doctor_home.rights(tmp_path)
    assert not finding.ok and subprocess.run(["sh", "-c", finding.command], check=False).returncode == 0
    assert doctor_home.rights(tmp_path).ok and key.stat().st_mode & 0o777 == 0o600


def test_a_system_without_a_node_is_a_leftover(tmp_path: Path) -> None:
    assert doctor_home.used(tmp_path).ok
    (tmp_path / "system.json").write_text("{}")
    assert "no node of it" in doctor_home.used(tmp_path).found and not doctor_home.used(tmp_path).command


def test_only_what_forbids_namespaces_is_turned(tmp_path: Path) -> None:
    for name, value in (("kernel/unprivileged_userns_clone", "1"), ("user/max_user_namespaces", "0")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(value + "\n")
    assert doctor_linux._allow_namespaces(tmp_path) == "sysctl -w user.max_user_namespaces=10000"
    assert doctor_linux._allow_namespaces(tmp_path / "none") == ""


def test_a_package_that_is_missing_is_named_with_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_linux, "_PACKAGES", ("click", "no_such_package_of_unios"))
    finding = doctor_linux.python(tmp_path)
    assert finding.essential and finding.command.endswith("-m pip install no_such_package_of_unios")
    monkeypatch.setattr(doctor_linux, "_PYTHON_MIN", (99, 0))
    assert "Python 99.0 or newer" in doctor_linux.python(tmp_path).mend
