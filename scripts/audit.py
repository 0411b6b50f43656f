"""`python scripts/audit.py FOLDER`: look for known vulnerabilities in what requirements.lock names, with pip-audit, which is put into FOLDER if it is not there.

Ends with 1 if one is known. Where pip-audit or its database cannot be reached it says that nothing was looked at, and ends with 0: pip-audit itself says "no known
vulnerabilities" then.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE_S: Final = 120


def verdict(found: dict[str, Any]) -> tuple[int, str]:
    """Return the exit code and what to say of pip-audit's report."""
    looked = [one for one in found["dependencies"] if "vulns" in one]
    known = [
        f"{one['name']} {one['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'no version'}"
        for one in looked
        for vuln in one["vulns"]
    ]
    missed = [one["name"] for one in found["dependencies"] if "vulns" not in one]
    if known:
        return 1, "\n".join(known)
    if not looked:
        return 0, "not run: the database of vulnerabilities cannot be reached from here"
    rest = f"; not known to the database: {', '.join(missed)}" if missed else ""
    return 0, f"{len(looked)} packages, no known vulnerability{rest}"


def report(folder: str) -> tuple[int, str]:
    """Run pip-audit; return the exit code and what to say."""
    pip = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--no-compile", "--target", folder]
    audit = [
        sys.executable,
        "-m",
        "pip_audit",
        "-r",
        str(ROOT / "requirements.lock"),
        "--no-deps",
        "--disable-pip",
        "--progress-spinner",
        "off",
        "-f",
        "json",
    ]
    try:
        if not (Path(folder) / "pip_audit").is_dir():
            subprocess.run([*pip, "-r", str(ROOT / "requirements-audit.lock")], capture_output=True, check=True, timeout=PATIENCE_S)
    except (OSError, subprocess.SubprocessError):
        return 0, "not run: pip-audit cannot be had here"
    try:
        done = subprocess.run(
            [*audit, "--timeout", "10"], env={**os.environ, "PYTHONPATH": folder}, capture_output=True, timeout=PATIENCE_S, check=False
        )
        return verdict(json.loads(done.stdout))
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return 0, "not run: the database of vulnerabilities cannot be reached from here"


if __name__ == "__main__":
    code, text = report(sys.argv[1])
    print(text)
    sys.exit(code)
