"""Checks of the system's etcd: whether this machine has the program, which version, and whether each member is well."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Final

from unios.client import store as client
from unios.counted import counted
from unios.errors import UniosError
from unios.shell.doctor_nodes import Asked
from unios.shell.finding import Finding
from unios.shell.session import Session
from unios.wire.keeping import StoreView

PATHS: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin")
"""Where the kernel looks too (kernel/quorum_member.py)."""
SQLITE: Final = "sqlite"
FITTING: Final = (3, 5)
OLDEST: Final = (3, 4)


def of_store(session: Session, answers: dict[str, Asked]) -> Iterator[Finding]:
    """Yield findings about etcd: of the program always, of members where the system has some."""
    view = None
    if any(asked.view is not None for name, asked in answers.items() if session.node in ("", name)):
        try:
            view = client.status(session.connection)
        except UniosError as error:
            yield Finding("store", f"it does not say how it is: {error}", "nothing can be started while it is away", "see `unios status`")
    yield program(view)
    if view is not None and view.engine != SQLITE:
        yield members(view)


def program(view: StoreView | None) -> Finding:
    """Say which etcd this machine has; one that lacks it lacks something only in a system that runs its own."""
    path = shutil.which("etcd") or shutil.which("etcd", path=os.pathsep.join(PATHS)) or ""
    managed = view is not None and view.managed
    if not path:
        if not managed:
            return Finding("etcd", "not found; only `unios up --store etcd` takes it")
        return Finding("etcd", "not found", "this machine can have no copy of the store", "install etcd-server", as_root=True)
    version = of(path)
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    found = f"{version or 'of an unknown version'} ({path})"
    if managed and numbers < OLDEST:
        return Finding("etcd", found, "unios takes 3.4 and 3.5", "install etcd-server of a newer release")
    return Finding("etcd", found if numbers >= FITTING else f"{found}; 3.5 gets corrections still, 3.4 none")


def of(path: str) -> str:
    """Return which version that is, "" if it does not say."""
    try:
        said = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False, cwd="/").stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"etcd Version: ([0-9.]+)", said)
    return found[1] if found else ""


def members(view: StoreView) -> Finding:
    """Say whether each member of the etcd answers and has no alarm."""
    ill = [
        f"{one.node}: {f'alarm {one.alarm}' if one.alarm else one.trouble or 'it does not answer'}"
        for one in view.members
        if one.alarm or not one.answers
    ]
    if not view.members:
        return Finding("members of etcd", view.trouble or "none is known", "nothing can be started while the store is away", "see `unios status`")
    if not ill:
        leader = next((one.node for one in view.members if one.leader), "nobody")
        return Finding("members of etcd", f"{counted(len(view.members), 'member')}, all well; {leader} leads")
    costs = "of three members one may be away; with two away, or without space, nothing can be started and running processes freeze"
    mend = "see `unios status`; one that does not answer is replaced after a minute where another node can have it, after five where none can"
    return Finding("members of etcd", "; ".join(ill), costs, mend if view.managed else "mend it where it is run")
