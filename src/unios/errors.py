"""Every error that crosses a boundary of unios, sorted by who must act.

An error class exists only if some caller would react differently to it. Each has a stable wire code and exit code.
A message is a plain sentence: what happened, and what to do about it.
"""

from typing import ClassVar


class UniosError(Exception):
    """Base of all; never raised itself."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[int] = 70


class CallerError(UniosError):
    """The call is wrong: the caller must change it."""

    code = "caller"
    exit_code = 1


class Misused(CallerError):
    """What was typed or asked makes no sense: nothing was done, and nobody can do it."""

    code = "usage"
    exit_code = 2


class NotFound(CallerError):
    """What the call names does not exist."""

    code = "not-found"


class UserUnknown(NotFound):
    """The machine has no user of that name; another may have."""

    code = "user-unknown"
    exit_code = 1


class NodeUnknown(NotFound):
    """The system, or the machine where that is asked, has no node of that name: it was typed wrong, whatever the command is about."""

    code = "node-unknown"
    exit_code = 2


class Denied(CallerError):
    """The caller has no right to it."""

    code = "denied"
    exit_code = 77


class ProgramNotFound(CallerError):
    """No eligible node has the program."""

    code = "program-not-found"
    exit_code = 127


class ProgramNotRunnable(CallerError):
    """The program is there and cannot be executed."""

    code = "program-not-runnable"
    exit_code = 126


class Unavailable(UniosError):
    """Nothing was done; try later or elsewhere."""

    code = "unavailable"
    exit_code = 75


class NoRoom(Unavailable):
    """The node has set aside all that it has: the process waits in the queue again."""

    code = "no-room"


class DiskFull(Unavailable):
    """The disk of the store is full and nothing was done: a person must make room; who waits for that says so."""

    code = "disk-full"


class Elsewhere(Unavailable):
    """Who is asked has given up what he had for it, and nothing was done: a connection that is made anew leads to who has it."""

    code = "elsewhere"


class OutcomeUnknown(UniosError):
    """It may or may not have been done: retry only what is idempotent."""

    code = "outcome-unknown"
    exit_code = 76


class PeerRestarted(UniosError):
    """The peer is a new incarnation: what it held for the caller is gone."""

    code = "peer-restarted"
    exit_code = 76


class LeaseLost(PeerRestarted):
    """What the caller held is another's, or may be: it has not renewed its lease in time, so it begins anew."""

    code = "lease-lost"


class Deadlock(CallerError):
    """Everybody in a circle waits for the next: the caller has to give back what it holds."""

    code = "deadlock"


class Compacted(UniosError):
    """The revision asked for is gone, or of another generation: resynchronise by range."""

    code = "compacted"
    exit_code = 75


class DataLost(UniosError):
    """Data are gone for good: a person must decide."""

    code = "data-lost"
    exit_code = 74


class ProtocolError(UniosError):
    """The peer sent what no version of the protocol allows; the connection is closed."""

    code = "protocol"
    exit_code = 70


class InternalError(UniosError):
    """A defect of unios."""

    code = "internal"
    exit_code = 70


_CLASSES: tuple[type[UniosError], ...] = (
    CallerError,
    Misused,
    NotFound,
    UserUnknown,
    NodeUnknown,
    Denied,
    ProgramNotFound,
    ProgramNotRunnable,
    Unavailable,
    NoRoom,
    DiskFull,
    Elsewhere,
    OutcomeUnknown,
    PeerRestarted,
    LeaseLost,
    Deadlock,
    Compacted,
    DataLost,
    ProtocolError,
    InternalError,
)
_BY_CODE = {cls.code: cls for cls in _CLASSES}


def fresh(error: UniosError) -> UniosError:
    """Return the same error anew, to be raised where the old one stays in an object of the frame: with a traceback it would refer to itself by that frame,
    and to all that its callers have in their variables, until the garbage collector comes by. CPython before 3.13 may crash there if buffers are among it."""
    found = type(error)(*error.args)
    found.__cause__ = error.__cause__
    return found


def to_wire(error: BaseException) -> tuple[str, str]:
    """Return (code, sentence). An exception that is not ours becomes `internal` with its type named."""
    if isinstance(error, UniosError):
        return error.code, str(error)
    return InternalError.code, f"{type(error).__name__}: {error}"


def from_wire(code: str, text: str) -> UniosError:
    """Return the error for a wire code; an unknown code (a newer peer) becomes InternalError."""
    return _BY_CODE.get(code, InternalError)(text)
