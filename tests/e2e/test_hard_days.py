"""Bad input and hard days, as a person meets them: a clear sentence, the right code, nothing lost, nothing left behind."""

import json
import os
import random
import signal
import socket
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.system import System, wait_for


def sentence(done: subprocess.CompletedProcess[bytes], code: int, *words: str) -> None:
    """One sentence on stderr that has these words, and this exit code."""
    text = done.stderr.decode()
    assert done.returncode == code, (done.returncode, text)
    assert text.startswith("unios: ") and text.count("\n") == 1, text
    assert all(word in text for word in words), text


def test_tokens_that_are_bad_used_or_expired(whole: System) -> None:
    other = System()
    try:
        sentence(other.unios("join", "nonsense", check=False), 2, "token")
        token = json.loads(whole.unios("join", "--json").stdout)["token"]
        sentence(other.unios("join", token[:-9], check=False), 2, "token")
        short = json.loads(whole.unios("join", "--ttl", "1", "--json").stdout)["token"]
        time.sleep(1.3)
        sentence(other.unios("join", short, check=False), 77, "expired", "unios join")
        good = json.loads(whole.unios("join", "--root", "--json").stdout)["token"] if os.geteuid() == 0 else token
        other.unios("join", good)
        third = System()
        try:
            sentence(third.unios("join", good, check=False), 77, "used")
            assert not (third.home / "home" / "system.json").exists()
        finally:
            third.close()
        name = json.loads(other.unios("nodes", "--json").stdout)[-1]["name"]
        other.unios("leave", "--node", name)
    finally:
        other.close()


def test_a_port_that_is_taken_and_a_home_that_cannot_be(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        system = System()
        try:
            sentence(system.unios("up", "--listen", f"127.0.0.1:{taken.getsockname()[1]}", check=False), 75, "in use", "--listen")
            assert not system.leftovers()
        finally:
            system.close()
    file = tmp_path / "file"
    file.touch()
    blocked = System(env={"UNIOS_HOME": str(file / "home")})
    try:
        sentence(blocked.unios("up", check=False), 75, "UNIOS_HOME")
    finally:
        blocked.close()


def test_garbage_at_every_door(whole: System) -> None:
    rng = random.Random(1)
    node = whole.home / "home/nodes/n1"
    doors: list[str | tuple[str, int]] = [str(node / "kernel.sock"), str(node / "guard.sock")]
    host, port = json.loads((node / "node.json").read_text())["address"].rsplit(":", 1)
    doors += [(host, int(port))] * 2
    kernel = whole.nodes()["n1"]["kernel_pid"]
    before = len(os.listdir(f"/proc/{kernel}/fd"))
    for number, door in enumerate(doors * 5):
        sock = socket.socket(socket.AF_UNIX if isinstance(door, str) else socket.AF_INET)
        with sock:
            sock.connect(door)
            if number % 4 == 3:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                sock = context.wrap_socket(sock)
            try:
                sock.sendall(rng.randbytes(rng.randrange(1, 5_000)))
            except OSError:
                pass
            sock.close()
    assert whole.nodes()["n1"]["kernel_pid"] == kernel
    assert whole.unios("run", "--node", "n1", "--", "sh", "-c", "exit 5", check=False).returncode == 5
    wait_for(lambda: len(os.listdir(f"/proc/{kernel}/fd")), lambda count: count <= before + 3, "descriptors are given back")


@pytest.mark.parametrize("words", [["run", "--", "sleep", "0.3"], ["ps", "-a"], ["nodes"], ["events"], ["join"], ["run", "-d", "--", "true"]])
def test_a_client_that_dies_at_any_moment(whole: System, words: list[str]) -> None:
    kernels = {name: node["kernel_pid"] for name, node in whole.nodes().items()}
    for delay in (0.02, 0.05, 0.07, 0.1, 0.15):
        with whole.start(*words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            time.sleep(delay)
            client.kill()
    assert {name: node["kernel_pid"] for name, node in whole.nodes().items()} == kernels
    assert whole.unios("run", "--", "true").returncode == 0
    wait_for(lambda: [p for p in whole.json("ps") if p["argv"] != ["sleep", "1000"]], lambda live: not live, "what was submitted has ended", 30)


def test_kill_9_in_the_middle_of_up_leaves_a_state_from_which_up_goes_on() -> None:
    system = System()
    try:
        for delay in (0.1, 0.2, 0.3, 0.4, 0.5):
            with system.start("up", "--nodes", "2", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as up:
                time.sleep(delay)
                for pid in [up.pid, *(int(text.split()[0]) for text in system.leftovers())]:
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        system.unios("up", "--nodes", "2")
        assert {node["state"] for node in system.nodes().values()} == {"ready"}
        assert system.unios("run", "--", "sh", "-c", "exit 6", check=False).returncode == 6
    finally:
        system.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_said_and_nothing_is_lost() -> None:
    """UNIOS_HOME on 24 MiB in a mount namespace of its own: full, then with room again."""
    script = r"""
set -e
mount -t tmpfs -o size=24m tmpfs "$UNIOS_HOME"
"$UNIOS" up >/dev/null
pid=$("$UNIOS" run -d --json -- sleep 1000 | tr -dc 0-9, | cut -d, -f1)
dd if=/dev/zero of="$UNIOS_HOME/fill" bs=64k >/dev/null 2>&1 || true
set +e
"$UNIOS" run -- sh -c 'exit 3'; echo "full: $?"
"$UNIOS" ps | grep -c 'sleep 1000'
rm "$UNIOS_HOME/fill"
for try in 1 2 3 4 5 6 7 8 9 10; do
    "$UNIOS" run -- sh -c 'exit 4'; code=$?
    [ $code = 4 ] && break
    sleep 0.5
done
echo "room: $code"
"$UNIOS" ps | grep -c 'sleep 1000'
"$UNIOS" down --all
"""
    system = System()
    try:
        (system.home / "home").mkdir()
        from tests.e2e.system import UNIOS

        done = subprocess.run(
            ["unshare", "--mount", "bash", "-c", script], env={**system.env, "UNIOS": UNIOS}, capture_output=True, timeout=100, check=False
        )
        out, err = done.stdout.decode(), done.stderr.decode()
        assert "Traceback" not in out + err
        full = int(out.split("full: ")[1].split()[0])
        assert full in (3, 125), (out, err)  # it ran, or a sentence says that unios could not start it
        assert full == 3 or ("disk" in err or "room" in err or "written" in err), err
        assert out.split("room: ")[1].split()[0] == "4", (out, err)
        assert out.split().count("1") == 2, (out, err)
    finally:
        system.close()


def test_a_node_that_cannot_start_takes_no_other_with_it() -> None:
    system = System()
    try:
        system.unios("up", "--nodes", "2")
        pid = system.run_detached("sleep", "1000", options=("--on", "n1"))
        system.unios("down", "--node", "n2")
        (system.home / "home/nodes/n2/node.json").write_text("{}")
        failed = system.unios("up", check=False)
        assert failed.returncode not in (0, 70) and b"n2" in failed.stderr and b"Traceback" not in failed.stderr
        record = system.process(pid)
        assert (record["state"], record["node"], record["incarnation"]) == ("running", "n1", 1)
    finally:
        system.close()
