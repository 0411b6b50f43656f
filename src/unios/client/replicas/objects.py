"""Objects: make a long-lived object of an unmodified class, find one by its name, take one away."""

import contextlib
import hashlib
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from unios.client import processes
from unios.client.connection import Connection
from unios.client.messages.acceptor import me
from unios.client.replicas.caller import Caller
from unios.client.replicas.config import MAIN, Config, configure, is_importing_main, main_file
from unios.client.replicas.directory import Host, hosts, label_of
from unios.client.replicas.handle import Handle, handle_of
from unios.client.replicas.outcome import call_of, result
from unios.core.strategies import STRATEGIES
from unios.demands import Placing, Resources
from unios.errors import CallerError, DataLost, NotFound, OutcomeUnknown, Unavailable, UniosError
from unios.limits import OBJECT_CALL_MS, OBJECT_LEASE_MS, OBJECT_LOOK_MS, OBJECT_RETRY_MS, OBJECT_START_MS, RESTARTS_MAX, SUBMIT_TIMEOUT_MS
from unios.wire.operations import Program, Submit, Submitted

_MODULE: Final = "unios.client.replicas.host"


def distribute(
    kind: type,
    name: str,
    /,
    *args: Any,
    strategy: str = "primary-backup",
    copies: int | None = None,
    reads: Iterable[str] = (),
    lease: float = OBJECT_LEASE_MS / 1000,
    timeout: float | None = None,
    home: "Path | str | None" = None,
    node: str = "",
    **kwargs: Any,
) -> Handle:
    """Make `kind(*args, **kwargs)` a long-lived object called `name`, and return a handle to it.

    `strategy`: one-place, active, primary-backup or cached-reads; `copies`: how many processes hold it, on different nodes as far as there are some; `reads`: the
    names of the methods that change nothing, all others are taken to be writes. `lease`: seconds that a cache may be read without being asked for again.
    `timeout`: seconds for each call of the handle, None: for ever.

    Raises Misused for a configuration that makes no sense, CallerError if there is an object of that name or the class cannot travel, what the constructor
    raises, and Unavailable if its processes did not start.
    """
    if is_importing_main():
        raise CallerError('a program whose own classes are distributed is imported for them: put what it does under `if __name__ == "__main__":`')
    config = configure(kind, name, strategy, copies, reads, int(lease * 1000))
    call = _arguments(args, kwargs)
    caller = Caller(name, home=home, node=node, timeout=timeout)
    with caller.connection() as connection:
        if hosts(connection, name, returning=True) and _is_there(caller):
            raise CallerError(f"there is an object {name}: unios.find({name!r})")
        used: set[int] = set()
        try:
            for rank in range(config.copies):
                used.add(_start(connection, config, rank))
            _await_all(caller, config)
            failed = caller.ask("create", config, call, deadline=time.monotonic() + OBJECT_START_MS / 1000)
        except (Unavailable, OutcomeUnknown):
            _withdraw(connection, caller, config, used)
            raise
        if failed is not None:
            _withdraw(connection, caller, config, used)
            result(failed)
    return handle_of(caller, config)


def find(name: str, *, timeout: float | None = None, home: "Path | str | None" = None, node: str = "") -> Handle:
    """Return a handle to the object of that name. NotFound if there is none, DataLost if its last copy was lost. `timeout`: seconds for each call of the handle."""
    caller = Caller(name, home=home, node=node, timeout=timeout)
    try:
        return handle_of(caller, caller.config(OBJECT_START_MS / 1000))
    except OutcomeUnknown:
        raise NotFound(f"the object {name} is not ready: it is being made, or its nodes do not answer") from None


def discard(name: str, *, home: "Path | str | None" = None, node: str = "") -> None:
    """Take the object of that name away, with its state; the name is free when this returns, and no cache is read any more. NotFound if there is none.

    A cache that does not say within OBJECT_LOOK_MS that it has dropped it (its program is stopped, or cut off) is waited for no longer, and may be read until
    its lease is over.
    """
    caller = Caller(name, home=home, node=node)
    try:
        with caller.connection() as connection:
            if not hosts(connection, name, returning=True):
                raise NotFound(f"there is no object {name}")
            with contextlib.suppress(UniosError):  # it is lost, or not made yet
                if STRATEGIES[caller.config(OBJECT_LOOK_MS / 1000).strategy].reads == "caller":
                    caller.ask("retire", deadline=time.monotonic() + OBJECT_LOOK_MS / 1000)
            _end(connection, name)
    finally:
        caller.close()


def _arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    import pickle

    call_of("the constructor", args, kwargs)
    return pickle.dumps((args, kwargs), 5)


def _is_there(caller: Caller) -> bool:
    """Say whether there is an object, and not only processes of one that is being made."""
    try:
        caller.config(2 * OBJECT_RETRY_MS / 1000)
    except DataLost:
        raise
    except (NotFound, OutcomeUnknown):
        return False
    return True


def _start(connection: Connection, config: Config, rank: int) -> int:
    """Start the process of a copy unless it runs; return its pid. Two that do so at a time come to the same process: the request's id is made of the name."""
    present = hosts(connection, config.name, returning=True).get(rank)
    if present is not None:
        return present.pid
    program = _program(config, rank)
    processes.check(program)
    for attempt in range(RESTARTS_MAX):
        seed = f"{me()}\n{config.name}\n{rank}\n{attempt}"
        request = Submit(program, hashlib.sha256(seed.encode()).hexdigest())

        def submit(request: Submit = request) -> Submitted:
            placement = connection.service("placement", lambda: processes.placement_of(connection))
            submitted: Submitted = placement.call("submit", request, Submitted, timeout_s=SUBMIT_TIMEOUT_MS / 1000)
            return submitted

        try:
            submitted = connection.persist(submit)
        except OutcomeUnknown:
            continue  # that of an earlier object of this name, which nobody remembers
        if submitted.state not in processes.ENDED:
            return submitted.pid
    raise Unavailable(f"copy {rank} of {config.name} could not be started")


def _program(config: Config, rank: int) -> Program:
    paths = [os.path.abspath(path) for path in sys.path if path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys([os.getcwd() if "" in sys.path else "", *paths])).strip(os.pathsep)}
    main = main_file()
    if main is not None:
        environment[MAIN] = main
    for own in ("UNIOS_PID", "UNIOS_INCARNATION", "UNIOS_NODE"):
        environment.pop(own, None)
    return Program(
        argv=tuple(map(os.fsencode, (sys.executable, "-m", _MODULE, config.name, str(rank)))),
        env=tuple((os.fsencode(key), os.fsencode(value)) for key, value in environment.items()),
        cwd=os.getcwdb(),
        restart="on-failure",
        restarts_max=RESTARTS_MAX,
        resources=Resources(cpu_milli=0),
        placing=Placing(
            policy="spread",
            apart=tuple(label_of(config.name, other) for other in range(config.copies) if other != rank),
            label=label_of(config.name, rank),
        ),
    )


def _await_all(caller: Caller, config: Config) -> None:
    """Wait until every copy answers. Unavailable if one does not begin in time."""
    deadline = time.monotonic() + OBJECT_START_MS / 1000
    for rank in range(config.copies):
        while True:
            host: Host | None = caller.look().get(rank)
            if host is None:
                raise Unavailable(f"copy {rank} of {config.name} has ended as it began: its output (`unios logs`) says why")
            try:
                caller.port(host, 1.0)
                break
            except UniosError as error:
                if time.monotonic() >= deadline:
                    raise Unavailable(f"copy {rank} of {config.name}, process {host.pid}, did not begin: {error}") from error


def _withdraw(connection: Connection, caller: Caller, config: Config, pids: set[int]) -> None:
    """End the processes of an object that was not made: not if somebody else has made one in them meanwhile."""
    try:
        if not caller.ask("withdraw", config.token, deadline=time.monotonic() + OBJECT_CALL_MS / 1000):
            return
    except UniosError:
        pass  # nothing has answered for OBJECT_START_MS
    with contextlib.suppress(UniosError):  # what went wrong is told; `discard` takes them away
        _end(connection, config.name, pids)


def _end(connection: Connection, name: str, only: set[int] | None = None) -> None:
    """End the processes of an object, and see them gone."""
    found = [host.pid for host in hosts(connection, name, returning=True).values() if only is None or host.pid in only]
    for pid in found:
        while True:
            try:
                processes.signal(connection, pid, signal.SIGKILL, tree=True)
                break
            except NotFound:
                if pid not in {host.pid for host in hosts(connection, name, returning=True).values()}:
                    break
                time.sleep(OBJECT_RETRY_MS / 1000)  # it is about to be started again, and can be ended then only
    for pid in found:
        processes.wait(connection, pid, timeout_s=OBJECT_START_MS / 1000)
