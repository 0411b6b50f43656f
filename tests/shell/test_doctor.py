import json
from pathlib import Path

import pytest

from unios.shell import doctor, main
from unios.shell.doctor import Finding


def test_doctor_needs_no_node_and_says_it_in_json(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    code = main.execute(["doctor", "--json", "--home", str(tmp_path)])
    findings = json.loads(capfd.readouterr().out)
    assert {"python", "freezer", "fsync", "disk"} <= {finding["check"] for finding in findings}
    assert code == (1 if any(finding["essential"] and not finding["ok"] for finding in findings) else 0)


def test_what_lacks_says_what_it_costs_and_how_to_mend_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "_FSYNC_MS_MAX", -1.0)
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
