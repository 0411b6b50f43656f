"""Program: what a start is asked for, the last steps before the program's first instruction, and the sentences for what can go wrong there.

The steps are the launcher's, which has no thread and no loop. It becomes the user first and then looks for cwd and program, with that user's rights.
"""

import errno
import os
import resource
import signal
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, NoReturn

from unios.kernel import clone, descriptors, trees_protocol

PATH_DEFAULT: Final = "/usr/local/bin:/usr/bin:/bin"
_ID_MAX: Final = 2**32 - 2
_SHOWN_MAX: Final = 500
_PID_MAX: Final = 2**22
"""Linux's own bound; what pids the system gives is decided elsewhere."""


class Job(NamedTuple):
    """What to start; strings are as os.fsdecode makes them."""

    pid: int
    incarnation: int
    argv: list[str]
    env: dict[str, str]
    cwd: str
    uid: int
    gid: int
    groups: list[int]
    umask: int
    limits: dict[str, tuple[int, int]]
    stdin: bool
    on_partition: str
    lease: int = 0
    """The number of the node's lease under which this start was decided; under another one it is refused. 0: whatever it is."""
    terminal: tuple[int, int] = (0, 0)
    """Rows and columns of the terminal it gets; 0 for none."""
    tty: str = ""
    """That terminal's path: the init has made it."""
    bounds: dict[str, int] = {}
    """What it may use other than the default, as kernel/bounds.py names it."""
    denied: tuple[tuple[int, int], ...] = ()
    """Major and minor numbers of the devices that it may not open."""
    hold: bool = False
    """Whether output is kept for a reader who is about to come."""


class Refused(Exception):
    """The program cannot be started: (code, sentence)."""


def name_of(fields: dict[str, Any]) -> tuple[int, int]:
    """Return pid and incarnation of a spawn request. Raises Refused."""
    try:
        return int(fields["pid"]), int(fields["incarnation"])
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Refused("caller", f"the spawn request is malformed: {error!r}") from error


def parse(fields: dict[str, Any]) -> Job:
    """Return the job of a spawn request. Raises Refused with the field that is wrong."""
    try:
        job = Job(
            pid=int(fields["pid"]),
            incarnation=int(fields["incarnation"]),
            argv=[str(argument) for argument in fields["argv"]],
            env={str(name): str(value) for name, value in fields.get("env", ())},
            cwd=str(fields.get("cwd", "/")),
            uid=int(fields.get("uid", os.getuid())),
            gid=int(fields.get("gid", os.getgid())),
            groups=[int(group) for group in fields.get("groups", ())],
            umask=int(fields.get("umask", 0o022)),
            limits={str(name): (int(soft), int(hard)) for name, (soft, hard) in fields.get("limits", {}).items()},
            stdin=bool(fields.get("stdin", False)),
            on_partition=str(fields.get("on_partition", "replace")),
            lease=int(fields.get("lease", 0)),
            terminal=_window(fields.get("terminal", (0, 0))),
            tty=str(fields.get("tty", "")),
            bounds={str(name): int(value) for name, value in fields.get("bounds", {}).items()},
            denied=tuple((int(major), int(minor)) for major, minor in fields.get("denied", ())),
            hold=bool(fields.get("hold", False)),
        )
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        raise Refused("caller", f"the spawn request is malformed: {error!r}") from error
    _check(job)
    return job


def _check(job: Job) -> None:
    if not job.argv or not job.argv[0]:
        raise Refused("caller", "there is no program to run: argv is empty")
    if job.on_partition not in ("replace", "stop", "keep"):
        raise Refused("caller", f"on_partition is {job.on_partition!r}; it is one of replace, stop, keep")
    texts = (*job.argv, *job.env, *job.env.values(), job.cwd)
    if any("\0" in text for text in texts):
        raise Refused("caller", "an argument, a variable or the folder contains a zero byte, which Linux cannot pass on")
    if not all(map(_is_text, texts)):
        raise Refused("caller", "an argument, a variable or the folder contains what is neither text nor a byte")
    if any("=" in name or not name for name in job.env):
        raise Refused("caller", "a variable's name is empty or contains '='")
    if min(job.uid, job.gid, *job.groups, 0) < 0:
        raise Refused("caller", "a uid or gid is negative, which Linux takes for 'as it is'")
    if max(job.uid, job.gid, *job.groups) > _ID_MAX:
        raise Refused("caller", f"a uid or gid is over {_ID_MAX}")
    if not 0 <= job.umask <= 0o7777:
        raise Refused("caller", f"{job.umask:o} is no umask")
    if not 2 <= job.pid <= _PID_MAX or not 1 <= job.incarnation <= _ID_MAX:
        raise Refused("caller", f"pid {job.pid} or incarnation {job.incarnation} is out of range")
    for name in job.limits:
        if not hasattr(resource, f"RLIMIT_{name.upper()}"):
            raise Refused("limits", f"there is no limit called {name!r}")
    if any(not 0 <= value < 1 << 60 for value in job.bounds.values()):
        raise Refused("caller", "a bound of memory, processor time or processes is negative or absurd")
    mine = os.geteuid()
    if mine not in (0, job.uid):
        raise Refused("denied", f"this node runs as uid {mine} and cannot start a program of uid {job.uid}")


def _window(fields: Any) -> tuple[int, int]:
    rows, columns = fields
    return int(rows), int(columns)


def _is_text(text: str) -> bool:
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        return False
    return True


def rehearse() -> None:
    """Go once through what a job will need, so that the pages that this touches are this process's own before the job is there."""
    fields = {"pid": 2, "incarnation": 1, "argv": ["/"], "env": [["PATH", "/"]], "uid": os.getuid()}
    for frame in trees_protocol.Decoder().feed(trees_protocol.encode(fields)):
        find(parse(frame.fields or {}))


def become(job: Job, stdio: Sequence[int], report: int, *, die_with_parent: bool) -> NoReturn:
    """Turn this child into the program, or write code and sentence as two lines to `report` and exit."""
    try:
        os.setsid()
        for descriptor, source in enumerate(stdio if not job.tty else [os.open(job.tty, os.O_RDWR)] * 3):  # so opened it becomes the session's
            os.dup2(source, descriptor)
        prepare(job)
        _set_limits(job.limits)  # as its user: what he may not raise, nobody raises for him
        if die_with_parent:
            clone.die_with_parent()
        path = find(job)
        for number in signal.valid_signals():  # what is handled becomes the default by itself
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        _execute(path, job)
    except Refused as refused:
        code, text = refused.args
    except OSError as error:
        code, text = "unavailable", f"the program could not be prepared: {error.strerror or error}"
    except BaseException as error:  # noqa: BLE001 the end of a process: the init tells what it was
        code, text = "internal", f"{type(error).__name__}: {error}"
    os.write(report, f"{code}\n{text[:2000]}".encode("utf-8", "surrogateescape"))
    os._exit(126)


def _execute(path: str, job: Job) -> NoReturn:
    try:
        os.execve(path, job.argv, job.env)
    except OSError as error:
        raise refusal(path, error) from error


def prepare(job: Job) -> None:
    """Give this process the program's umask, user and folder, and its bound of descriptors. Raises Refused, OSError."""
    descriptors.give_back()
    os.umask(job.umask)
    if os.geteuid() == 0:
        os.setgroups(job.groups)
        os.setresgid(job.gid, job.gid, job.gid)
        os.setresuid(job.uid, job.uid, job.uid)
    try:
        os.chdir(job.cwd)
    except OSError as error:
        raise Refused("cwd", f"cannot enter {shown(job.cwd)}: {error.strerror}") from error


def _set_limits(limits: dict[str, tuple[int, int]]) -> None:
    for name, (soft, hard) in limits.items():
        try:
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (soft, hard))
        except (OSError, ValueError, OverflowError) as error:
            raise Refused("limits", f"this node may not set the limit {name} to {soft}:{hard}: {error}") from error


def shown(text: str) -> str:
    """Return a name for a message: what is not UTF-8, and what a terminal would obey and not show, as \\xNN, as `unios ps` has it; a long one is cut."""
    if not text.isprintable():
        text = os.fsencode(text).decode("utf-8", "backslashreplace")
        text = "".join(one if one.isprintable() else f"\\x{ord(one):02x}" for one in text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def find(job: Job) -> str:
    """Return the path of the program, looked up as a shell does, with this process's rights. Raises Refused."""
    name, blocked = job.argv[0], ""
    if "/" in name:
        if not os.path.lexists(name):
            raise Refused("program-not-found", f"there is no program {shown(name)}")
        return name
    for folder in job.env.get("PATH", PATH_DEFAULT).split(":"):
        path = f"{folder or '.'}/{name}"
        if os.path.isfile(path):
            if os.access(path, os.X_OK, effective_ids=True):
                return path
            blocked = blocked or path
    if blocked:
        raise Refused("program-not-runnable", f"{shown(blocked)} is there but may not be executed: Permission denied")
    raise Refused("program-not-found", f"there is no program {shown(name)} in PATH")


def refusal(path: str, error: OSError) -> Refused:
    """Return what to say of a program that Linux did not execute."""
    name = shown(path)
    if error.errno in (errno.EAGAIN, errno.ENOMEM, errno.ENFILE, errno.EMFILE):
        return Refused("unavailable", f"there is no room for another process of this user here: {error.strerror}")
    if error.errno == errno.E2BIG:
        return Refused("too-big", "arguments and environment are larger than Linux passes to a program")
    if error.errno == errno.ENOEXEC:
        return Refused("program-not-runnable", f"{name} is neither a program nor a script with a #! line")
    if error.errno == errno.ENOENT:
        if os.path.exists(path):
            return Refused("program-not-runnable", f"{name} is there but the interpreter it names is not")
        return Refused("program-not-found", f"{name} is a link that leads nowhere")
    if os.path.isdir(path):
        return Refused("program-not-runnable", f"{name} is a folder, not a program")
    return Refused("program-not-runnable", f"{name} cannot be executed: {error.strerror}")
