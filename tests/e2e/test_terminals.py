"""Terminals as a person uses them, between nodes: windows, keys, detaching, watching, hanging up; sessions, forwarded ports, logs since a time."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import datetime
from pathlib import Path

import pytest

from tests.e2e.keyboard import Keyboard
from tests.e2e.system import UNIOS, System, wait_for
from tests.kernel.test_guard import NOBODY, runs_as

BASH = ("bash", "--norc", "--noediting")


def shell(system: System, *options: str, through: str = "n1", **window: int) -> Keyboard:
    """A bash on n2, from another node."""
    keyboard = Keyboard(system, "--node", through, "run", "-t", "--on", "n2", *options, "--", *BASH, **window)
    keyboard.wait_for(r"\$ ")
    return keyboard


def pid_in(keyboard: Keyboard) -> int:
    keyboard.type("echo pid=$UNIOS_PID.\r")
    return int(keyboard.wait_for(r"pid=(\d+)\.")[1])


def test_the_window_and_its_changes_reach_the_program(whole: System) -> None:
    with shell(whole, rows=31, columns=97) as person:
        person.type("stty size; tty; echo $TERM\r")
        person.wait_for(r"31 97\r\n/dev/pts/\d+\r\nxterm-256color")
        person.type("trap 'stty size' WINCH; echo set-$((1+1))\r")
        person.wait_for(r"set-2\r\n")
        person.resize(40, 120)
        person.type("sleep 0.3\r")
        person.wait_for(r"40 120\r\n")
        person.type("ps -o tty= -p $$; exit 7\r")
        person.wait_for(r"pts/\d+")
        assert person.ends() == 7


def test_ctrl_c_ends_the_job_in_the_foreground_and_ctrl_z_stops_it(whole: System) -> None:
    with shell(whole) as person:
        before = person.before
        # It starts nothing while it runs: a shell that is stopped between a vfork and its exec never stands still, there or anywhere.
        person.type("sh -c 'trap \"echo o$((1+1))n\" CONT; echo start-$((1+1)); while :; do read line; done'\r")
        person.wait_for("start-2\r\n")
        person.type("\x1a")
        person.wait_for(r"\[1\]\+ +Stopped")
        person.type("jobs; fg\r")
        person.wait_for(r"\[1\]\+ +Stopped.*sh -c.*o2n\r\n")  # bash names the job before it hands it the terminal: it is there when it goes on
        person.type("\x03")
        person.wait_for(r"\$ ")
        person.type("echo code=$?\r")
        person.wait_for("code=130\r\n")
        assert person.modes() != before
        person.type("exit\r")
        assert person.ends() == 0
        assert person.modes() == before


@pytest.mark.skipif(shutil.which("vim") is None, reason="vim is not installed")
def test_vim_edits_a_file_on_another_node(whole: System, tmp_path: Path) -> None:
    file = tmp_path / "edited"
    with Keyboard(whole, "run", "-t", "--on", "n3", "--cwd", str(tmp_path), "--", "vim", "-u", "NONE", "edited") as person:
        person.wait_for(r"New.*~.*~")
        person.type("ione line\x1b")
        person.wait_for("one line")
        person.type(":wq\r")
        assert person.ends() == 0
    assert file.read_text() == "one line\n"


def test_binary_output_passes_a_raw_terminal_unchanged(whole: System) -> None:
    script = "import sys,tty; tty.setraw(0); sys.stdout.buffer.write(b'<<'+bytes(range(256))*40+b'>>')"
    with Keyboard(whole, "run", "-t", "--on", "n2", "--", sys.executable, "-c", script) as person:
        assert person.wait_for(rb"<<(.*)>>")[1] == bytes(range(256)) * 40
        assert person.ends() == 0


def test_who_detaches_finds_it_again_from_a_third_node_and_several_watch_and_type(whole: System) -> None:
    with shell(whole) as first:
        pid = pid_in(first)
        before = first.before
        first.type("echo before-$((1+1))\r")
        first.wait_for("before-2\r\n")
        first.type("\x1c\x1c")
        first.wait_for(f"detached from {pid}")
        assert first.ends() == 0 and first.modes() == before
    assert whole.process(pid)["state"] == "running"
    with (
        Keyboard(whole, "--node", "n3", "attach", str(pid), rows=20, columns=70) as second,
        Keyboard(whole, "--node", "n2", "attach", "-r", str(pid)) as watcher,
    ):
        second.wait_for("before-2\r\n")
        watcher.wait_for("before-2\r\n")
        second.type("echo both-$((2+3))\r")
        second.wait_for("both-5\r\n")
        watcher.wait_for("both-5\r\n")
        second.resize(21, 71)
        watcher.type("exit 1\r")  # goes nowhere: it only watches
        second.type("sleep 0.1; stty size; exit 3\r")
        second.wait_for("21 71\r\n")
        assert (second.ends(), watcher.ends()) == (3, 3)


def test_a_full_screen_program_is_drawn_again_for_who_attaches(whole: System) -> None:
    script = (
        "import os,signal,sys\n"
        "def draw(*_):\n"
        " sys.stdout.write('drawn %dx%d;' % os.get_terminal_size()); sys.stdout.flush()\n"
        "signal.signal(signal.SIGWINCH, draw)\n"
        "sys.stdout.write('\\x1b[?1049h\\x1b[?1h\\x1b[?25l\\x1b[c' + 'x'*200000 + 'ready'); sys.stdout.flush()\n"
        "while 1: signal.pause()\n"
    )
    pid = int(whole.unios("run", "-d", "-t", "--on", "n2", "--", sys.executable, "-c", script).stdout)
    wait_for(lambda: whole.unios("logs", str(pid)).stdout, lambda said: said.endswith(b"ready"), "it has drawn")
    with Keyboard(whole, "attach", "--detach-keys", "ctrl-a,d", str(pid), rows=30, columns=90) as person:
        person.wait_for(r"\x1b\[\?1049h\x1b\[H\x1b\[2J")  # though that is no part of the output that is replayed
        person.wait_for(r"\x1b\[\?1h")
        person.wait_for("drawn 90x30;")
        person.type("\x01d")
        person.wait_for(r"\x1b\[\?25h.*\x1b\[\?1l.*\x1b\[\?1049l")
        person.wait_for("detached")
        assert person.ends() == 0 and b"\x1b[c" not in person.said
    whole.unios("kill", "-9", str(pid))


def test_a_closed_terminal_ends_a_full_screen_program_and_leaves_nothing(whole: System) -> None:
    with Keyboard(whole, "run", "-t", "--on", "n2", "--", "sh", "-c", "printf '\\033[?1049hpid=%s.' $UNIOS_PID; exec sleep 1002") as person:
        pid = int(person.wait_for(r"pid=(\d+)\.")[1])
        person.hang_up()
        assert person.ends() == 129
    ended = whole.wait_process(pid, lambda seen: seen["state"] == "exited", "ends")
    assert ended["signal"] == signal.SIGHUP
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x001002" in _bytes(entry)]


def test_a_closed_terminal_detaches_if_that_was_chosen(whole: System) -> None:
    script = "printf '\\033[?1049hpid=%s.' $UNIOS_PID; cat"
    with Keyboard(whole, "run", "-t", "--on", "n2", "--on-hangup", "detach", "--", "sh", "-c", script) as person:
        pid = int(person.wait_for(r"pid=(\d+)\.")[1])
        person.hang_up()
        assert person.ends() == 0
    assert whole.process(pid)["state"] == "running"
    with Keyboard(whole, "attach", str(pid)) as person:
        person.wait_for("pid=")
        person.type("still here\r")
        person.wait_for("still here\r\nstill here\r\n")
        person.type("\x04")
        assert person.ends() == 0


@pytest.mark.parametrize(("chosen", "code", "state"), [("end", 129, "exited"), ("detach", 0, "pending")])
def test_a_terminal_that_closes_while_its_process_waits_does_the_same(whole: System, chosen: str, code: int, state: str) -> None:
    with Keyboard(whole, "run", "-t", "--cpus", "4000", "--on-hangup", chosen, "--", "sleep", "1003") as person:
        pid = int(person.wait_for(r"(\d+) is pending")[1])
        person.hang_up()
        assert person.ends() == code
    assert whole.process(pid)["state"] == state
    whole.unios("cancel", str(pid), check=False)


def _bytes(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def test_a_command_that_is_ended_gives_the_terminal_back(whole: System) -> None:
    pid = whole.run_detached("cat", options=("-t",))
    with Keyboard(whole, "attach", str(pid)) as person:
        person.type("typed\r")
        person.wait_for("typed\r\ntyped\r\n")
        assert person.modes() != person.before
        person.command.send_signal(signal.SIGTERM)
        assert person.ends() == 0 and person.modes() == person.before
    whole.unios("kill", str(pid))


def test_a_suspended_command_gives_the_terminal_back_and_takes_it_again(whole: System) -> None:
    script = (
        "import os,signal,sys\n"
        "def draw(*_):\n"
        " os.write(1, b'drawn;')\n"
        "signal.signal(signal.SIGWINCH, draw)\n"
        "os.write(1, b'\\x1b[?1049hready')\n"
        "while 1: signal.pause()\n"
    )
    pid = int(whole.unios("run", "-d", "-t", "--on", "n2", "--", sys.executable, "-c", script).stdout)
    with Keyboard(whole, "attach", str(pid)) as person:
        person.wait_for("ready.*drawn;")
        raw = person.modes()
        person.command.send_signal(signal.SIGTSTP)
        person.wait_for(r"\x1b\[\?1049l")
        wait_for(lambda: Path(f"/proc/{person.command.pid}/stat").read_text().rsplit(")", 1)[1].split()[0], lambda state: state == "T", "it stands")
        assert person.modes() == person.before
        person.command.send_signal(signal.SIGCONT)
        person.wait_for(r"\x1b\[\?1049h.*drawn;")
        assert person.modes() == raw
        person.type("\x1c\x1c")
        person.wait_for("detached")
        assert person.ends() == 0
    whole.unios("kill", "-9", str(pid))


def test_a_process_without_a_terminal_shows_what_it_said_and_takes_what_is_typed(whole: System) -> None:
    with whole.start("run", "-i", "--on", "n2", "--", "sh", "-c", "echo pid=$UNIOS_PID; cat", stdout=-1) as starter:
        assert starter.stdout is not None
        pid = int(starter.stdout.readline()[4:])
        with Keyboard(whole, "--node", "n3", "attach", str(pid)) as person:
            person.wait_for(f"pid={pid}")
            person.command.send_signal(signal.SIGINT)
            assert person.ends() == 0
        starter.kill()
    whole.unios("kill", "-9", str(pid), check=False)


# sessions


def test_a_session_sees_the_pids_of_the_tree_and_passes_its_exit_code_on(whole: System) -> None:
    pid = whole.run_detached("sleep", "1003", options=("--on", "n2"))
    done = whole.unios("--node", "n3", "exec", "-T", str(pid), "sh", "-c", "cat /proc/$UNIOS_PID/cmdline; echo said >&2; exit 5", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (5, b"sleep\x001003\x00", b"said\n")
    assert whole.unios("exec", "-T", str(pid), "nonesuch", check=False).returncode == 127
    assert whole.unios("exec", "-T", str(pid), "--", "echo", "--", "x").stdout == b"-- x\n"
    with open("/etc/passwd", "rb") as file:
        assert whole.unios("exec", "-T", str(pid), "cat", stdin=file).stdout == Path("/etc/passwd").read_bytes()
    with Keyboard(whole, "exec", "-e", "PS1=$ ", str(pid), *BASH) as person:
        person.wait_for(r"\$ ")
        person.type(f"tty; kill -0 {pid} && echo seen; sleep 1004\r")
        person.wait_for(r"/dev/pts/\d+\r\nseen\r\n")
        whole.unios("kill", "-9", str(pid))
        assert person.ends() == 137
        assert person.modes() == person.before
    assert not [entry for entry in Path("/proc").glob("[0-9]*/cmdline") if b"sleep\x001004" in _bytes(entry)]
    assert whole.unios("exec", "-T", str(pid), "true", check=False).returncode == 1


def test_a_session_is_frozen_with_its_process_and_hung_up_with_its_connection(whole: System, tmp_path: Path) -> None:
    pid = whole.run_detached("sleep", "1005", options=("--on", "n2"))
    count = tmp_path / "count"
    with Keyboard(whole, "exec", str(pid), "sh", "-c", f"while :; do echo x >>{count}; sleep 0.02; done") as person:
        wait_for(lambda: count.exists() and count.stat().st_size, lambda size: size > 10, "it counts")
        whole.unios("freeze", str(pid))
        size = count.stat().st_size
        refused = whole.unios("exec", "-T", str(pid), "true", check=False)
        assert refused.returncode == 75 and b"thaw it first (unios thaw " in refused.stderr
        assert count.stat().st_size == size
        whole.unios("thaw", str(pid))
        wait_for(lambda: count.stat().st_size, lambda now: now > size, "it counts again")
        person.command.kill()
    wait_for(lambda: whole.unios("exec", "-T", str(pid), "ps", "-eo", "args").stdout, lambda said: b"while :" not in said, "the session is gone")
    whole.unios("kill", "-9", str(pid))


@pytest.mark.skipif(os.geteuid() != 0 or not runs_as(NOBODY), reason="needs root, and a Python that others can run")
def test_another_user_may_neither_watch_nor_type_nor_enter_nor_reach(whole: System) -> None:
    whole.home.chmod(0o711)  # others reach it, as they do a home in a usual place
    pid = whole.run_detached("cat", options=("-t", "--on", "n2"))
    other = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    for words in (("attach", str(pid)), ("exec", "-T", str(pid), "true"), ("logs", "--since", "1h", str(pid)), ("forward", str(pid), "80:0")):
        done = subprocess.run([*other, UNIOS, "--node", "n1", *words], env=whole.env, capture_output=True, stdin=subprocess.DEVNULL, timeout=60)
        assert done.returncode == 77 and b"belongs to root" in done.stderr, (words, done)
        assert done.stdout == b""
    reach = (
        "from unios.client.connection import Connection; from unios.wire.terminals import Reach\n"
        f"Connection(None, 'n1').begin('processes.reach', Reach({pid}, 80)).next(bytes, timeout_s=20)"
    )
    done = subprocess.run([*other, sys.executable, "-c", reach], env=whole.env, capture_output=True, timeout=60)
    assert b"Denied: process" in done.stderr and b"belongs to root" in done.stderr
    whole.unios("kill", "-9", str(pid))


# ports


def test_a_port_of_a_process_on_another_node_is_reachable_here(whole: System, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(3_000_000))
    script = (
        "import functools,http.server as h\n"
        f"server = h.ThreadingHTTPServer(('127.0.0.1', 0), functools.partial(h.SimpleHTTPRequestHandler, directory={str(tmp_path)!r}))\n"
        "print(server.server_port, flush=True); server.serve_forever()\n"
    )
    pid = whole.run_detached(sys.executable, "-c", script, options=("--on", "n3"))
    port = wait_for(lambda: whole.unios("logs", str(pid)).stdout, bool, "the server says its port").decode().split()[0]
    with whole.start("--node", "n1", "forward", str(pid), f"{port}:0", "1:0", stdout=-1, stderr=-1) as command:
        assert command.stdout is not None and command.stderr is not None
        url = command.stdout.readline().split()[0].decode()
        with urllib.request.urlopen(url + "file") as answer:
            assert answer.read() == (tmp_path / "file").read_bytes()
        dead = command.stdout.readline().split()[0].decode()
        host, _colon, number = dead.removeprefix("http://").rstrip("/").partition(":")
        with socket.create_connection((host, int(number))) as sock, contextlib.suppress(ConnectionError):
            assert sock.recv(1) == b""
        assert b"port 1 of process" in command.stderr.readline()
        whole.unios("kill", "-9", str(pid))
        assert command.wait(20) == 0


# logs since a time


def test_logs_since_a_time_leave_out_what_came_before(whole: System, tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = f"echo old; echo olderr >&2; while [ ! -e {go} ]; do sleep 0.02; done; echo new; sleep 1006"
    pid = whole.run_detached("sh", "-c", script, options=("--on", "n2"))
    wait_for(lambda: whole.unios("logs", str(pid)).stdout, bool, "it speaks")
    began = time.time()
    wait_for(time.time, lambda now: now > began + 1.3, "time passes")  # the index is coarse
    go.touch()
    wait_for(lambda: whole.unios("logs", str(pid)).stdout, lambda said: b"new" in said, "it speaks again")
    since = datetime.fromtimestamp(began + 1).isoformat()
    done = whole.unios("--node", "n3", "logs", "--since", since, str(pid))
    assert (done.stdout, done.stderr) == (b"new\n", b"")
    assert whole.unios("logs", "--since", "1h30m", str(pid)).stdout == b"old\nnew\n"
    assert whole.unios("logs", "--since", "yesterday", str(pid), check=False).returncode == 2
    whole.unios("kill", "-9", str(pid))


def test_a_signal_reaches_what_exec_opened_though_its_stdin_has_ended(whole: System) -> None:
    pid = whole.run_detached("sleep", "1000", options=("--cpus", "0"))
    inside = whole.start("exec", str(pid), "sh", "-c", "echo there; exec sleep 1000", stdout=subprocess.PIPE)
    assert inside.stdout is not None and inside.stdout.readline() == b"there\n"
    inside.terminate()
    assert inside.wait(20) == 143
    inside.stdout.close()
    whole.unios("kill", str(pid))
