"""The system calls that Python does not have: clone3 with a chosen pid and namespaces, subreaper, death signal, a timer on CLOCK_BOOTTIME.

Never called in a process with threads. The child of `clone3` is a whole Python, as after os.fork.
"""

import contextlib
import ctypes
import os
import signal
from typing import Final

NEW_MOUNTS: Final = 0x00020000
NEW_USER: Final = 0x10000000
NEW_PIDS: Final = 0x20000000
SIBLING: Final = 0x00008000
"""CLONE_PARENT: the child's parent is the caller's."""
_PIDFD: Final = 0x1000
_INTO_CGROUP: Final = 0x2_0000_0000
_SYS_CLONE3: Final = 435
_NUMBERS: Final = {"x86_64": {"ioprio_get": 252, "keyctl": 250}, "aarch64": {"ioprio_get": 31, "keyctl": 219}}
"""Of system calls that have another number on each machine."""
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_PR_SET_CHILD_SUBREAPER: Final = 36
_CLOCK_BOOTTIME: Final = 7
_TFD_FLAGS: Final = os.O_NONBLOCK | os.O_CLOEXEC
_TFD_TIMER_ABSTIME: Final = 1
PIECE_BYTES: Final = 16 * 1024
"""Most files of the kernel are shorter; far more would be memory that malloc gets from Linux and gives back each time."""
_Arguments: Final = ctypes.c_uint64 * 11
_Tids: Final = ctypes.c_int * 1
_Times: Final = ctypes.c_long * 4

# PyDLL keeps the interpreter's lock during the call: a child that came to life without it would wait for it for ever.
_libc = ctypes.PyDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def _failed(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


def clone3(flags: int = 0, pid: int = 0, cgroup: int = -1) -> tuple[int, int]:
    """Fork into new namespaces; return (pid, pidfd) to the parent and (0, -1) to the child.

    `pid`: what the child's getpid() shall return in its pid namespace, 0 for any; needs the capabilities of that namespace's owner.
    `cgroup`: descriptor of a group of version 2 in which the child begins, -1 for none: to be moved there later takes a grace period of
    the kernel, often 10 ms. Raises OSError.
    """
    flags |= _INTO_CGROUP if cgroup >= 0 else 0
    pidfd, tids = ctypes.c_int(-1), _Tids(pid)
    arguments = _Arguments(
        *(flags | _PIDFD, ctypes.addressof(pidfd), 0, 0, 0 if flags & SIBLING else signal.SIGCHLD, 0, 0, 0),
        *((ctypes.addressof(tids), 1) if pid else (0, 0)),
        max(0, cgroup),
    )
    ctypes.pythonapi.PyOS_BeforeFork()
    found = _libc.syscall(ctypes.c_long(_SYS_CLONE3), ctypes.byref(arguments), ctypes.c_size_t(ctypes.sizeof(arguments)))
    if found == 0:
        ctypes.pythonapi.PyOS_AfterFork_Child()
        return 0, -1
    number = ctypes.get_errno()
    ctypes.pythonapi.PyOS_AfterFork_Parent()
    if found < 0:
        raise OSError(number, f"clone3: {os.strerror(number)}")
    os.set_inheritable(pidfd.value, False)
    return int(found), pidfd.value


def mount(source: bytes, target: bytes, kind: bytes | None, flags: int) -> None:
    if _libc.mount(source, target, kind, ctypes.c_ulong(flags), None):
        raise _failed(f"mount {os.fsdecode(target)}")


def enter(path: str, kind: int) -> None:
    """Move this process into the namespace at `path` (a file of /proc/PID/ns); `kind` as for clone. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(ctypes.c_int(descriptor), ctypes.c_int(kind)):
            raise _failed(f"enter {path}")
    finally:
        os.close(descriptor)


def write_kernel_file(path: str, text: str) -> None:
    """Write to a file of proc or of a cgroup: one write, nothing created. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def read_kernel_file(path: str) -> bytes:
    """Return what is in a file of proc or of a cgroup; a third of the time that `open` takes. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        data = piece = os.read(descriptor, PIECE_BYTES)
        while piece:
            piece = os.read(descriptor, PIECE_BYTES)
            data += piece
        return data
    finally:
        os.close(descriptor)


def lives(pid: int) -> bool:
    """Return whether there is a process of that number, a dead one that is not reaped yet included."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def become_subreaper() -> None:
    """From now on orphans among this process's descendants become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def die_with_parent() -> None:
    """Be killed when the parent ends. No leash by itself: a setuid program loses it, and children do not have it."""
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def name_process(name: str) -> None:
    """Set the short name that ps and top show."""
    _prctl(_PR_SET_NAME, name.encode()[:15])


def io_priority() -> int:
    """Return this process's priority of input and output as Linux packs it; -1 if that cannot be told here."""
    return _own_call("ioprio_get", 1, 0, 0)


def session_keyring() -> int:
    """Return the number of the keyring that this process's children inherit; -1 if there is none or that cannot be told here."""
    return _own_call("keyctl", 0, -3, 0)


def _own_call(name: str, *arguments: int) -> int:
    number = _NUMBERS.get(os.uname().machine, {}).get(name, -1)
    return int(_libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments))) if number >= 0 else -1


def _prctl(option: int, value: int | bytes) -> None:
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    if _libc.prctl(ctypes.c_int(option), argument, ctypes.c_ulong(0), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise _failed("prctl")


def give_memory_back() -> None:
    """Return to Linux what malloc holds and nobody uses: a fork would have to share it too. Does nothing where malloc has no such call."""
    with contextlib.suppress(AttributeError):
        _libc.malloc_trim(ctypes.c_size_t(0))


class BootTimer:
    """A descriptor that becomes readable at a time of CLOCK_BOOTTIME: at once after a suspend that slept through it."""

    def __init__(self) -> None:
        self._fd = int(_libc.timerfd_create(_CLOCK_BOOTTIME, _TFD_FLAGS))
        if self._fd < 0:
            raise _failed("timerfd_create")

    def fileno(self) -> int:
        return self._fd

    def set(self, at_ns: int) -> None:
        """Fire at `at_ns` (the past: at once); 0 disarms."""
        at_ns = min(at_ns, 2**62)
        value = _Times(0, 0, at_ns // 1_000_000_000, at_ns % 1_000_000_000)
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise _failed("timerfd_settime")

    def clear(self) -> None:
        """Take notice that it fired."""
        try:
            os.read(self._fd, 8)
        except BlockingIOError:
            pass
