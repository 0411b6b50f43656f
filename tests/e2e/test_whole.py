"""What a user does on a system where nothing breaks; every test leaves it as it was."""

import json
import os
import subprocess

import pytest

from tests.e2e.system import System


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
    done = subprocess.run(
        [*[*whole.prefix, "unios"][:0], whole_unios(), "run", "--", "cat"], env=whole.env, input=data, capture_output=True, timeout=60
    )
    assert done.returncode == 0 and done.stdout == data


def whole_unios() -> str:
    from tests.e2e.system import UNIOS

    return UNIOS


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
    text = whole.unios("events").stdout.decode()
    assert str(pid) in text


def test_unknown_things_are_named_in_a_sentence(whole: System) -> None:
    for words in (["kill", "29999"], ["wait", "29999"], ["logs", "29999"], ["ps", "--node", "n99"]):
        done = whole.unios(*words, check=False)
        assert done.returncode == 1 and done.stderr.startswith(b"unios: "), (words, done)


def test_bad_usage_exits_2(whole: System) -> None:
    for words in (["run"], ["kill"], ["nonsense"], ["up", "--nodes", "many"], ["kill", "abc"]):
        assert whole.unios(*words, check=False).returncode == 2, words


def test_status_warns_that_the_nodes_share_a_machine(whole: System) -> None:
    text = whole.unios("status").stdout.decode()
    assert "machine" in text


def test_a_client_that_dies_leaves_nothing_behind(whole: System) -> None:
    before = whole.json("ps", "-a")
    with whole.start("logs", "-f", str(before[0]["pid"]), stdout=subprocess.DEVNULL) as client:
        client.kill()
    assert whole.unios("run", "--", "true").returncode == 0
