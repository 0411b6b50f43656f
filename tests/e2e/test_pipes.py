"""Pipes between processes on different nodes, as a shell makes them: `unios run a | unios run b`."""

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.system import UNIOS, System, wait_for

BIG = 24 * 1024 * 1024 + 4_321


def shell(system: System, script: str, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """Run a script of bash in which `unios` is ours."""
    path = f"{Path(UNIOS).parent}:{os.environ['PATH']}"
    done = subprocess.run(["bash", "-c", script], env={**system.env, "PATH": path}, capture_output=True, timeout=60, **options)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def live(system: System) -> list[dict[str, Any]]:
    return list(system.json("ps"))


def wait_none_lives(system: System) -> None:
    wait_for(lambda: live(system), lambda found: not found, "everything has ended", 20)


def test_when_the_reader_ends_early_the_writer_gets_sigpipe_and_nothing_is_left(whole: System) -> None:
    done = shell(whole, "unios run --on n1 yes | unios run --on n2 head -n 1; echo ${PIPESTATUS[@]}")
    assert done.stdout == b"y\n141 0\n" and not done.stderr, done.stderr.decode()
    wait_none_lives(whole)
    [writer] = [p for p in whole.json("ps", "-a") if p["argv"] == ["yes"]]
    assert writer["signal"] == signal.SIGPIPE


def test_pipefail_and_the_readers_own_code_are_the_shells_to_see(whole: System) -> None:
    script = "set -o pipefail; unios run --on n1 -- sh -c 'echo x; exit 3' | unios run --on n2 -- sh -c 'cat; exit 0'; echo $?"
    assert shell(whole, script).stdout == b"x\n3\n"
    assert shell(whole, "unios run --on n1 echo x | unios run --on n2 -- sh -c 'cat; exit 4'; echo $?").stdout == b"x\n4\n"


def test_a_big_binary_stream_comes_through_three_nodes_unchanged(whole: System, tmp_path: Path) -> None:
    data = os.urandom(BIG)
    (tmp_path / "big").write_bytes(data)
    with open(tmp_path / "big", "rb") as big:
        done = shell(whole, "unios run --on n1 cat | unios run --on n2 cat | unios run --on n3 sha256sum; echo ${PIPESTATUS[@]}", stdin=big)
    assert done.stdout.decode() == f"{hashlib.sha256(data).hexdigest()}  -\n0 0 0\n"


def test_a_reader_that_is_slow_holds_the_writer_up_and_loses_nothing(whole: System, tmp_path: Path) -> None:
    count, go_on = tmp_path / "count", tmp_path / "go-on"
    os.mkfifo(go_on)
    writes = f"i=0; while [ $i -lt 64 ]; do head -c 1000000 /dev/zero; i=$((i+1)); echo $i > {count}; done"
    reads = f"cat {go_on} > /dev/null; wc -c"
    with subprocess.Popen(
        ["bash", "-c", f"{UNIOS} run --on n1 -- sh -c '{writes}' | {UNIOS} run --on n2 -- sh -c '{reads}'"], env=whole.env, stdout=subprocess.PIPE
    ) as pipe:
        seen: list[str] = []

        def stands() -> bool:
            seen.append(count.read_text().strip() if count.exists() else "")
            return len(seen) > 20 and len(set(seen[-20:])) == 1 and seen[-1] != ""

        wait_for(stands, bool, "the writer waits", 30)
        assert int(seen[-1]) < 40  # 16 MiB in its streams, and what is under way
        go_on.write_text("now")
        assert pipe.communicate(timeout=60)[0].strip() == b"64000000"


@pytest.mark.parametrize("victim", [0, 1])
def test_killing_either_run_ends_its_side(whole: System, victim: int) -> None:
    read, write = os.pipe()
    writer = subprocess.Popen(
        [UNIOS, "run", "--on", "n1", "-n", "--", "sh", "-c", "while echo line; do sleep 0.05; done"], env=whole.env, stdout=write
    )
    reader = subprocess.Popen([UNIOS, "run", "--on", "n2", "cat"], env=whole.env, stdin=read, stdout=subprocess.PIPE)
    os.close(read)
    os.close(write)
    assert reader.stdout is not None and reader.stdout.readline() == b"line\n"
    (writer, reader)[victim].kill()
    if victim == 0:
        reader.communicate(timeout=20)
        assert reader.returncode == 0  # the end of its input
        [left] = live(whole)
        assert left["argv"][0] == "sh"  # as with ssh: nobody told it to end
        whole.unios("kill", "-9", str(left["pid"]))
        writer.wait()
    else:
        assert writer.wait(20) == 141
        reader.communicate()
    wait_none_lives(whole)


@pytest.mark.parametrize(("feeds", "code"), [("printf x", 76), ("sleep 4; printf x", 76), ("true", 0), ("sleep 4", 0)])
def test_what_is_started_again_and_ends_well_without_its_stdin_has_not_ended_well(whole: System, tmp_path: Path, feeds: str, code: int) -> None:
    again = tmp_path / "again"
    program = (
        f"if test -e {again}; then sleep 4; cat; else touch {again}; sleep 0.3; exit 1; fi"
        if "sleep" in feeds
        else f"test -e {again} || ! touch {again}"
    )
    done = shell(whole, f'({feeds}) | unios run --restart on-failure -- sh -c "{program}"; exit ${{PIPESTATUS[1]}}')
    assert done.returncode == code and (b"ended well without its stdin" in done.stderr) == (code == 76), done.stderr


def test_a_loop_that_reads_stdin_is_not_robbed_of_it_with_n(whole: System) -> None:
    assert shell(whole, "printf 'a\\nb\\n' | while read x; do unios run -n echo $x; done").stdout == b"a\nb\n"
    assert shell(whole, "printf 'a\\nb\\n' | { unios run -n cat; cat; }").stdout == b"a\nb\n"


def test_a_program_that_floods_from_its_first_moment_loses_nothing_before_its_reader_comes(whole: System) -> None:
    done = shell(
        whole, "unios run --on n2 -- head -c 100000000 /dev/zero | wc -c; unios run --on n3 -- sh -c 'seq 1 2000000' | cksum; seq 1 2000000 | cksum"
    )
    counted, ours, right = done.stdout.decode().splitlines()
    assert counted.strip() == "100000000" and ours == right and not done.stderr


def test_a_run_whose_output_cannot_be_written_leaves_nothing_running(whole: System) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [UNIOS, "run", "--", "yes", "fills"], env=whole.env, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE, timeout=60
        )
    assert done.returncode != 0 and b"cannot write" in done.stderr
    wait_for(lambda: [p for p in whole.json("ps") if "fills" in p["argv"]], lambda left: not left, "it has ended")


FLOOD = "import sys\nfor n in range(400): sys.stdout.buffer.write(b'%09d\\n' % n * 100_000)\n"


def test_a_flood_into_a_pipe_is_whole_though_the_kernels_on_its_way_are_killed(fresh: System) -> None:
    whole = hashlib.sha256(b"".join(b"%09d\n" % n * 100_000 for n in range(400))).digest()
    command = [UNIOS, "--node", "n1", "run", "--on", "n2", "--", sys.executable, "-c", FLOOD]
    with subprocess.Popen(command, env=fresh.env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        came, found, kills = 0, hashlib.sha256(), 0
        while data := running.stdout.read(1_000_000):
            found.update(data)
            came += len(data)
            if kills < 4 and came >= 80_000_000 * (kills + 1):
                os.kill(fresh.nodes()[f"n{kills % 2 + 1}"]["kernel_pid"], signal.SIGKILL)
                kills += 1
    assert running.returncode == 0 and kills == 4
    assert (came, found.digest()) == (400_000_000, whole)
