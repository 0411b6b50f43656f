"""Living: the executors of this process and their threads: begun, waited for, ended with the program, and left alone in a fork of it."""

import os
import threading
import weakref
from typing import Any

from unios.client.tasks.engine import Engine
from unios.client.tasks.steward import Steward

_engines: "dict[Engine, tuple[Steward, threading.Thread, threading.Thread, Any]]" = {}
_killed_at_end: "weakref.WeakSet[Engine]" = weakref.WeakSet()
_over = False


def begin(engine: Engine, steward: Steward, workers: int | None, reference: "weakref.ref[Any]") -> None:
    """Start its threads. `reference`: is kept, so that it tells when the executor is forgotten. RuntimeError if Linux has no more threads: nothing is left."""
    threads = (
        threading.Thread(target=engine.run, name="unios tasks"),
        threading.Thread(target=_processes, args=(engine, steward, workers), name="unios tasks: processes"),
    )
    engine.thread = threads[0]
    _engines[engine] = (steward, *threads, reference)
    try:
        for thread in threads:
            thread.start()
    except RuntimeError:
        if threads[0].ident is not None:
            engine.post(engine.stop)
            threads[0].join()
        _release(engine)
        raise


def kill_at_end(engine: Engine) -> None:
    """Have its workers killed when the program ends, whatever they do."""
    _killed_at_end.add(engine)


def _processes(engine: Engine, steward: Steward, workers: int | None) -> None:
    """Be its second thread, and the last to end: take away what it has left, though nobody waits for that."""
    try:
        steward.run(workers)
    finally:
        assert engine.thread is not None
        engine.thread.join()
        _release(engine)


def forgotten(engine: Engine, _reference: object) -> None:
    """Nobody has the executor any more: it ends when what it was given is done."""
    if not engine.forked:
        engine.post(engine.stop)


def wait(engine: Engine) -> None:
    """Wait until it has ended. Not from its own threads, where it returns at once."""
    found = _engines.get(engine)
    if found is None or threading.current_thread() in found[1:3]:
        return
    for thread in found[1:3]:
        thread.join()


def _release(engine: Engine) -> None:
    found = _engines.pop(engine, None)
    if found is not None:
        engine.release()
        found[0].release()


def ending() -> bool:
    """Whether the program ends."""
    return _over


def _end() -> None:
    global _over
    _over = True
    for engine in list(_engines):
        if engine in _killed_at_end:
            engine.post(engine.clear)
            engine.post(engine.kill)
        engine.post(engine.stop)
    for engine in list(_engines):
        wait(engine)


def _forked() -> None:
    for engine, found in list(_engines.items()):
        engine.forked = True
        engine.release(end=False)
        found[0].release()
    _engines.clear()


getattr(threading, "_register_atexit")(_end)  # noqa: B009  before the program's threads are joined, as concurrent.futures has it
os.register_at_fork(after_in_child=_forked)
