"""A node of an ordinary user in a system of root: it works for its user, and gains nothing for anybody else."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.e2e.system import System, wait_for

REPOSITORY = Path(__file__).parents[2]
AS_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
SITE = next(path for path in sys.path if path.endswith("site-packages"))
NODE = "nobodys"


def interpreter() -> str:
    """Return a Python that user nobody can run with this one's packages; "" if there is none."""
    names = (sys.executable, os.path.realpath(sys.executable), f"/usr/bin/python3.{sys.version_info[1]}")
    # Through a shell: setpriv itself keeps its rights until it executes something.
    return next((name for name in names if run(["sh", "-c", '"$0" -c "import unios.shell.main, cryptography, msgspec"', name]).returncode == 0), "")


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": f"{REPOSITORY / 'src'}:{SITE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "UNIOS_HOME": str(home / "home"),
        "LANG": "C.UTF-8",
    }


def run(words: list[str], *, env: dict[str, str] | None = None, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
    """Run something as user nobody."""
    return subprocess.run(
        [*AS_NOBODY, *words], env=env or environment(Path("/tmp")), cwd="/", capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout
    )


def missing() -> str:
    if os.geteuid() != 0:
        return "needs root"
    if shutil.which("setpriv") is None:
        return "needs setpriv"
    return (
        "" if interpreter() else f"user nobody cannot run {sys.executable} (a folder above it is closed to others) nor another Python of its version"
    )


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


class Nobody(NamedTuple):
    """The UNIOS_HOME of user nobody."""

    folder: Path
    python: str

    def unios(self, *words: str, check: bool = True, timeout: float = 60) -> subprocess.CompletedProcess[bytes]:
        done = run([self.python, "-m", "unios", *words], env=environment(self.folder), timeout=timeout)
        assert b"Traceback" not in done.stderr + done.stdout, done.stderr.decode()
        if check:
            assert done.returncode == 0, f"{words}: {done.returncode}\n{done.stdout.decode()}\n{done.stderr.decode()}"
        return done

    def nodes(self) -> dict[str, dict[str, Any]]:
        return {node["name"]: node for node in json.loads(self.unios("nodes", "--json").stdout)}


class Pair(NamedTuple):
    root: System
    nobody: Nobody


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    """A system of root with one node, and a node of user nobody in it."""
    root = System()
    root.home.chmod(0o711)
    folder = root.home / "nobody"
    folder.mkdir()
    folder.chmod(0o777)
    nobody = Nobody(folder, interpreter())
    try:
        root.unios("up", "--name", "roots")
        token = json.loads(root.unios("join", "--json").stdout)["token"]
        nobody.unios("join", "--name", NODE, token)
        yield Pair(root, nobody)
    finally:
        nobody.unios("down", "--all", check=False)
        root.close()


def test_both_sides_see_both_nodes_ready(pair: Pair) -> None:
    for nodes in (pair.root.nodes, pair.nobody.nodes):
        seen = wait_for(nodes, lambda seen: {n["state"] for n in seen.values()} == {"ready"} and len(seen) == 2, "both are ready")
        assert seen[NODE]["users"] == ["nobody"]
        assert seen[NODE]["machine"] != seen["roots"]["machine"]


@pytest.mark.parametrize("where", [(), ("--on", NODE), ("--on", "roots")])
def test_its_user_runs_programs_through_it_as_himself(pair: Pair, where: tuple[str, ...]) -> None:
    done = pair.nobody.unios("run", *where, "--", "sh", "-c", "id -u; exit 3", check=False)
    assert (done.stdout, done.returncode) == (b"65534\n", 3), done.stderr


def test_root_runs_his_programs_on_it(pair: Pair) -> None:
    done = pair.root.unios("run", "--on", NODE, "--user", "nobody", "--", "id", "-u")
    assert done.stdout == b"65534\n"


def test_its_user_controls_his_processes_wherever_they_run(pair: Pair) -> None:
    for where in (NODE, "roots"):
        pid = int(json.loads(pair.nobody.unios("run", "-d", "--json", "--on", where, "--", "sleep", "1000").stdout)["pid"])
        record = pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs")
        assert (record["node"], record["user"]) == (where, "nobody")
        pair.nobody.unios("kill", str(pid))
        assert pair.nobody.unios("wait", str(pid), check=False).returncode == 143


def test_roots_processes_are_never_placed_there(pair: Pair) -> None:
    pids = [pair.root.run_detached("sleep", "1000", options=("--cpus", "0")) for _ in range(6)]
    try:
        for pid in pids:
            assert pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs")["node"] == "roots"
    finally:
        for pid in pids:
            pair.root.unios("kill", str(pid))
    done = pair.root.unios("run", "-d", "--json", "--on", NODE, "--", "true")
    pinned = json.loads(done.stdout)["pid"]
    assert pair.root.process(pinned)["state"] == "pending" and pair.root.process(pinned)["node"] == ""
    pair.root.unios("kill", str(pinned))


@pytest.mark.parametrize("user", ["root", "daemon", "#0", "#-1"])
def test_its_user_runs_nothing_as_another(pair: Pair, user: str) -> None:
    before = {p["pid"] for p in pair.root.json("ps", "-a")}
    for where in ((), ("--on", "roots"), ("--node", "roots")):
        done = pair.nobody.unios("run", *where, "--user", user, "--", "id", "-u", check=False)
        assert done.returncode == 125 and done.stdout == b"" and done.stderr.startswith(b"unios: "), done
    assert {p["pid"] for p in pair.root.json("ps", "-a")} == before


def test_its_user_does_not_touch_roots_processes(pair: Pair) -> None:
    pid = pair.root.run_detached("sleep", "1000")
    pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs")
    for words in (("kill", str(pid)), ("freeze", str(pid)), ("logs", str(pid)), ("join",), ("down", "--node", "roots")):
        assert pair.nobody.unios(*words, check=False).returncode != 0, words
    assert pair.root.process(pid)["state"] == "running"
    pair.root.unios("kill", str(pid))


def test_its_processes_are_recovered_when_it_is_killed_and_it_comes_back(pair: Pair) -> None:
    pid = int(json.loads(pair.nobody.unios("run", "-d", "--json", "--on", NODE, "--restart", "never", "--", "sleep", "1000").stdout)["pid"])
    pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs")
    free = int(json.loads(pair.nobody.unios("run", "-d", "--json", "--", "sleep", "1000").stdout)["pid"])
    pair.root.wait_process(free, lambda p: p["state"] == "running", "runs")
    before = pair.root.nodes()[NODE]["incarnation"]
    for linux_pid in pair.nobody.nodes()[NODE]["pids"]:
        try:
            os.kill(linux_pid, 9)
        except ProcessLookupError:
            pass
    pair.root.wait_process(pid, lambda p: p["state"] == "lost", "is lost")
    pair.root.wait_process(free, lambda p: p["state"] == "running" and p["node"] == "roots", "runs on root's node")
    pair.nobody.unios("up")
    assert pair.root.nodes()[NODE]["incarnation"] == before + 1
    pair.nobody.unios("kill", str(free))


def test_it_goes_on_when_roots_kernel_and_with_it_the_gate_is_replaced(pair: Pair) -> None:
    pid = int(json.loads(pair.nobody.unios("run", "-d", "--json", "--on", NODE, "--", "sleep", "1000").stdout)["pid"])
    pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs")
    kernel = pair.root.nodes()["roots"]["kernel_pid"]
    os.kill(kernel, 9)
    wait_for(lambda: pair.root.nodes()["roots"], lambda n: n["kernel_pid"] not in (0, kernel) and n["state"] == "ready", "root's kernel is back")
    wait_for(lambda: pair.nobody.nodes()[NODE]["state"], lambda state: state == "ready", "nobody's node is ready")
    done = pair.nobody.unios("run", "--on", NODE, "--", "id", "-u")
    assert done.stdout == b"65534\n"
    pair.root.wait_process(pid, lambda p: p["state"] == "running", "runs on, or again")
    pair.nobody.unios("kill", str(pid))


_INTRUDER = """
import asyncio, json, sys
from pathlib import Path
import msgspec
from unios.core.nodes import Alive, NodeRecord
from unios.core.processes import ProcessRecord, ProcessSpec
from unios.errors import UniosError
from unios.store.client import StoreClient
from unios.store.model import Compare, Delete, Put, Range, Transaction
from unios.wire.operations import Connect, Connected, MakeToken, Spawn
from unios.wire.peer import Peer
from unios.wire.pipes import StreamTransport
from unios.wire.tls import TlsTransport, client_context
from unios.wire.transport import SocketTransport

home, name, host, port, others = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
folder = home / "nodes" / name
packed = msgspec.msgpack.encode
said = {}

async def quiet(call):
    return None

async def attempt(label, work):
    try:
        found = await work
        said[label] = ["done", repr(found)]
    except UniosError as error:
        said[label] = [error.code, str(error)]

async def main():
    _reader, writer = None, None
    import socket
    sock = socket.create_connection((host, port))
    sock.setblocking(False)
    tls = TlsTransport(SocketTransport(sock), client_context(home / "ca/ca.crt", folder / "node.crt", folder / "node.key"), server_side=False)
    await tls.handshake
    link = Peer(tls, quiet, role="kernel")
    await link.start()

    async def relay(user, port="store"):
        stream = link.stream("ports.relay", Connect(port), user=user)
        await stream.next(Connected)
        peer = Peer(StreamTransport(stream))
        await peer.start()
        return peer

    process = lambda user, pid, **more: packed(ProcessRecord(pid=pid, incarnation=9, state="exited", user=user, **more))
    spec = lambda user: packed(ProcessSpec(argv=(b"id",), user=user))
    key = f"/processes/{others:010d}"
    await attempt("as root", relay("root"))
    await attempt("as daemon", relay("daemon"))
    store = StoreClient(lambda: relay("nobody"))
    await attempt("own range", store.range("/nodes/", prefix=True))
    await attempt("overwrite", store.put(key, process("root", others)))
    await attempt("take over", store.put(key, process("nobody", others)))
    await attempt("remove", store.delete(key))
    await attempt("remove all", store.delete("/processes/", prefix=True))
    await attempt("otherwise", store.transact(Transaction((Compare("/none", "version", ">", 0),), (), (Put(key, process("nobody", others)),))))
    new = (Put("/processes/0000030000", process("root", 30000)), Put("/specs/0000030000", spec("root")))
    await attempt("new for root", store.transact(Transaction(then=new)))
    masked = (Put("/processes/0000030000", process("nobody", others)), Put("/specs/0000030000", spec("nobody")))
    await attempt("mask", store.transact(Transaction(then=masked)))
    import time
    waits = lambda **more: packed(ProcessRecord(30000, 1, "pending", "nobody", **more))
    own = Put("/specs/0000030000", spec("nobody"))
    now = time.time_ns() // 1_000_000
    await attempt("past the queue", store.transact(Transaction(then=(Put("/processes/0000030000", waits(created_ms=now, node=name)), own))))
    await attempt("at its front", store.transact(Transaction(then=(Put("/processes/0000030000", waits(created_ms=1)), own))))
    await attempt("other node", store.put("/nodes/roots", packed(NodeRecord("roots", "m", 1))))
    mine = msgspec.msgpack.decode((await store.range(f"/nodes/{name}"))[0].records[0].value, type=NodeRecord)
    await attempt("more users", store.put(f"/nodes/{name}", packed(msgspec.structs.replace(mine, users=("nobody", "root")))))
    await attempt("make token", store.put("/tokens/00", b""))
    await attempt("compare token", store.transact(Transaction((Compare("/tokens/00", "version", "==", 0),))))
    await attempt("compare spec", store.transact(Transaction((Compare(f"/specs/{others:010d}", "value", "<", b"z"),))))
    await attempt("other life", store.delete("/alive/roots"))
    roots = (await store.range("/alive/roots"))[0].records[0].lease
    await attempt("end lease", store.lease_revoke(roots))
    await attempt("renew lease", store.lease_renew(roots))
    await attempt("lean on lease", store.put(f"/alive/{name}", packed(Alive(1)), lease=roots))
    await attempt("compact", store.compact((await store.range("/"))[1]))
    await attempt("token", link.call("node.token", MakeToken(0, True), user="nobody"))
    await attempt("spawn", link.call("processes.spawn", Spawn(others, 1), user="nobody"))
    for prefix in ("/tokens/", "/specs/", "/requests/"):
        said[prefix] = ["read", [record.key for record in (await store.range(prefix, prefix=True))[0].records]]
    said["secret"] = ["read", [record.key for record in (await store.range(f"/specs/{others:010d}"))[0].records]]
    print(json.dumps(said))

asyncio.run(asyncio.wait_for(main(), 30))
"""


def test_a_kernel_of_its_own_making_gets_no_further(pair: Pair, tmp_path: Path) -> None:
    """Nobody takes his node's key and talks to root's kernel himself."""
    roots = pair.root.run_detached("sleep", "1000", options=("--env", "SECRET=1"))
    pair.root.wait_process(roots, lambda p: p["state"] == "running", "runs")
    unspent = json.loads(pair.root.unios("join", "--json").stdout)
    host, _, port = unspent["addresses"][0].rpartition(":")
    pair.nobody.unios("down", "--all")
    before = {p["pid"]: p for p in pair.root.json("ps", "-a")}
    script = pair.nobody.folder / "intruder.py"
    script.write_text(_INTRUDER)
    script.chmod(0o644)
    env = environment(pair.nobody.folder)
    done = run([pair.nobody.python, str(script), env["UNIOS_HOME"], NODE, host, port, str(roots)], env=env)
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said.pop("own range")[0] == "done"
    assert said.pop("renew lease")[0] == "not-found"
    assert said.pop("/tokens/")[1] == [] and said.pop("secret")[1] == []
    own = {pid for pid, record in before.items() if record["user"] == "nobody"}
    assert {int(key.rpartition("/")[2]) for key in said.pop("/specs/")[1]} == own
    assert len(said.pop("/requests/")[1]) == len(own)
    assert {label: code for label, (code, _text) in said.items() if code != "denied"} == {}
    assert {p["pid"]: p for p in pair.root.json("ps", "-a")}[roots] == before[roots]
    assert pair.root.nodes()["roots"]["state"] == "ready"
    pair.nobody.unios("up")
    assert pair.root.nodes()[NODE]["state"] == "ready"
    pair.root.unios("kill", str(roots))


def test_nobody_joins_as_a_node_of_roots_machine(pair: Pair) -> None:
    """Kernels ask the nodes of the store's machine for the store: to be one of them is no matter of calling oneself so."""
    home = pair.root.home / "impostor"
    (home / "home/ca").mkdir(parents=True)
    known = json.loads((pair.root.home / "home/system.json").read_text())
    (home / "home/system.json").write_text(json.dumps({**known, "members": {}, "machines": {}}))
    shutil.copy(pair.root.home / "home/ca/ca.crt", home / "home/ca/ca.crt")
    for path in (home, *home.rglob("*")):
        os.chown(path, 65534, 65534)
    token = json.loads(pair.root.unios("join", "--json").stdout)["token"]
    done = Nobody(home, pair.nobody.python).unios("join", "--name", "a", token, check=False)
    assert done.returncode not in (0, 70) and b"machine" in done.stderr, done.stderr
    assert "a" not in pair.root.nodes()
