"""What is said of known vulnerabilities: one that is known fails, and a database that could not be asked is no clean bill of health."""

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SPEC = importlib.util.spec_from_file_location("audit", ROOT / "scripts" / "audit.py")
assert SPEC is not None and SPEC.loader is not None
audit = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(audit)

CLEAN: dict[str, Any] = {"name": "a", "version": "1", "vulns": []}
KNOWN: dict[str, Any] = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
MISSED: dict[str, Any] = {"name": "c", "skip_reason": "Dependency not found"}


@pytest.mark.parametrize(
    ("packages", "code", "said"),
    [
        ([CLEAN, KNOWN, MISSED], 1, "b 2: CVE-1, mended in 2.1"),
        ([CLEAN], 0, "1 packages, no known vulnerability"),
        ([CLEAN, MISSED], 0, "not known to the database: c"),
        ([MISSED, MISSED], 0, "not run"),
        ([], 0, "not run"),
    ],
)
def test_what_is_known_fails_and_what_was_not_looked_at_is_said(packages: list[dict[str, Any]], code: int, said: str) -> None:
    found, text = audit.verdict({"dependencies": packages})
    assert found == code and said in text


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.lock")), ids=lambda path: path.name)
def test_every_package_is_pinned_to_one_version(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-r "))]
    assert lines
    assert [line for line in lines if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)] == []
