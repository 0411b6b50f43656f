"""`unios renice`: how eagerly the processors serve processes, by Linux's nice value. It is remembered: a later incarnation begins with it."""

import re

from unios.client import processes
from unios.shell.session import Session
from unios.shell.signals import each
from unios.shell.words import Given, Misused, Option, Word

NICE_MIN = -20
NICE_MAX = 19
_NUMBER = re.compile(r"[+-]?[0-9]{1,3}")


def nice_of(text: str) -> int:
    """Return a nice value; Misused if it is none."""
    if _NUMBER.fullmatch(text) and NICE_MIN <= int(text) <= NICE_MAX:
        return int(text)
    raise Misused(
        f"{text!r} is no nice value: they go from {NICE_MIN} (favoured, for root) to {NICE_MAX} (last in line), and are written before the pids, "
        "as in `unios renice 10 301`"
    )


def renice(session: Session, given: Given) -> int:
    nice, pids = given.text("nice"), given.arguments
    if not nice:
        nice, *rest = given.arguments
        pids = tuple(rest)
    if not pids:
        raise Misused("write the nice value and then at least one pid, as in `unios renice 10 301`")
    number = nice_of(nice)
    return each(session, pids, lambda connection, pid: processes.renice(connection, pid, number), "reniced")


def _prepare(typed: list[str]) -> list[str]:
    """Let a negative value be a value and no option: `renice -5 301`."""
    end = typed.index("--") if "--" in typed else len(typed)
    for at, token in enumerate(typed[:end]):
        if re.fullmatch(r"-[0-9]{1,3}", token) and (at == 0 or typed[at - 1] not in ("-n", "--nice", "--node", "--home")):
            return [*typed[:at], f"--nice={token}", *typed[at + 1 :]]
    return typed


WORDS = {
    "renice": Word(
        renice,
        Option("nice", "-n", "--nice", metavar="N", text="The nice value; it may also stand before the pids."),
        argument="[N] PID...",
        least=1,
        prepare=_prepare,
        text="Give every Linux process of the trees the nice value N, -20 (favoured) to 19. "
        "Whoever is not root may only raise it. A process that is started again elsewhere keeps it.",
    )
}
