"""`unios doctor`: what this machine lacks, what that costs, and how to mend it. Looks and tries; with --mend it also does, each after asking.

The checks of the machine need no kernel; doctor_linux.py, doctor_disk.py and doctor_home.py hold them by groups. With --node, or where nodes run here,
each is asked what it found too (doctor_nodes.py).
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unios.shell import doctor_disk, doctor_home, doctor_linux
from unios.shell.doctor_machines import of_machines
from unios.shell.doctor_nodes import ask, of_nodes
from unios.shell.doctor_store import of_store
from unios.shell.finding import Finding
from unios.shell.session import Session
from unios.shell.table import is_terminal, plain
from unios.shell.words import Given, Misused, Option, Word

CHECKS: tuple[Callable[[Path], Finding], ...] = (*doctor_linux.CHECKS, *doctor_disk.CHECKS, *doctor_home.CHECKS)
_MEND_S: Final = 120


def doctor(session: Session, given: Given) -> int:
    mending = given.flag("mend") or given.flag("yes")
    if mending and not given.flag("yes") and (session.json or not is_terminal(0)):
        raise Misused("--mend asks before each mend, which needs a terminal: with --yes it does not ask")
    findings = [_tried(check, session.home.path) for check in CHECKS]
    failed = _mend(session, findings, ask=not given.flag("yes")) if mending else []
    if mending:
        findings = [_tried(check, session.home.path) for check in CHECKS]
    answers = ask(session)
    findings += [*of_nodes(session, answers), *of_machines(session, answers), *of_store(session, answers)]
    if session.json:
        session.print_json([{"ok": finding.ok, **finding._asdict()} for finding in findings])
    else:
        _print(session, findings)
    return 1 if failed or any(finding.essential and not finding.ok for finding in findings) else 0


def _print(session: Session, findings: list[Finding]) -> None:
    for finding in findings:
        session.print(f"{'ok     ' if finding.ok else 'LACKING'}  {finding.check}: {finding.found}")
        if not finding.ok:
            session.print(f"         costs: {finding.costs}")
            if finding.mend:
                session.print(f"         mend:  {finding.mend}")
            if finding.command and finding.command not in finding.mend:
                session.print(f"         type:  {finding.command}")
    mendable = [finding for finding in findings if not finding.ok and finding.command and _may(finding)]
    if mendable:
        session.print(f"`unios doctor --mend` mends {', '.join(finding.check for finding in mendable)}: it asks before each")


def _tried(check: Callable[[Path], Finding], home: Path) -> Finding:
    try:
        return check(home)
    except (OSError, ValueError) as error:
        return Finding(check.__name__, f"cannot be looked at: {error}", "nobody knows", "see whether /proc and /sys are mounted")


def _may(finding: Finding) -> bool:
    import os

    return os.geteuid() == 0 or not finding.as_root


def _mend(session: Session, findings: list[Finding], *, ask: bool) -> list[Finding]:
    """Run the commands that mend, each after asking; return those that failed."""
    failed = []
    for finding in findings:
        if finding.ok or not finding.command:
            continue
        if not _may(finding):
            session.note(f"{finding.check}: this takes root: {finding.command}")
            continue
        if ask and not _agreed(f"{finding.check}: {finding.found}\n  {finding.command}\nrun this? [y/N] "):
            continue
        code = _run(finding.command)
        if code:
            session.note(f"{finding.check} is not mended: `{finding.command}` ended with {code}")
            failed.append(finding)
        else:
            session.note(f"{finding.check}: done: {finding.command}")
    return failed


def _agreed(question: str) -> bool:
    sys.stderr.write("\n".join(map(plain, question.split("\n"))))
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _run(command: str) -> int:
    try:
        return subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=sys.stderr.fileno(), timeout=_MEND_S, check=False).returncode
    except subprocess.TimeoutExpired:
        return 124


WORDS = {
    "doctor": Word(
        doctor,
        Option("mend", "--mend", text="Run the commands that mend what is lacking, each after asking."),
        Option("yes", "--yes", text="Mend without asking."),
        text="Say what this machine lacks, what that costs and how to mend it. Exits 1 if unios cannot work here, or a mend has failed.",
    )
}
