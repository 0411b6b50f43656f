"""`unios run`: a program as if it ran here. Its bytes, its signals and its exit code are passed on exactly.

Exit codes: the program's; 128 + n if signal n ended it; 127 not found, 126 not runnable, 125 when unios itself failed.
"""

import os
import signal
import stat

from unios.client import processes
from unios.client.feed import Feeder
from unios.client.output import Anew, follow
from unios.errors import OutcomeUnknown, ProgramNotFound, ProgramNotRunnable, Unavailable, UniosError, to_wire
from unios.limits import RESTARTS_MAX
from unios.shell import demands
from unios.shell.forward import Forwarder
from unios.shell.ps import describe
from unios.shell.session import Session, tell, write
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.operations import Chunk, ProcessView, Program, Submitted

FAILED = 125
BROKEN_PIPE = 141


def run(session: Session, given: Given) -> int:
    detached = given.flag("detach")
    many = bool(given.text("array") or given.text("batch"))
    stdin = not detached and not many and not given.flag("no_stdin") and (given.flag("stdin") or _is_fed())
    if given.flag("stdin") and (detached or given.flag("no_stdin")):
        raise Misused("-i passes stdin on, which needs a command that stays: leave out -d and -n")
    if not given.arguments and not given.text("batch"):
        raise Misused("no program was named")
    wanted = program(given, stdin=stdin)
    try:
        if many:
            from unios.shell import batches

            return batches.run(session, given, wanted)
        if detached:
            return _detached(session, processes.submit(session.connection, wanted))
        return _foreground(session, wanted, quiet=given.flag("quiet"))
    except Misused:
        raise
    except UniosError as error:
        tell(*to_wire(error), as_json=session.json)
        return error.exit_code if isinstance(error, ProgramNotFound | ProgramNotRunnable) else FAILED


def _detached(session: Session, submitted: Submitted) -> int:
    if session.json:
        session.print_json({"pid": submitted.pid, "node": submitted.node, "state": submitted.state, "reason": submitted.reason})
    else:
        session.print(str(submitted.pid))
    _explain(session, submitted)
    return 0


def _explain(session: Session, submitted: Submitted) -> None:
    if submitted.state == "pending" and submitted.reason and not session.json:
        session.note(f"{submitted.pid} is pending: {submitted.reason}")


def _foreground(session: Session, wanted: Program, *, quiet: bool) -> int:
    with Forwarder(session) as forwarder:
        submitted = processes.submit(session.connection, wanted)
        forwarder.begin(submitted.pid)
        if not quiet:
            _explain(session, submitted)
        feeder = Feeder(session.connection.again(), submitted.pid, 0) if wanted.stdin else None
        try:
            _stream(session, submitted, quiet=quiet)
        except BrokenPipeError:
            forwarder.pass_on(signal.SIGPIPE, tree=True)
            return BROKEN_PIPE
        except Unavailable as error:
            session.note(str(error))
        view = processes.wait(session.connection, submitted.pid)
    return _ending(session, view, feeder)


def _stream(session: Session, submitted: Submitted, *, quiet: bool) -> None:
    view = ProcessView(pid=submitted.pid, state=submitted.state, node=submitted.node, user="", argv=(), incarnation=submitted.incarnation)
    for said in follow(session.connection, submitted.pid, view=view, hold=True):
        if isinstance(said, Anew):
            if not quiet:
                session.note(str(said))
        else:
            show(session, said)


def show(session: Session, chunk: Chunk) -> None:
    """Write a chunk where the program wrote it."""
    if chunk.lost:
        session.note(f"{chunk.lost} bytes of its std{chunk.stream} before this are gone: only the last are kept")
    write(1 if chunk.stream == "out" else 2, chunk.data)


def _ending(session: Session, view: ProcessView, feeder: Feeder | None) -> int:
    if session.json:
        import msgspec

        write(2, msgspec.json.encode(describe(view)) + b"\n")
    elif view.state != "exited" and view.reason:
        session.note(view.reason)
    if view.exit_code is None:
        return FAILED
    if feeder is not None and feeder.failure is not None and view.exit_code == 0:
        raise OutcomeUnknown(f"its stdin was cut off after about {feeder.sent} bytes: {feeder.failure}")
    return view.exit_code


def _is_fed() -> bool:
    """Say whether stdin holds something: not a terminal, not /dev/null, not closed."""
    try:
        kind = os.fstat(0)
        return not os.isatty(0) and not (stat.S_ISCHR(kind.st_mode) and kind.st_rdev == os.makedev(1, 3))
    except OSError:
        return False


def program(given: Given, *, stdin: bool) -> Program:
    """Return the program that the options describe; Misused if they make no sense."""
    if given.number("restarts_max", 10) > RESTARTS_MAX:
        raise Misused(f"--restarts-max takes at most {RESTARTS_MAX}")
    return Program(
        argv=tuple(os.fsencode(argument) for argument in given.arguments),
        env=_environment(given),
        cwd=_cwd(given.text("cwd")),
        user=given.text("user"),
        umask=_umask(given.text("umask")),
        limits=dict(_limit(text) for text in given.many("limit")),
        stdin=stdin,
        restart=given.text("restart") or "on-loss",
        restarts_max=given.number("restarts_max", 10),
        on_partition=given.text("on_partition") or "replace",
        node=given.text("on"),
        resources=demands.resources(given),
        queueing=demands.queueing(given),
        placing=demands.placing(given),
    )


def _environment(given: Given) -> tuple[tuple[bytes, bytes], ...]:
    environment = {} if given.flag("clear_env") else dict(os.environb)
    for text in given.many("env"):
        name, equals, value = os.fsencode(text).partition(b"=")
        if not name:
            raise Misused(f"--env {text}: the name is missing; write NAME=VALUE")
        if equals:
            environment[name] = value
        elif name in os.environb:
            environment[name] = os.environb[name]
    return tuple(environment.items())


def _cwd(text: str) -> bytes:
    try:
        return os.path.join(os.getcwdb(), os.fsencode(text)) if text else os.getcwdb()
    except FileNotFoundError:
        if text.startswith("/"):
            return os.fsencode(text)
        raise Misused("the folder you are in does not exist any more: go to another or give --cwd /DIR") from None


def _umask(text: str) -> int:
    if not text:
        present = os.umask(0o077)
        os.umask(present)
        return present
    if not (text.isascii() and text.isdigit() and set(text) <= set("01234567") and int(text, 8) <= 0o777):
        raise Misused(f"--umask {text}: write it in octal, from 000 to 777")
    return int(text, 8)


def _limit(text: str) -> tuple[str, tuple[int, int]]:
    import resource

    name, _equals, value = text.partition("=")
    soft, _colon, hard = value.partition(":")
    if not hasattr(resource, f"RLIMIT_{name.upper()}"):
        known = sorted(known[7:].lower() for known in dir(resource) if known.startswith("RLIMIT_"))
        raise Misused(f"--limit {text}: no limit is called {name!r}; there are {', '.join(known)}")
    return name.lower(), (_amount(text, soft), _amount(text, hard or soft))


def _amount(whole: str, text: str) -> int:
    if text in ("unlimited", "-1"):
        return -1
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 63):
        raise Misused(f"--limit {whole}: write NAME=SOFT or NAME=SOFT:HARD, in numbers or `unlimited`")
    return int(text)


WORDS = {
    "run": Word(
        run,
        Option("detach", "-d", "--detach", text="Print its pid and return; see it with `ps`, `logs`, `wait`."),
        Option("stdin", "-i", "--stdin", text="Pass stdin on even if it is a terminal; otherwise it is passed on when it is not."),
        Option("no_stdin", "-n", "--no-stdin", text="Do not read stdin, as in a loop that reads it."),
        Option("quiet", "-q", "--quiet", text="Do not say on stderr that it waits or was started again."),
        Option("env", "-e", "--env", metavar="NAME[=VALUE]", many=True, text="Set a variable, or keep one with --clear-env."),
        Option("clear_env", "--clear-env", text="Begin with an empty environment instead of the caller's."),
        Option("cwd", "--cwd", metavar="DIR", text="Where it runs [default: here]."),
        Option("user", "--user", metavar="USER", text="As whom it runs [default: the caller]."),
        Option("umask", "--umask", metavar="OCTAL", text="Its umask [default: the caller's]."),
        Option("limit", "--limit", metavar="NAME=SOFT[:HARD]", many=True, text="A resource limit, as in nofile=1024."),
        Option(
            "restart",
            "--restart",
            choices=("never", "on-loss", "on-failure", "always"),
            text="When it runs again [default: on-loss].",
        ),
        Option("restarts_max", "--restarts-max", metavar="N", number=True, text="How often at most [default: 10]."),
        Option(
            "on_partition",
            "--on-partition",
            choices=("replace", "stop", "keep"),
            text="What happens to it on a node that is cut off [default: replace].",
        ),
        Option("on", "--on", metavar="NODE", text="Run on this node and no other."),
        *demands.OPTIONS,
        Option(
            "array", "--array", metavar="FIRST-LAST[%N]", text="Queue it once for each index, N at a time; it finds its own in UNIOS_ARRAY_INDEX."
        ),
        Option(
            "batch", "--batch", metavar="FILE", text="Queue each line of FILE (- for stdin) as a command line, after PROGRAM [ARGUMENT]... if given."
        ),
        argument="PROGRAM [ARGUMENT]...",
        rest=True,
        text="Run a program somewhere in the system, as if it ran here: its output, signals and exit code are passed on.",
    )
}
