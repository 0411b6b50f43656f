"""Specifications: from what a caller asks to run to what the system keeps of it. Says no to what no node could ever run; does nothing else."""

from typing import Final

import msgspec

from unios.core import carries
from unios.core.processes import ProcessSpec
from unios.demands import PRIORITY_DEFAULT, PRIORITY_MAX, Placing, Queueing, Resources
from unios.errors import CallerError, Denied, ProgramNotRunnable
from unios.limits import ARGUMENT_BYTES_MAX, PID_MAX, RESTARTS_MAX, SPEC_BYTES_MAX
from unios.wire.operations import Accepted, Program

NAMES_MAX: Final = 32
NAME_BYTES_MAX: Final = 100
NUMBER_MAX: Final = 1 << 53


def spec_of(program: Program, user: str) -> ProcessSpec:
    """Return the specification of a program. Raises CallerError or ProgramNotRunnable for what no node could run."""
    if not program.argv or not program.argv[0]:
        raise CallerError("no program was named")
    total = 0
    for text in (*program.argv, *(name + b"=" + value for name, value in program.env), program.cwd):
        if b"\0" in text:
            raise CallerError("an argument or environment string holds a zero byte; Linux cannot pass it on")
        if len(text) > ARGUMENT_BYTES_MAX:
            raise ProgramNotRunnable(f"argument list too long: one string has {len(text)} bytes, the limit is {ARGUMENT_BYTES_MAX}")
        total += len(text) + 1
    if total > SPEC_BYTES_MAX:
        raise ProgramNotRunnable(f"argument list too long: {total} bytes together, the limit is {SPEC_BYTES_MAX}")
    if program.restarts_max < 0 or program.restarts_max > RESTARTS_MAX:
        raise CallerError(f"restarts are limited to 0 to {RESTARTS_MAX}")
    if not 0 <= program.umask <= 0o777:
        raise CallerError("the umask is out of range")
    carries.check(program.carry)
    check_resources(program.resources)
    check_queueing(program.queueing)
    check_placing(program.placing)
    try:
        return msgspec.convert({**msgspec.structs.asdict(program), "user": user}, ProcessSpec, strict=False)
    except msgspec.ValidationError as error:
        raise CallerError(f"the program is described wrongly: {error}") from error


def user_of(program: Program, stamp: Accepted) -> str:
    """Return as whom a program runs. Raises Denied if the caller may not ask for that, or for that priority."""
    user = program.user or stamp.user
    if user != stamp.user and not stamp.privileged:
        raise Denied(f"{stamp.user} may not run programs as {user}")
    if program.queueing.priority > PRIORITY_DEFAULT and not stamp.privileged:
        raise Denied(f"a priority over {PRIORITY_DEFAULT} is for the privileged, as a negative nice value is on Linux")
    return user


def check_resources(resources: Resources) -> None:
    """Raise CallerError for what cannot be set aside."""
    numbers = (resources.cpu_milli, resources.memory_bytes, resources.cpu_milli_max, resources.tasks)
    if any(not 0 <= number <= NUMBER_MAX for number in numbers):
        raise CallerError("cores, memory and the bounds of both are numbers from 0 on")
    _check_names(resources.devices, "devices")


def check_queueing(queueing: Queueing) -> None:
    """Raise CallerError for what cannot be queued so."""
    if not 0 <= queueing.priority <= PRIORITY_MAX:
        raise CallerError(f"priorities go from 0 to {PRIORITY_MAX}")
    numbers = (queueing.time_limit_ms, queueing.array, queueing.index, queueing.array_limit)
    if any(not 0 <= number <= NUMBER_MAX for number in numbers) or queueing.array > PID_MAX:
        raise CallerError("time limits and the numbers of arrays go from 0 on")
    if len(queueing.after) > NAMES_MAX:
        raise CallerError(f"a process may wait for {NAMES_MAX} others at most; an array counts as one")


def check_placing(placing: Placing) -> None:
    """Raise CallerError for wishes that are none."""
    for names, what in ((placing.forbidden, "nodes"), (placing.near, "processes"), (placing.apart, "processes"), ((placing.label,), "labels")):
        _check_names(names, what)


def _check_names(names: tuple[str, ...], what: str) -> None:
    if len(names) > NAMES_MAX or any(len(name.encode("utf-8", "replace")) > NAME_BYTES_MAX for name in names):
        raise CallerError(f"{what}: at most {NAMES_MAX}, of {NAME_BYTES_MAX} bytes each")
