"""Specifications: from what a caller asks to run to what the system keeps of it. Says no to what no node could ever run; does nothing else."""

from collections.abc import Collection, Sequence

import msgspec

from unios.core import bounds, carries, devices, placement
from unios.core.processes import ProcessSpec
from unios.demands import PRIORITY_DEFAULT
from unios.errors import CallerError, Denied, Misused, ProgramNotRunnable
from unios.limits import ARGUMENT_BYTES_MAX, RESTARTS_MAX, SPEC_BYTES_MAX
from unios.services.foreign import installed
from unios.wire.operations import Accepted, Program


def spec_of(program: Program, user: str) -> ProcessSpec:
    """Return the specification of a program. Raises CallerError or ProgramNotRunnable for what no node could run."""
    if not program.argv or not program.argv[0]:
        raise Misused("no program was named")
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
    bounds.check(program.resources, program.queueing, program.placing)
    try:
        return msgspec.convert({**msgspec.structs.asdict(program), "user": user}, ProcessSpec, strict=False)
    except msgspec.ValidationError as error:
        raise CallerError(f"the program is described wrongly: {error}") from error


def check_policy(name: str) -> None:
    """Raise Misused if no placement policy has that name here. "" is the system's."""
    if name and name not in placement.POLICIES and name not in (own := installed()):
        raise Misused(f"there is no placement policy {name[:80]}; there are {', '.join((*placement.POLICIES, *own))}")


def check_kinds(requests: Sequence[str], kinds: Collection[str]) -> None:
    """Raise Misused for a request that means nothing, or a kind that is none of `kinds`: no node will ever have it."""
    wrong = devices.mistake(requests)
    if wrong:
        raise Misused(wrong)
    for request in map(devices.parse, requests):
        if request is not None and request.kind and request.kind not in kinds:
            raise Misused(f"there is no kind of device {request.kind}; there are {', '.join(sorted(kinds))}, or give a path in /dev")


def user_of(program: Program, stamp: Accepted) -> str:
    """Return as whom a program runs. Raises Denied if the caller may not ask for that, or for that priority."""
    user = program.user or stamp.user
    if user != stamp.user and not stamp.privileged:
        raise Denied(f"{stamp.user} may not run programs as {user}")
    if program.queueing.priority > PRIORITY_DEFAULT and not stamp.privileged:
        raise Denied(f"a priority over {PRIORITY_DEFAULT} is for the privileged, as a negative nice value is on Linux")
    return user
