import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.scripted import ScriptedKernel
from unios.errors import Denied, NotFound, Unavailable, UniosError
from unios.shell import main, ps
from unios.shell.words import Given, Word, groups
from unios.wire.operations import Empty, EventView, ListProcesses, NodeUsage, NodeView, ProcessView, Signal, Signalled, SystemView
from unios.wire.peer import Call
from unios.wire.queueing import Waiting

LIST = (
    ProcessView(1001, "running", "n1", "ann", (b"sleep", b"\xff 1"), 1, started_ms=1),
    ProcessView(1002, "failed", "n2", "bob", (b"x",), 2, exit_code=127, reason="no node has the program x"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNIOS_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def kernel(home: Path) -> Any:
    scripted = ScriptedKernel(home)

    async def listing(call: Call) -> object:
        return LIST if call.decode(ListProcesses).ended else LIST[:1]

    async def nodes(call: Call) -> object:
        return (NodeView("n1", "ready", "m1", 1, 42, (42, 43)),)

    scripted.operations |= {"processes.list": listing, "node.list": nodes}
    yield scripted
    scripted.close()


def unios(*words: str | bytes, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run([sys.executable, "-m", "unios", *words], capture_output=True, timeout=60, **options)


def test_ps_shows_a_table_and_json_has_every_field(kernel: ScriptedKernel) -> None:
    lines = unios("ps").stdout.decode().splitlines()
    assert lines[0].split() == ["PID", "STATE", "NODE", "USER", "AGE", "COMMAND"]
    assert lines[1].startswith("1001  running  n1") and lines[1].endswith("sleep '\\xff 1'") and len(lines) == 2
    shown = json.loads(unios("ps", "-a", "--json").stdout)
    assert shown[0]["argv"] == ["sleep", "\\xff 1"] and shown[0]["exit_code"] is None
    assert {"pid", "state", "node", "argv", "incarnation", "exit_code", "reason"} <= shown[1].keys()
    assert shown[1]["exit_code"] == 127


def test_ctrl_c_while_the_command_is_still_being_loaded_is_no_traceback() -> None:
    code = """
import unios.shell.main as main
def interrupted():
    raise KeyboardInterrupt
main.import_msgspec = interrupted
main.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (main.INTERRUPTED, b"", b"")


def test_a_terminal_obeys_nothing_that_another_user_or_node_wrote(kernel: ScriptedKernel) -> None:
    evil = "\x1b[2J\x9b0mgone\nunios: \u202enot true"

    async def events(call: Call) -> object:
        await call.send(EventView(2**62, "n2\x1b", "k\x07", evil))
        return Empty()

    async def status(call: Call) -> object:
        return SystemView("s", "1", "sqlite", "m1", (), {}, (evil,))

    async def wait(call: Call) -> object:
        raise NotFound(evil)

    kernel.operations |= {"node.events": events, "node.status": status, "processes.wait": wait}
    for words in (["events"], ["status"], ["wait", "1001"]):
        done = unios(*words)
        said = (done.stdout + done.stderr).decode()
        assert "gone" in said and all(character.isprintable() or character == "\n" for character in said), said
        assert not any(line.startswith("unios: not") for line in said.splitlines())


def test_ps_of_ended_ones_says_why(kernel: ScriptedKernel) -> None:
    assert b"failed 127" in unios("ps", "-a").stdout and b"no node has the program x" in unios("ps", "-a").stdout


def test_nodes_in_json_have_what_scripts_rely_on(kernel: ScriptedKernel) -> None:
    (node,) = json.loads(unios("nodes", "--json").stdout)
    assert {"name", "state", "machine", "incarnation", "kernel_pid", "pids"} <= node.keys() and node["pids"] == [42, 43]


def test_where_nothing_runs_the_exit_code_is_75_and_the_sentence_on_stderr(home: Path) -> None:
    done = unios("ps")
    assert (done.returncode, done.stdout) == (75, b"") and done.stderr.startswith(b"unios: no unios node runs here")


def test_an_error_in_json_is_one_line_on_stderr(home: Path) -> None:
    done = unios("--json", "ps")
    assert json.loads(done.stderr)["error"] == "unavailable" and done.stdout == b""


@pytest.mark.parametrize(
    "words",
    [
        ["run"],
        ["kill"],
        ["nonsense"],
        ["up", "--nodes", "many"],
        ["up", "--nodes", "0"],
        ["kill", "abc"],
        ["kill", "-s", "NOPE", "1"],
        ["run", "--umask", "9", "true"],
        ["run", "--limit", "x=1", "true"],
        ["run", "--limit", "nofile=z", "true"],
        ["run", "-d", "-i", "true"],
        ["run", "--env", "=x", "true"],
        ["ps", "extra"],
        ["logs", "--stdout", "--stderr", "1"],
        ["down", "--all", "--node", "n1"],
        ["wait", "--timeout", "soon", "1"],
        ["ps", "--bad"],
        ["--bad"],
        ["run", ""],
        ["run", "--array", "", "true"],
        ["run", "--label=", "true"],
        ["run", "--near", "", "true"],
        ["run", "--near", "web", "--near", "", "true"],
        ["run", "--policy", "", "true"],
        ["run", "--env", "NOT_SET_HERE", "true"],
        ["run", "--tasks", "0", "true"],
        ["run", "-nd", "--tasks", "0", "true"],
        ["run", "--time", "999999999d", "true"],
        ["run", "--array", "1-999999999999", "true"],
        ["ps", "--node", ""],
        ["--home=", "ps"],
        ["kill", "300", ""],
        ["policy", ""],
        ["quota", ""],
        ["events", "--kind", "nosuch"],
    ],
)
def test_bad_usage_exits_2_with_a_sentence(home: Path, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(words) == 2
    assert capfd.readouterr().err.startswith("unios: ")


@pytest.mark.parametrize(
    ("words", "bound"),
    [
        (["run", "--time", "999999999d", "true"], "36500d"),
        (["run", "--time", "9999999999999999:00", "true"], "36500d"),
        (["run", "--array", "1-999999999999", "true"], "20000"),
        (["run", "--array", "5-999999999999999%9999999999", "true"], "20000"),
        (["run", "--array", "999999999-1000000000", "true"], "999999999"),
    ],
)
def test_what_is_too_much_is_told_with_the_bound(home: Path, words: list[str], bound: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(words) == 2
    assert bound in capfd.readouterr().err


def test_zero_is_a_value_however_it_was_typed() -> None:
    from unios.shell import clicks

    chosen = clicks.read(["run", "-dn", "--restarts-max", "0", "--", "true"])  # -dn: only click reads it
    assert isinstance(chosen, clicks.Chosen) and chosen.given.number("restarts_max", 10) == 0
    assert chosen.given != Given({**chosen.given.values, "restarts_max": None}, chosen.given.arguments)


@pytest.mark.parametrize("words", [["help"], ["help", "run"], ["completion", "bash"], ["man"]])
def test_what_is_said_without_a_system_is_said_in_json_too(home: Path, words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute([*words, "--json"]) == 0
    assert json.loads(capfd.readouterr().out)


def test_what_has_nothing_to_say_in_json_says_that(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["attach", "300", "--json"]) == 2
    said = json.loads(capfd.readouterr().err)
    assert said["error"] == "usage" and "JSON" in said["text"]


def test_a_word_that_there_is_not_is_told_with_what_may_be_meant(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["runn", "true"]) == 2
    assert "did you mean `unios run`?" in capfd.readouterr().err
    assert main.execute(["-h"]) == main.execute(["run", "-h"]) == 0


def test_everyday_words_are_in_a_group_of_help() -> None:
    assert "cancel" in dict(groups())["Queue and resources"] and "More" not in dict(groups())


def test_ps_and_top_say_why_something_waits_now_and_not_why_it_waited_when_it_was_submitted(kernel: ScriptedKernel) -> None:
    async def listing(call: Call) -> object:
        return (
            ProcessView(300, "pending", "", "ann", (b"true",), 1, reason="long ago"),
            ProcessView(301, "pending", "n1", "ann", (), 1, reason="begins"),
        )

    async def waits(call: Call) -> object:
        if call.op != "queue":
            raise NotFound(call.op)
        return (Waiting(300, "ann", (b"true",), 16, 1, "waits for a core: 2 of 2 are set aside; 0 before it"),)

    async def usage(call: Call) -> object:
        return NodeUsage("n1")

    kernel.operations |= {"processes.list": listing, "node.links": lambda call: nothing_at_all(), "node.usage": usage}
    assert b"long ago" in unios("ps").stdout  # nobody can be asked: better an old reason than none
    assert b"long ago" in unios("top", "--json").stdout
    kernel.services["placement"] = waits
    said = unios("ps").stdout.decode()
    assert "2 of 2 are set aside" in said and "long ago" not in said and "begins" in said
    assert [view["reason"][:5] for view in json.loads(unios("ps", "--json").stdout)] == ["waits", "begin"]
    said = unios("top", "--json").stdout.decode()
    assert "waits for a core" in said and "long ago" not in said and "begins" in said


@pytest.mark.parametrize("state", ["exited", "failed", "pending"])
def test_logs_of_what_never_began_are_empty_and_say_so(kernel: ScriptedKernel, state: str) -> None:
    async def view(call: Call) -> object:
        return ProcessView(300, state, "", "ann", (b"true",), 1, reason="so it is")

    kernel.operations["processes.wait"] = view
    done = unios("logs", "300")
    assert (done.returncode, done.stdout) == (0, b"") and done.stderr.startswith(b"unios: there is no output of 300") and b"so it is" in done.stderr
    assert unios("logs", "300", "--json").stderr == b""


def test_output_that_cannot_be_reached_is_told_with_where_it_is(kernel: ScriptedKernel) -> None:
    async def view(call: Call) -> object:
        return ProcessView(300, "exited", "n2", "ann", (b"true",), 1, exit_code=0)

    async def follow(call: Call) -> object:
        raise Unavailable("n1 has no link to it")

    kernel.operations |= {"processes.wait": view, "processes.follow": follow}
    for more in ([], ["-n", "3"]):
        done = unios("logs", "300", *more)
        assert (done.returncode, done.stderr) == (75, b"unios: the output of 300 is kept on n2, which does not answer: n1 has no link to it\n")


def test_a_table_in_a_pipe_waits_for_a_kernel_that_is_replaced(kernel: ScriptedKernel) -> None:
    looks = 0

    async def listing(call: Call) -> object:
        nonlocal looks
        looks += 1
        if looks in (1, 3):  # before the first look, and between the two
            raise Unavailable("the store is not reached yet")
        return LIST[:1]

    async def nothing(call: Call) -> object:
        return ()

    async def usage(call: Call) -> object:
        return NodeUsage("n1")

    kernel.operations |= {"processes.list": listing, "node.links": nothing, "node.usage": usage}
    done = unios("top", "--once")
    assert done.returncode == 0 and b"1001" in done.stdout and done.stderr == b"", done
    assert looks == 4


def test_a_table_in_a_pipe_that_nobody_answers_fails(home: Path) -> None:
    done = unios("top", "--once")
    assert (done.returncode, done.stdout) == (75, b"") and done.stderr.startswith(b"unios: no unios node runs here")


def test_a_table_that_lacks_something_says_so_and_does_not_end_with_0(kernel: ScriptedKernel) -> None:
    async def hangs(call: Call) -> object:
        await asyncio.Event().wait()
        return ()

    async def usage(call: Call) -> object:
        return NodeUsage("n1")

    kernel.operations |= {"processes.list": hangs, "node.links": lambda call: nothing_at_all(), "node.usage": usage}
    done = unios("top", "--once")
    assert done.returncode == 75 and b"no answer about the processes" in done.stderr and b"n1" in done.stdout, done


async def nothing_at_all() -> object:
    return ()


def test_arguments_that_are_not_text_reach_the_program_as_they_are(home: Path) -> None:
    from unios.shell.run import program

    raw = os.fsdecode(b"\xff\xfe")
    assert program(Given({}, ("printf", raw)), stdin=False).argv == (b"printf", b"\xff\xfe")


def test_a_defect_becomes_one_line_and_a_file_with_the_details(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_args: object) -> int:
        raise ZeroDivisionError("a defect")

    monkeypatch.setitem(ps.WORDS, "ps", Word(broken, text=""))
    assert main.execute(["ps"]) == 70
    said = capfd.readouterr().err
    assert said.startswith("unios: internal error: ZeroDivisionError: a defect; the details are in ") and said.count("\n") == 1
    assert "Traceback" in Path(said.rsplit(" ", 1)[1].strip()).read_text()


def test_ctrl_c_exits_130(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setitem(ps.WORDS, "ps", Word(interrupted, text=""))
    assert main.execute(["ps"]) == 130


def test_an_errors_exit_code_is_its_own(kernel: ScriptedKernel) -> None:
    async def missing(call: Call) -> object:
        raise NotFound("there is no process 9")

    kernel.operations["processes.wait"] = missing
    done = unios("wait", "9")
    assert (done.returncode, done.stderr) == (1, b"unios: there is no process 9\n")


def test_who_signals_what_is_frozen_is_told_that_the_signal_waits(kernel: ScriptedKernel) -> None:
    answers: list[object] = [Signalled(waits=True), Signalled(), Empty()]  # the last of a kernel that does not know the field

    async def sent(call: Call) -> object:
        return answers.pop(0)

    kernel.operations["processes.signal"] = sent  # and nothing else is asked
    done = unios("kill", "1001")
    assert (done.returncode, done.stdout) == (0, b"") and b"1001 is frozen, so the signal waits until `unios thaw 1001`" in done.stderr
    assert unios("kill", "1001").stderr == unios("kill", "1001").stderr == b""
    assert not answers


@pytest.mark.parametrize(("error", "code"), [(Denied("process 1001 belongs to ann"), 77), (NotFound("process 1001 has ended"), 1)])
def test_who_may_not_forward_a_port_hears_it_before_anybody_connects(kernel: ScriptedKernel, error: UniosError, code: int) -> None:
    async def view(call: Call) -> object:
        return LIST[0]

    async def refused(call: Call) -> object:
        assert call.decode(Signal) == Signal(1001, 0)
        raise error

    kernel.operations |= {"processes.wait": view, "processes.signal": refused}
    done = unios("forward", "1001", "80:0")
    assert (done.returncode, done.stdout, done.stderr.decode()) == (code, b"", f"unios: {error}\n")


def test_what_has_no_node_yet_may_be_forwarded(kernel: ScriptedKernel) -> None:
    views = [LIST[0], LIST[1]]

    async def view(call: Call) -> object:
        return views.pop(0)

    async def refused(call: Call) -> object:
        raise Unavailable("process 1001 has no node yet")

    kernel.operations |= {"processes.wait": view, "processes.signal": refused}
    done = unios("forward", "1001", "80:0")
    assert (done.returncode, done.stderr) == (0, b"unios: 1001 has ended\n") and b"is port 80 of 1001" in done.stdout


def test_a_full_disk_under_stdout_is_a_sentence(kernel: ScriptedKernel) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "unios", "ps"], stdout=full, stderr=subprocess.PIPE, timeout=60)
    assert done.returncode == 1 and done.stderr == b"unios: cannot write the output: No space left on device\n"


@pytest.mark.parametrize("words", [["--help"], ["help", "run"], ["ps", "--help"], ["--version"]])
def test_so_it_is_under_what_is_told_of_the_command_itself(home: Path, words: list[str]) -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-m", "unios", *words], stdout=full, stderr=subprocess.PIPE, timeout=30)
    assert (done.returncode, done.stderr) == (1, b"unios: cannot write the output: No space left on device\n")


def test_a_reader_that_went_away_is_no_error(kernel: ScriptedKernel) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "unios", "ps"], stdout=writing, stderr=subprocess.PIPE, timeout=60)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, b"")


def test_ps_imports_neither_click_nor_asyncio(kernel: ScriptedKernel) -> None:
    code = (
        "import sys, os; from unios.shell import main; main.execute(['ps', '-a']); "
        "print(sorted({'click', 'asyncio', 'rich', 'dataclasses', 'subprocess'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60)
    assert done.stdout.splitlines()[-1] == b"[]"
