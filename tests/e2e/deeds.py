"""Deeds: functions that the executor's tests have workers carry out. Imports little, since each worker does too."""

import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any


def square(x: int) -> int:
    return x * x


def slowly(x: int) -> int:
    time.sleep(0.001)
    return x * x


def me() -> tuple[int, str]:
    return os.getpid(), os.environ["UNIOS_NODE"]


def where(_ref: object = None) -> str:
    return os.environ["UNIOS_NODE"]


def put_here(size: int) -> Any:
    import unios

    return unios.put(bytes(size))


def read(ref: Any) -> int:
    return len(ref.get())


def loans_after_a_nested_task(executor: Any, ref: Any) -> int:
    """Return how many loans keep an object when a task that this one has submitted has had a reference to it, and nothing else has lent it."""
    from unios.client.objects.counts import ask

    while ask("loans", ref.id):
        time.sleep(0.05)
    executor.submit(read, ref).result()
    return int(ask("loans", ref.id))


def fork_and_come_back() -> tuple[int, int]:
    """Fork, and return in both processes."""
    before = os.getpid()
    os.fork()
    return before, os.getpid()


def die(number: int) -> None:
    os.kill(os.getpid(), number)


def end_the_parent() -> None:
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(40)


def die_once(marker: str) -> str:
    """Leave a mark and be killed; who finds the mark goes on."""
    try:
        with open(marker, "x"):
            pass
    except FileExistsError:
        return "the second time"
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def mark_and_wait(folder: str, name: str) -> str:
    """Say that it has begun, then wait until it may go on; not for ever, so that a test that fails ends."""
    Path(folder, name).touch()
    deadline = time.monotonic() + 30
    while not Path(folder, "go").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    return name


def until_cancelled(folder: str) -> str:
    """Say that it has begun, then go on until nobody waits for it."""
    import unios

    Path(folder, "begun").touch()
    deadline = time.monotonic() + 30
    while not unios.cancelling() and time.monotonic() < deadline:
        time.sleep(0.002)
    return "told" if unios.cancelling() else "not told"


class Odd(Exception):
    """Can be pickled and not be made again."""

    def __init__(self, one: int, other: int) -> None:
        super().__init__(f"{one} and {other}")


def fail(kind: str) -> None:
    if kind == "odd":
        raise Odd(1, 2)
    if kind == "exit":
        raise SystemExit(3)
    error = KeyError("no such key", 7)
    error.add_note("first note")
    error.add_note("second note")
    raise error


class Stubborn:
    """Cannot be pickled."""

    def __reduce__(self) -> Any:
        raise TypeError("it will not")


def make_stubborn() -> Stubborn:
    return Stubborn()


def half_an_answer() -> bytes:
    """Be killed when half of the answer is sent."""
    from unios.client.tasks.talk import Talk
    from unios.wire.parcels import Head, Part, head_of

    def say(self: Talk, head: Head, parts: list[Part]) -> None:
        data = head_of(head) + b"".join(map(bytes, parts))
        self.sock.sendall(data[: len(data) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    Talk.say = say  # type: ignore[method-assign,assignment]
    return bytes(3_000_000)


def large(size: int) -> pickle.PickleBuffer:
    return pickle.PickleBuffer(bytearray(size))


def eat(size: int) -> int:
    return len(bytearray(os.urandom(1024)) * (size // 1024))


_mark = ""


def mark() -> str:
    """Return what no other worker returns."""
    global _mark
    _mark = _mark or os.urandom(8).hex()
    return _mark


given: list[int] = []


def remember(number: int) -> None:
    given.append(number)


def remembered() -> list[int]:
    return given


def sum_of_squares(executor: Any, count: int) -> int:
    return sum(executor.map(square, range(count), chunksize=5, buffersize=2))


def fibonacci(executor: Any, n: int) -> int:
    if n < 2:
        return n
    both = executor.submit(fibonacci, executor, n - 1), executor.submit(fibonacci, executor, n - 2)
    return int(both[0].result() + both[1].result())


def with_an_executor_of_its_own(count: int) -> list[int]:
    import unios

    with unios.Executor(2) as own:
        return list(own.map(square, range(count)))


def touch(path: str) -> None:
    Path(path).touch()


def until_there(path: str) -> None:
    deadline = time.monotonic() + 30
    while not os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.002)


def touch_slowly(path: str, number: int) -> int:
    Path(path, str(number)).touch()
    time.sleep(0.2)
    return number


def cancel_own(executor: Any, folder: str) -> tuple[list[bool], list[int | None], bool, str]:
    """Return which of its own tasks were cancelled and what came of all; then what is said of one that has begun, and by it."""
    futures = [executor.submit(touch_slowly, folder, number) for number in range(8)]
    cancelled = [future.cancel() for future in futures]
    outcomes: list[int | None] = [None if future.cancelled() else future.result(20) for future in futures]
    begun = executor.submit(until_cancelled, folder)
    until_there(f"{folder}/begun")
    return cancelled, outcomes, begun.cancel(), begun.result(20)


def fork_and_submit(executor: Any) -> tuple[int, int]:
    """Return what a forked child finds out, as bits, and what the task goes on with."""
    future = executor.submit(time.sleep, 0.5)
    pid = os.fork()
    if not pid:
        found = 4 * (not future.cancel())
        for bit, work in ((1, lambda: executor.submit(abs, 1)), (2, lambda: future.result(1))):
            try:
                work()
            except RuntimeError:
                found += bit
        os._exit(found)
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    future.result(20)
    return found, executor.submit(abs, -5).result(20)
