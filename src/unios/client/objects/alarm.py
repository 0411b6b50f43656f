"""Alarm: wakes a thread that polls its descriptor, a moment after somebody asked for that.

A thread that is woken at once takes the interpreter from whoever woke it, in the middle of what he does (twice 50 us of an answer that takes 100).
"""

import contextlib
import ctypes
import os
import time
from typing import Final

_libc = ctypes.PyDLL(None, use_errno=True)
"""Which keeps the interpreter: these calls do not block."""


class _Spec(ctypes.Structure):
    """struct itimerspec: the interval, then the first time, each in seconds and nanoseconds."""

    _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns")]


_libc.timerfd_settime.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.POINTER(_Spec), ctypes.c_void_p]
_NOW_NS: Final = 1


class Alarm:
    """Not armed at first. OSError if no descriptor is free."""

    def __init__(self, soon_s: float) -> None:
        self._soon, self._now = (_Spec(first_ns=ns) for ns in (int(soon_s * 1e9), _NOW_NS))
        self._is_set = False
        self.descriptor: int = _libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.descriptor < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))

    def soon(self) -> None:
        """Ring within `soon_s`. Takes no lock: a finalizer may call it."""
        if not self._is_set:
            self._set(self._soon)

    def now(self) -> None:
        """Ring at once."""
        self._set(self._now)

    def _set(self, spec: _Spec) -> None:
        self._is_set = True
        try:
            _libc.timerfd_settime(self.descriptor, 0, ctypes.byref(spec), None)
        except TypeError:  # the interpreter ends
            pass
        except BaseException:  # a signal's handler raises in the middle of it: whoever asks next shall not take it for set
            self._is_set = False
            _libc.timerfd_settime(self.descriptor, 0, ctypes.byref(spec), None)
            raise

    def heard(self) -> None:
        """Whoever polls is awake: what is asked for from now on rings again, and what was asked for before is to be looked for now."""
        with contextlib.suppress(OSError):  # it has not rung yet
            os.read(self.descriptor, 8)
        self._is_set = False  # last: else what is asked for before the reading, and has rung by then, is taken for set for ever

    def close(self) -> None:
        """Idempotent."""
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            with contextlib.suppress(OSError):
                os.close(descriptor)
