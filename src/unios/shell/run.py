"""`unios run`: a program as if it ran here. Its bytes, its signals and its exit code are passed on exactly.

Exit codes: the program's; 128 + n if signal n ended it; 127 not found, 126 not runnable, 125 when unios itself failed, 2 for what
was typed wrong or names what there is not, before anything is run.
"""

import os
import pwd
import signal
import stat
from typing import TYPE_CHECKING

from unios.client import processes
from unios.client.flowing import Flowing, is_pipe
from unios.client.output import Anew, Passing, abandon, passing
from unios.counted import counted, is_or_are
from unios.errors import NodeUnknown, OutcomeUnknown, PeerRestarted, ProgramNotFound, ProgramNotRunnable, Unavailable, UniosError, to_wire
from unios.limits import RESTARTS_MAX
from unios.shell import carry, demands
from unios.shell.forward import Forwarder
from unios.shell.resources import OPTIONS, resources
from unios.shell.session import DESCRIPTORS, Session, Unwritable, move, tell, write
from unios.shell.words import Given, Misused, Option, Word
from unios.wire.operations import Chunk, ProcessView, Program, Submitted

if TYPE_CHECKING:
    from unios.client.feed import Feeder

FAILED = 125
BROKEN_PIPE = 141
ABANDON_S = 2.0
"""So long a `run` whose reader is gone waits for the program to end of SIGPIPE."""


def run(session: Session, given: Given) -> int:
    detached = given.flag("detach")
    many = bool(given.text("array") or given.text("batch"))
    if given.flag("terminal"):
        if many:
            raise Misused("-t gives one program a terminal: leave out --array and --batch")
        return _in_terminal(session, given, detached=detached)
    stdin = not detached and not many and not given.flag("no_stdin") and (given.flag("stdin") or _is_fed())
    if given.flag("stdin") and (detached or given.flag("no_stdin")):
        raise Misused("-i passes stdin on, which needs a command that stays: leave out -d and -n")
    if not given.arguments and not given.text("batch"):
        raise Misused("no program was named: write `unios run PROGRAM [ARGUMENT]...`; see `unios run --help`")
    wanted = program(given, stdin=stdin, hold=not detached and not given.text("array") and not given.text("batch"))
    carry.check(given)
    try:
        wanted = carry.take(session, given, wanted)
        if many:
            from unios.shell import batches

            return batches.run(session, given, wanted)
        if detached:
            return _detached(session, processes.submit(session.connection, wanted))
        return _foreground(session, wanted, quiet=given.flag("quiet"))
    except UniosError as error:
        tell(*to_wire(error), as_json=session.json)
        return code_of(error)


class StdinCut(OutcomeUnknown):
    """The program ended with 0, but not all of its stdin was passed on."""


def code_of(error: UniosError) -> int:
    """Return the exit code of a `run` that failed: its own only where a program's could not be meant, else 125."""
    return error.exit_code if isinstance(error, ProgramNotFound | ProgramNotRunnable | Misused | NodeUnknown | StdinCut) else FAILED


def _in_terminal(session: Session, given: Given, *, detached: bool) -> int:
    """Run it in a terminal of its own, with this one at it unless it is `detached`."""
    from unios.shell import attach, terminals

    attach.detach_keys(given)  # a mistake in them is told before anything runs
    wanted = terminals.described(program(given, stdin=True))
    carry.check(given)
    try:
        wanted = carry.take(session, given, wanted)
        if detached:
            return _detached(session, processes.submit(session.connection, wanted))
        staying = attach.Staying(session, given)
        try:
            code = staying.run(lambda: processes.submit(session.connection, wanted), lambda submitted: _explain(session, submitted))
        except Unavailable as error:
            if staying.submitted is None:
                raise
            raise parted(session, staying.submitted.pid, error) from error
        assert staying.submitted is not None
        carry.give_if_ended(session, wanted, staying.submitted.pid)
        return code
    except UniosError as error:
        tell(*to_wire(error), as_json=session.json)
        return code_of(error)


def _detached(session: Session, submitted: Submitted) -> int:
    if session.json:
        session.print_json({"pid": submitted.pid, "node": submitted.node, "state": submitted.state, "reason": submitted.reason})
    else:
        session.print(str(submitted.pid))
    _explain(session, submitted)
    _explain_failed(session, submitted)
    return 0


def _explain(session: Session, submitted: Submitted) -> None:
    if submitted.state == "pending" and submitted.reason and not session.json:
        session.note(f"{submitted.pid} is pending: {submitted.reason}")


def _explain_failed(session: Session, submitted: Submitted) -> None:
    if submitted.state == "failed" and not session.json:
        session.note(f"{submitted.pid} was not started: {submitted.reason}")


def _foreground(session: Session, wanted: Program, *, quiet: bool) -> int:
    with Forwarder(session) as forwarder:
        submitted = processes.submit(session.connection, wanted)
        forwarder.begin(submitted.pid)
        if not quiet:
            _explain(session, submitted)
        feeder = _feed(session, submitted) if wanted.stdin else None
        try:
            _stream(session, submitted, quiet=quiet)
        except BrokenPipeError:
            forwarder.pass_on(signal.SIGPIPE, tree=True)
            abandon(session.connection, submitted.pid, timeout_s=ABANDON_S)
            return BROKEN_PIPE
        except Unwritable:  # nobody can take what it says: as when its reader is gone
            forwarder.pass_on(signal.SIGPIPE, tree=True)
            abandon(session.connection, submitted.pid, timeout_s=ABANDON_S)
            raise
        except Unavailable as error:
            if not session.connection.anybody():
                raise parted(session, submitted.pid, error) from error
            session.note(str(error))
        try:
            view = processes.wait(session.connection, submitted.pid)
        except (Unavailable, OutcomeUnknown, PeerRestarted) as error:  # it was asked again for as long as anybody was there
            raise parted(session, submitted.pid, error) from error
    code = _ending(session, view, feeder)
    carry.give(session, wanted, submitted.pid)
    return code


def parted(session: Session, pid: int, error: UniosError) -> Unavailable:
    """Return what to say when nobody answers any more while a process waits or runs: who may be the cause, what became of it, what to type."""
    if session.connection.anybody():
        return Unavailable(f"nobody answers any more: {error}; {pid} goes on without this command, `unios wait {pid}` comes back to it")
    return Unavailable(
        f"no node runs on this machine any more (`unios down` stopped them, or they were killed) while this command waited for {pid}: "
        f"what had begun here was ended, what waits waits on; type `unios up`, then `unios wait {pid}`"
    )


def _feed(session: Session, submitted: Submitted) -> "Feeder":
    from unios.client.feed import Feeder  # with threads, that most commands do without

    return Feeder(session.connection.again(), submitted.pid, 0)


def _stream(session: Session, submitted: Submitted, *, quiet: bool) -> None:
    view = ProcessView(pid=submitted.pid, state=submitted.state, node=submitted.node, user="", argv=(), incarnation=submitted.incarnation)
    for said in passing(session.connection, submitted.pid, view=view, hold=True, flows=_flows()):
        if isinstance(said, Anew):
            if not quiet:
                session.note(str(said))
        else:
            show(session, said)


def _flows() -> frozenset[str]:
    """Return the streams that go to pipes."""
    return frozenset(stream for stream, descriptor in DESCRIPTORS.items() if is_pipe(descriptor))


def show(session: Session, chunk: Chunk | Passing | Flowing) -> None:
    """Write a chunk where the program wrote it."""
    if chunk.lost:
        session.note(f"{counted(chunk.lost, 'byte')} of its std{chunk.stream} before this {is_or_are(chunk.lost)} gone: only the last are kept")
    descriptor = DESCRIPTORS[chunk.stream]
    if isinstance(chunk, Flowing):
        move(descriptor, chunk)
    else:
        write(descriptor, chunk.data)


def _ending(session: Session, view: ProcessView, feeder: "Feeder | None") -> int:
    if session.json:
        import msgspec

        from unios.shell.ps import describe

        write(2, msgspec.json.encode(describe(view)) + b"\n")
    elif view.reason:
        session.note(view.reason)
    if view.exit_code is None:
        return FAILED
    if feeder is not None and view.exit_code == 0:
        if feeder.failure is not None:
            raise StdinCut(f"its stdin was cut off after about {counted(feeder.sent, 'byte')}: {feeder.failure}")
        if view.incarnation > 1 and feeder.missed():
            raise StdinCut("it ended well without its stdin: what was started again read none of it")
    return view.exit_code


def _is_fed() -> bool:
    """Say whether stdin holds something: not a terminal, not /dev/null, not closed."""
    try:
        kind = os.fstat(0)
        return not os.isatty(0) and not (stat.S_ISCHR(kind.st_mode) and kind.st_rdev == os.makedev(1, 3))
    except OSError:
        return False


def program(given: Given, *, stdin: bool, hold: bool = False) -> Program:
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
        hold=hold,
        restart=given.text("restart") or "on-loss",
        restarts_max=given.number("restarts_max", 10),
        on_partition=given.text("on_partition") or "replace",
        node=given.text("on"),
        resources=resources(given),
        queueing=demands.queueing(given),
        placing=demands.placing(given),
    )


def _environment(given: Given) -> tuple[tuple[bytes, bytes], ...]:
    environment = {} if given.flag("clear_env") else _without_account(dict(os.environb))
    for text in given.many("env"):
        name, equals, value = os.fsencode(text).partition(b"=")
        if not name:
            raise Misused(f"--env {text}: the name is missing; write NAME=VALUE")
        if equals:
            environment[name] = value
        elif name in os.environb:
            environment[name] = os.environb[name]
        else:
            raise Misused(f"--env {text}: it is not set here; write {text}=VALUE")
    return tuple(environment.items())


def _without_account(environment: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Leave out what merely says who the caller is here: the node says who the program's user is there. What was set otherwise goes along."""
    try:
        account = pwd.getpwuid(os.geteuid())
    except KeyError:
        return environment
    own = {b"HOME": account.pw_dir, b"USER": account.pw_name, b"LOGNAME": account.pw_name}
    return {name: value for name, value in environment.items() if name not in own or os.fsdecode(value) != own[name]}


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
        Option("terminal", "-t", "--terminal", text="Give it a terminal: for shells, editors, top. Ctrl-\\ twice detaches, with -d it starts so."),
        Option(
            "on_hangup",
            "--on-hangup",
            choices=("end", "detach"),
            text="With -t: what the closing of this terminal does to it [default: end].",
        ),
        Option("detach_keys", "--detach-keys", metavar="KEYS", text="With -t: keys that detach, as in ctrl-p,ctrl-q [default: Ctrl-\\ twice]."),
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
        *carry.OPTIONS,
        Option("on", "--on", metavar="NODE", text="Run on this node and no other."),
        *OPTIONS,
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
