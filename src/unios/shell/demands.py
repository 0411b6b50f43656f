"""What a person types about when and where a program runs, read into the types of unios/demands.py: durations, dependencies, arrays."""

import re
from typing import Final

from unios.demands import PRIORITY_DEFAULT, PRIORITY_MAX, After, Condition, Placing, Queueing
from unios.limits import TIME_LIMIT_MS_MAX, WAITING_MAX
from unios.shell.words import Given, Misused, Option

_CLOCK: Final = r"(?:([0-9]{1,18}):)?([0-9]{1,18}):([0-9]{2})"
_SPAN: Final = r"([0-9]{1,18})(ms|s|m|min|h|d)?"
_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000}
_AFTER: Final = r"([0-9]{1,9})(?::(ok|failed|ended))?"
_ARRAY: Final = r"([0-9]{1,18})-([0-9]{1,18})(?:%([0-9]{1,18}))?"
INDEX_MAX: Final = 999_999_999
DAY_MS: Final = 86_400_000

OPTIONS: Final = (
    Option("priority", "--priority", metavar="0-31", number=True, text="The higher goes first [default: 16]; over 16 for the privileged."),
    Option("time", "--time", metavar="TIME", text="End it when it has run for so long, as in 90, 10m, 2h, 1:30:00."),
    Option("after", "--after", metavar="PID[:ok|failed|ended]", many=True, text="Begin when that one has ended [default: ok, with exit code 0]."),
    Option("hold", "--hold", text="Let it wait until `unios release`."),
    Option("policy", "--policy", metavar="POLICY", text="Choose its node by this placement policy; see `unios policy`."),
    Option("label", "--label", metavar="NAME", text="A name for --near and --apart of others."),
    Option("near", "--near", metavar="LABEL|PID", many=True, text="Rather where such processes are."),
    Option("apart", "--apart", metavar="LABEL|PID", many=True, text="Rather where no such processes are."),
    Option("not_on", "--not-on", metavar="NODE", many=True, text="Never on this node."),
)
"""Of `run`."""


def duration_ms(text: str, option: str) -> int:
    """Return milliseconds; Misused if that is no length of time. A bare number is seconds."""
    clock = re.fullmatch(_CLOCK, text)
    span = re.fullmatch(_SPAN, text)
    if clock is not None:
        found = 1_000 * (int(clock[1] or 0) * 3_600 + int(clock[2]) * 60 + int(clock[3]))
    else:
        found = int(span[1]) * _MS[span[2] or "s"] if span is not None else 0
    if not found:
        raise Misused(f"{option} {text}: write it as 90 (seconds), 10m, 2h, 1d or 1:30:00")
    if found > TIME_LIMIT_MS_MAX:
        raise Misused(f"{option} {text}: at most {TIME_LIMIT_MS_MAX // DAY_MS}d; what has no limit needs no {option}")
    return found


def queueing(given: Given) -> Queueing:
    """Return when it is to run."""
    priority = given.number("priority", PRIORITY_DEFAULT)
    if priority > PRIORITY_MAX:
        raise Misused(f"--priority takes 0 to {PRIORITY_MAX}")
    limit = duration_ms(given.text("time"), "--time") if given.text("time") else 0
    array_limit = array(given)[2] if given.text("array") else 0
    return Queueing(priority, limit, tuple(map(_after, given.many("after"))), given.flag("hold"), array_limit=array_limit)


def _after(text: str) -> After:
    found = re.fullmatch(_AFTER, text)
    if found is None:
        raise Misused(f"--after {text}: write PID, PID:ok, PID:failed or PID:ended")
    condition: Condition = "failed" if found[2] == "failed" else "ended" if found[2] == "ended" else "ok"
    return After(int(found[1]), condition)


def placing(given: Given) -> Placing:
    """Return where it would rather run; Misused if that is nowhere."""
    pinned = given.text("on")
    if pinned and pinned in given.many("not_on"):
        raise Misused(f"--on {pinned} and --not-on {pinned} leave no node: leave one of them out")
    return Placing(given.text("policy"), given.many("not_on"), given.many("near"), given.many("apart"), given.text("label"))


def array(given: Given) -> tuple[int, int, int]:
    """Return the first and last index of --array and how many at a time (0: as fit); Misused if that is none."""
    text = given.text("array")
    found = re.fullmatch(_ARRAY, text)
    if found is None or int(found[1]) > int(found[2]) or (found[3] is not None and not int(found[3])):
        raise Misused(f"--array {text}: write FIRST-LAST, or FIRST-LAST%N for N at a time, as in 1-500%8")
    first, last, limit = int(found[1]), int(found[2]), int(found[3] or 0)
    if last - first >= WAITING_MAX:
        raise Misused(f"--array {text}: that would be {last - first + 1} elements, and at most {WAITING_MAX} may wait")
    if max(last, limit) > INDEX_MAX:
        raise Misused(f"--array {text}: numbers go up to {INDEX_MAX}")
    return first, last, limit
