"""Foreign: a placement policy of somebody else's, asked in a process of its own. It may hang, raise, answer nonsense, eat memory or die: that costs the
service one deadline at most, and the policy its place.

The process is started once and loads the policy (an entry point of the group `unios.placement`); until it has, the default is used. It reads
candidates and writes names, one line of JSON each. Asking waits at most POLICY_DEADLINE_MS, with the service's loop standing still: less than what a
supervisor takes for hanging, and it happens once, since a policy that fails is closed.
"""

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from typing import Any, Final

from unios.client import readiness
from unios.core.placement import Candidate, PolicyFailed
from unios.limits import POLICY_DEADLINE_MS, POLICY_START_MS

GROUP: Final = "unios.placement"
ANSWER_BYTES_MAX: Final = 1 << 20
TEXT_BYTES_MAX: Final = 65_536
"""What it may say of an error, instead of names."""
PR_SET_PDEATHSIG: Final = 1
"""linux/prctl.h"""


class Foreign:
    """One policy. `on_failure` is told why it could not be loaded, or `on_loaded` that it is; what goes wrong later is raised by `ask`."""

    def __init__(self, name: str, on_failure: Callable[[str], None], on_loaded: Callable[[], None] = lambda: None) -> None:
        self._name = name
        self._on_failure, self._on_loaded = on_failure, on_loaded
        self._started = time.monotonic()
        self._loaded = False
        self._buffer = b""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "unios.services.foreign", name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)

    def has_ended(self) -> bool:
        """Return whether its process is gone; it is reaped then."""
        return self._process.poll() is not None

    def is_ready(self) -> bool:
        """Return whether it has been loaded; looks without waiting."""
        if self._loaded:
            return True
        try:
            line = self._line(0.0)
        except (OSError, PolicyFailed) as error:
            self._on_failure(str(error))
            return False
        if line is None:
            if (time.monotonic() - self._started) * 1_000 > POLICY_START_MS:
                self._on_failure(f"it was not loaded within {POLICY_START_MS // 1000} s")
            return False
        if line != {"loaded": True}:
            self._on_failure(str(line.get("error", "it cannot be loaded")) if isinstance(line, dict) else "it cannot be loaded")
            return False
        self._loaded = True
        self._on_loaded()
        return True

    def ask(self, candidates: list[Candidate]) -> list[str]:
        """Return its answer, whatever that is. Raises PolicyFailed or OSError if there is none in time."""
        assert self._process.stdin is not None
        data = json.dumps([candidate._asdict() for candidate in candidates]).encode() + b"\n"
        at_most = len(data) + TEXT_BYTES_MAX  # all names are in what is asked
        deadline = time.monotonic() + POLICY_DEADLINE_MS / 1_000
        while data:
            _readable, writable = readiness.wait([], [self._process.stdin.fileno()], timeout_s=deadline - time.monotonic())
            if not writable:
                raise PolicyFailed(f"it takes nothing in within {POLICY_DEADLINE_MS} ms")
            data = data[os.write(self._process.stdin.fileno(), data) :]
        answer = self._line(max(0.0, deadline - time.monotonic()), at_most)
        if answer is None:
            raise PolicyFailed(f"no answer within {POLICY_DEADLINE_MS} ms")
        if isinstance(answer, dict):
            raise PolicyFailed(str(answer.get("error", "it failed"))[:500])
        if not isinstance(answer, list) or not all(isinstance(name, str) for name in answer):
            raise PolicyFailed("it did not answer with a list of names")
        return answer

    def _line(self, wait_s: float, at_most: int = ANSWER_BYTES_MAX) -> Any:
        """Return the next line decoded, None if there is none in time. One of more than `at_most` bytes is not waited for."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + wait_s
        while b"\n" not in self._buffer:
            readable, _writable = readiness.wait([self._process.stdout.fileno()], timeout_s=deadline - time.monotonic())
            if not readable:
                return None
            data = os.read(self._process.stdout.fileno(), 65_536)
            if not data:
                raise PolicyFailed("its process has ended")
            self._buffer += data
            if len(self._buffer) > ANSWER_BYTES_MAX:
                raise PolicyFailed("its answer has no end")
            if len(self._buffer) > at_most:
                raise PolicyFailed("it did not name each eligible node once: its answer is longer than all their names")
        line, _newline, self._buffer = self._buffer.partition(b"\n")
        with contextlib.suppress(ValueError):
            if (said := json.loads(line)) is not None:
                return said
        raise PolicyFailed("its answer is none")

    def close(self) -> None:
        """End its process. Idempotent."""
        with contextlib.suppress(OSError):
            self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._process.wait()


def installed() -> list[str]:
    """Return the names of the policies that are installed here."""
    return sorted({point.name for point in metadata.entry_points(group=GROUP)})


def load(name: str) -> Callable[[list[Candidate]], Any]:
    """Return the policy of that name. Raises PolicyFailed if there is none, and whatever its import raises."""
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            return point.load()  # type: ignore[no-any-return]
    raise PolicyFailed(f"no placement policy {name} is installed on this node (entry point group {GROUP})")


def main() -> int:
    """Load the policy, then answer line by line until stdin ends. What it prints does not get between the answers."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # one that hangs does not see that its service is gone
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(value: object) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        policy = load(sys.argv[1])
    except PolicyFailed as error:
        say({"error": str(error)})
        return 1
    except Exception as error:  # noqa: BLE001 it is anybody's
        say({"error": f"{type(error).__name__}: {error}"})
        return 1
    say({"loaded": True})
    for line in sys.stdin:
        try:
            fields = [Candidate(**{**each, "users": tuple(each["users"])}) for each in json.loads(line)]
            say(policy(fields))
        except Exception as error:  # noqa: BLE001 likewise
            say({"error": f"it raised {type(error).__name__}: {error}"})
    return 0


if __name__ == "__main__":
    sys.exit(main())
