"""What a user does on a system where nothing breaks; every test leaves it as it was."""

import contextlib
import json
import os
import subprocess
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from tests.e2e.system import UNIOS, System, wait_for
from unios.errors import Denied
from unios.kernel import tokens


def test_up_returns_when_all_nodes_are_ready(whole: System) -> None:
    nodes = whole.nodes()
    assert sorted(nodes) == ["n1", "n2", "n3"]
    assert {node["state"] for node in nodes.values()} == {"ready"}
    assert len({node["machine"] for node in nodes.values()}) == 1
    for node in nodes.values():
        assert node["kernel_pid"] in node["pids"]
        assert all(os.path.exists(f"/proc/{pid}") for pid in node["pids"])


def test_up_again_is_no_error(whole: System) -> None:
    before = whole.nodes()
    whole.unios("up", "--nodes", "3")
    assert {n["kernel_pid"] for n in whole.nodes().values()} == {n["kernel_pid"] for n in before.values()}


@pytest.mark.parametrize(("script", "code"), [("exit 7", 7), ("true", 0), ("kill -9 $$", 137), ("kill -TERM $$", 143)])
def test_run_ends_with_the_programs_own_exit_code(whole: System, script: str, code: int) -> None:
    assert whole.unios("run", "--", "sh", "-c", script, check=False).returncode == code


def test_run_streams_both_outputs_apart(whole: System) -> None:
    done = whole.unios("run", "--", "sh", "-c", "printf out; printf err >&2")
    assert (done.stdout, done.stderr) == (b"out", b"err")


def test_the_global_pid_is_the_programs_own(whole: System) -> None:
    done = whole.unios("run", "--", "sh", "-c", "echo $$")
    own = int(done.stdout)
    assert whole.process(own)["state"] == "exited"


def test_output_passes_through_unchanged_and_whole(whole: System) -> None:
    script = "import sys,random; random.seed(1); sys.stdout.buffer.write(random.randbytes(30_000_000))"
    import hashlib
    import random
    import sys

    random.seed(1)
    expected = hashlib.sha256(random.randbytes(30_000_000)).hexdigest()
    done = whole.unios("run", "--", sys.executable, "-c", script)
    assert hashlib.sha256(done.stdout).hexdigest() == expected


def test_stdin_reaches_the_program(whole: System) -> None:
    data = os.urandom(3_000_000)
    done = subprocess.run([UNIOS, "run", "--", "cat"], env=whole.env, input=data, capture_output=True, timeout=60)
    assert done.returncode == 0 and done.stdout == data


@pytest.mark.parametrize(("argv", "code"), [(["no-such-program-at-all"], 127), (["/etc/passwd"], 126), (["/"], 126)])
def test_what_cannot_be_run_ends_as_in_a_shell(whole: System, argv: list[str], code: int) -> None:
    done = whole.unios("run", "--", *argv, check=False)
    assert done.returncode == code
    assert done.stderr.startswith(b"unios: ") and argv[0].encode() in done.stderr


def test_arguments_need_not_be_text(whole: System) -> None:
    done = whole.unios("run", "--", b"printf", b"%s", b"\xff\xfe x")
    assert done.stdout == b"\xff\xfe x"


def test_ten_megabytes_of_arguments_are_refused_in_a_sentence(whole: System) -> None:
    """Linux itself refuses such an execve of unios; so the arguments come by a file to xargs-like callers: 100 of 100 KB."""
    done = whole.unios("run", "--", "true", *["x" * 100_000] * 20, check=False)
    assert done.returncode == 126
    assert b"argument" in done.stderr


def test_env_cwd_and_umask_are_the_callers(whole: System) -> None:
    done = whole.unios("run", "--cwd", "/usr", "--env", "A=b c", "--", "sh", "-c", 'pwd; echo "$A"; umask')
    assert done.stdout.decode().split("\n")[:2] == ["/usr", "b c"]


def test_limits_hold(whole: System) -> None:
    assert whole.unios("run", "--limit", "nofile=77", "--", "sh", "-c", "ulimit -n").stdout == b"77\n"


def test_a_sleeper_is_listed_frozen_thawed_killed_and_waited_for_through_other_nodes(whole: System) -> None:
    pid = whole.run_detached("sleep", "1000")
    home = whole.wait_process(pid, lambda p: p["state"] == "running", "runs")["node"]
    others = [name for name in whole.nodes() if name != home]
    assert any(p["pid"] == pid for p in json.loads(whole.unios("ps", "--json", "--node", others[0]).stdout))
    whole.unios("freeze", "--node", others[0], str(pid))
    assert whole.process(pid)["state"] == "frozen"
    whole.unios("thaw", "--node", others[1], str(pid))
    assert whole.process(pid)["state"] == "running"
    whole.unios("kill", "--node", others[0], str(pid))
    assert whole.unios("wait", "--node", others[1], str(pid), check=False).returncode == 143
    assert whole.process(pid)["exit_code"] == 143


def test_logs_are_readable_from_every_node_after_the_end(whole: System) -> None:
    pid = whole.run_detached("sh", "-c", "echo one; echo two >&2")
    whole.unios("wait", str(pid))
    for node in whole.nodes():
        done = whole.unios("logs", "--node", node, str(pid))
        assert (done.stdout, done.stderr) == (b"one\n", b"two\n")


def test_logs_follow_until_the_end(whole: System) -> None:
    pid = whole.run_detached("sh", "-c", "for i in 1 2 3; do echo $i; sleep 0.2; done")
    assert whole.unios("logs", "-f", str(pid)).stdout == b"1\n2\n3\n"


def test_events_tell_the_story(whole: System) -> None:
    pid = whole.run_detached("true")
    whole.unios("wait", str(pid))
    text = whole.unios("events", "--pid", str(pid)).stdout.decode()
    assert str(pid) in text


def test_unknown_things_are_named_in_a_sentence(whole: System) -> None:
    for words in (["kill", "29999"], ["wait", "29999"], ["logs", "29999"]):
        done = whole.unios(*words, check=False)
        assert done.returncode == 1 and done.stderr.startswith(b"unios: "), (words, done)


def test_bad_usage_exits_2(whole: System) -> None:
    for words in (["run"], ["kill"], ["nonsense"], ["up", "--nodes", "many"], ["kill", "abc"]):
        assert whole.unios(*words, check=False).returncode == 2, words


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["up", "--name", "a/b"], "name"),
        (["up", "--name", "-x"], "name"),
        (["up", "--name", "x" * 33], "name"),
        (["up", "--name="], "name"),
        (["up", "--nodes", "2", "--name", "x"], "one node"),
        (["up", "--listen", "1.2.3.4:99999"], "address"),
        (["up", "--listen", "1.2.3.4:x"], "address"),
        (["up", "--advertise", "a b"], "address"),
        (["join", "abc"], "token"),
        (["join", ""], "token"),
        (["join", "unios1.abc"], "token"),
        (["join", "unios1.ä"], "token"),
        (["join", "--ttl", "0"], "--ttl"),
        (["join", "--ttl", str(31 * 86_400)], "--ttl"),
    ],
)
def test_what_cannot_be_a_name_an_address_or_a_token_is_bad_usage(tmp_path: Path, words: list[str], said: str) -> None:
    """Found before anything is started or made: there is no system at that home, and none comes to be."""
    home = tmp_path / "home"
    done = subprocess.run([UNIOS, *words], env={**os.environ, "UNIOS_HOME": str(home)}, stdin=subprocess.DEVNULL, capture_output=True, timeout=60)
    assert done.returncode == 2, done
    assert done.stderr.startswith(b"unios: ") and said in done.stderr.decode() and done.stderr.count(b"\n") == 1, done.stderr
    assert not home.exists()


def test_a_part_of_a_token_is_bad_usage_and_a_token_that_is_wrong_is_not(whole: System, tmp_path: Path) -> None:
    def join(token: str) -> int:
        return subprocess.run([UNIOS, "join", token], env={**os.environ, "UNIOS_HOME": str(tmp_path)}, capture_output=True, timeout=60).returncode

    token = json.loads(whole.unios("join", "--json").stdout)["token"]
    text = tokens.decode(token)
    assert join(token[:-9]) == 2
    assert join(tokens.encode(msgspec.structs.replace(text, secret="0" * 40))) == Denied.exit_code
    assert join(tokens.encode(msgspec.structs.replace(text, fingerprint="0" * 64))) == Denied.exit_code


def test_status_warns_that_the_nodes_share_a_machine(whole: System) -> None:
    shared = [warning for warning in whole.json("status")["warnings"] if "share one machine" in warning]
    assert len(shared) == 1 and all(name in shared[0] for name in ("n1", "n2", "n3")), shared
    assert shared[0] in whole.unios("status").stdout.decode()


def open_files(pid: int) -> Counter[str]:
    """Return how many descriptors of each kind a process has: of sockets and the like the number says nothing."""
    found: Counter[str] = Counter()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            found[os.readlink(f"/proc/{pid}/fd/{name}").split(":[")[0]] += 1
    return found


def held(system: System) -> Counter[tuple[str, str]]:
    """Return what the nodes hold: the descriptors of each kernel, and the Linux processes of each node."""
    found: Counter[tuple[str, str]] = Counter()
    for name, node in system.nodes().items():
        found.update({(name, kind): count for kind, count in open_files(node["kernel_pid"]).items()})
        found[name, "processes"] = len(node["pids"])
    return found


@pytest.mark.parametrize("words", [["logs", "-f", "PID"], ["wait", "PID"], ["events", "-f"]], ids=lambda words: words[0])
def test_a_client_that_dies_leaves_nothing_behind(whole: System, words: list[str]) -> None:
    clients = 8  # more than a spare init or a socket that comes and goes
    pid = whole.run_detached("sh", "-c", "echo here; sleep 1000")
    whole.wait_process(pid, lambda p: p["state"] == "running", "runs")
    before = held(whole)
    dying = [whole.start(*(str(pid) if word == "PID" else word for word in words), stdout=subprocess.DEVNULL) for _ in range(clients)]
    try:
        sockets = sum(count for (_node, kind), count in before.items() if kind == "socket")
        wait_for(
            lambda: sum(count for (_node, kind), count in held(whole).items() if kind == "socket"), lambda n: n >= sockets + clients, "all have asked"
        )
    finally:
        for client in dying:
            client.kill()
            client.wait()
    wait_for(lambda: held(whole) - before, lambda more: not more, "nothing more is held than before")
    assert whole.process(pid)["state"] == "running"
    whole.unios("kill", str(pid))
    assert whole.unios("wait", str(pid), check=False).returncode == 143
