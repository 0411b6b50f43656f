"""The part of a node that is a member of the system's own etcd: starts etcd with what member.json says, beats while it lives, and ends with it.

The folder `etcd` of the node has all of it: `member.json`, which is there while the node is to have a member; `data`; what it shows to others. etcd is told
to be killed when this process dies, so that there are never two on one folder.

A member that has begun never begins again without its data: what it had acknowledged and voted would be forgotten, and the first of a cluster would begin
a second one. `begun` says that it has.
"""

import contextlib
import functools
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from unios import durable
from unios.core.addresses import join_address
from unios.errors import DataLost, UniosError
from unios.kernel import cluster, interfaces, parts, runfiles
from unios.kernel.clone import die_with_parent
from unios.limits import BEAT_MS
from unios.undecodable import UNDECODABLE
from unios.wire.home import Home, NodeFolder

BEGUN: Final = "begun"
STOP_S: Final = 3.0
LOOK_S: Final = 0.02
PATHS: Final = ("/usr/sbin", "/sbin", "/usr/local/sbin", "/usr/local/bin")
"""Where it may lie besides PATH."""
FLAGS: Final = {
    "logger": "zap",
    "log-outputs": "stderr",
    "log-level": "warn",
    "pre-vote": "true",
    "heartbeat-interval": "70",
    "election-timeout": "350",
    "snapshot-count": "10000",
    "auto-compaction-mode": "periodic",
    "auto-compaction-retention": "30m",
    "max-txn-ops": "1024",
    "max-request-bytes": str(8 * 1024**2),
    "client-cert-auth": "true",
    "peer-client-cert-auth": "true",
}


class MemberFile(msgspec.Struct, frozen=True, omit_defaults=True):
    """etcd/member.json. `peer`, `client`: where others reach it, https://host:port. `initial`: name -> peer URL of the members when it was added."""

    name: str
    peer: str
    client: str
    initial: dict[str, str]
    joins: bool = False
    """Whether the cluster was there before it."""
    listen: str = "127.0.0.1"
    """The address at which it takes connections."""
    member: int = 0
    """etcd's number of it; 0: not known yet. One that is added again is another member, and begins with no data."""
    leaving: bool = False
    """The others are about to let it go."""


def folder_of(folder: NodeFolder) -> Path:
    return folder.path / "etcd"


def read(folder: NodeFolder) -> MemberFile | None:
    """Return what this node's member is, None if it shall have none. Raises DataLost."""
    path = parts.wanted(folder, "member")
    try:
        return msgspec.json.decode(path.read_bytes(), type=MemberFile)
    except FileNotFoundError:
        return None
    except UNDECODABLE as error:
        raise DataLost(f"{path} is damaged ({error}): `unios leave` and join again") from error


def leaves(folder: NodeFolder) -> bool:
    """Return whether the others are letting a node's member go: its etcd ends when one has, and is started again until all have."""
    try:
        member = read(folder)
    except DataLost:
        return False
    return member is not None and member.leaving


def binary() -> str:
    """Return where etcd is, "" if it is not found."""
    return shutil.which("etcd") or shutil.which("etcd", path=os.pathsep.join(PATHS)) or ""


def version(path: str) -> str:
    """Return which etcd that is, "" if it does not say. Blocks for some 50 ms."""
    try:
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=10, check=False, cwd="/")
    except (OSError, subprocess.TimeoutExpired):
        return ""
    found = re.search(r"etcd Version: ([0-9.]+)", done.stdout)
    return found[1] if found else ""


def command(path: str, member: MemberFile, folder: Path, quota_bytes: int = 0) -> list[str]:
    """Return how it is started; `quota_bytes` 0: etcd's own quota."""
    peer_port, client_port = urlsplit(member.peer).port, urlsplit(member.client).port
    shown = {f"{prefix}{name}-file": str(folder / f"etcd-{name}.pem") for prefix in ("", "peer-") for name in ("cert", "key")}
    flags = {
        **FLAGS,
        **shown,
        "trusted-ca-file": str(folder / "etcd-ca.pem"),
        "peer-trusted-ca-file": str(folder / "etcd-ca.pem"),
        "quota-backend-bytes": str(quota_bytes),
        "name": member.name,
        "data-dir": str(folder / "data"),
        "listen-peer-urls": f"https://{join_address(member.listen, peer_port or 0)}",
        "listen-client-urls": f"https://{join_address(member.listen, client_port or 0)}",
        "initial-advertise-peer-urls": member.peer,
        "advertise-client-urls": member.client,
        "initial-cluster": ",".join(f"{name}={url}" for name, url in member.initial.items()),
        "initial-cluster-state": "existing" if member.joins else "new",
    }
    return [path, *(f"--{name}={value}" for name, value in flags.items())]


def has_data(folder: Path) -> bool:
    """Whether etcd has begun a log in this node's folder for it."""
    return any((folder / "data" / "member" / "wal").glob("*.wal"))


def check_data(folder: Path, name: str) -> None:
    """Raise DataLost if the member had begun and its data are gone."""
    if (folder / BEGUN).exists() and not has_data(folder):
        raise DataLost(
            f"the copy of the store in {folder / 'data'} is gone: {name}'s member of etcd does not begin without it, since it would forget what it has "
            f"acknowledged. If others have the store: `unios leave --node {name}` and join again; if this was the only copy, put the folder back"
        )


def _mark_begun(folder: Path) -> None:
    with contextlib.suppress(OSError):  # on a full disk etcd says so itself; the next beat tries again
        durable.place(folder / BEGUN, b"")


def show(folder: NodeFolder, member: MemberFile, found: cluster.Cluster) -> None:
    """Issue what the member shows to others from now on, and lay down whom it trusts, which etcd reads at its start only. Blocks. Raises InternalError."""
    hosts = dict.fromkeys(("127.0.0.1", _host(member.peer), _host(member.client), *(local.address for local in interfaces.local_addresses())))
    cluster.issue(found, member.name, [host for host in hosts if host], folder_of(folder))


def shows(folder: NodeFolder, found: cluster.Cluster) -> bool:
    """Whether that was done with these keys."""
    return cluster.lies_in(folder_of(folder), found)


def trusts(folder: NodeFolder, found: cluster.Cluster) -> bool:
    """Whether all whose certificates count with these keys do so with the member already."""
    return cluster.counts_in(folder_of(folder), found)


def main(folder: NodeFolder, beat: Callable[[], None]) -> int:
    """Be the member of one node until SIGTERM, or until it is to have none; 0 then. With SIGHUP etcd is started anew, as the files say by then. The first beat
    comes with etcd: what is before that takes a while."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, _frame: asked.append(number))
    code, first = 0, True
    while (member := read(folder)) is not None and (found := cluster.read(Home(parts.home_of(folder)))) is not None and found.managed:
        path = binary()
        if not path:
            raise UniosError(f"etcd is not found any more: {folder.name} has a member of the store there; install etcd-server again")
        mine = folder_of(folder)
        check_data(mine, folder.name)
        _beating(functools.partial(show, folder, member, found), (lambda: None) if first else beat)
        (mine / "data").mkdir(mode=0o700, exist_ok=True)
        first = False
        code = _run(folder, command(path, member, mine, found.quota_bytes), asked, beat)
        heard = asked.copy()
        if signal.SIGTERM in heard or signal.SIGINT in heard:
            return 0
        if not heard:  # etcd ended by itself
            break
        del asked[: len(heard)]  # what comes meanwhile is heard the next time
    return 0 if read(folder) is None else code  # of one that is leaving the others may still need the vote: it is started again, ever more slowly


def start_anew(folder: NodeFolder) -> None:
    """Have etcd started anew with what the files say now, if it runs."""
    running = runfiles.read(folder.run / "member.json")
    if running is not None:
        runfiles.kill(running, signal.SIGHUP)


def _run(folder: NodeFolder, words: list[str], asked: list[int], beat: Callable[[], None]) -> int:
    """Run etcd until it ends or something is asked; return its exit code, 1 if it has none that says that something is wrong."""
    mine = folder_of(folder)
    begun = (mine / BEGUN).exists()
    child = subprocess.Popen(words, stdin=subprocess.DEVNULL, cwd="/", env=_environment(), preexec_fn=die_with_parent)
    while child.poll() is None and not asked:
        beat()
        if not begun and has_data(mine):
            _mark_begun(mine)
            begun = (mine / BEGUN).exists()
        parts.turn_log(folder, "member")
        time.sleep(BEAT_MS / 1000)
    if child.poll() is None:
        child.terminate()
        until = time.monotonic() + STOP_S
        while child.poll() is None and time.monotonic() < until:
            beat()  # it hands over what it leads, which takes longer than a part may be silent
            time.sleep(LOOK_S)
        child.kill()
        child.wait()
    return child.returncode if child.returncode > 0 else 1


def _beating(work: Callable[[], None], beat: Callable[[], None]) -> None:
    """Do what takes a while, and beat meanwhile."""
    with ThreadPoolExecutor(1) as pool:
        doing = pool.submit(work)
        while not doing.done():
            beat()
            wait([doing], LOOK_S)
        doing.result()


def _environment() -> dict[str, str]:
    """What etcd reads from its environment is ours to say alone."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ETCD")}


def _host(url: str) -> str:
    return urlsplit(url).hostname or ""
