"""What a process may demand: each bound is kept, and one more is refused."""

from typing import Any

import pytest

from unios.core import bounds
from unios.core.bounds import NAME_BYTES_MAX, NAMES_MAX, NUMBER_MAX
from unios.demands import PRIORITY_MAX, After, Placing, Queueing, Resources
from unios.errors import CallerError
from unios.limits import PID_MAX, TIME_LIMIT_MS_MAX

LONG = "x" * NAME_BYTES_MAX


def check(**fields: Any) -> None:
    kinds: tuple[type[Any], ...] = (Resources, Queueing, Placing)
    bounds.check(*(kind(**{name: value for name, value in fields.items() if name in kind.__struct_fields__}) for kind in kinds))


@pytest.mark.parametrize(
    ("name", "most", "more"),
    [
        *((name, NUMBER_MAX, NUMBER_MAX + 1) for name in ("cpu_milli", "memory_bytes", "cpu_milli_max", "tasks", "array_limit")),
        ("time_limit_ms", TIME_LIMIT_MS_MAX, TIME_LIMIT_MS_MAX + 1),
        *((name, 0, -1) for name in ("cpu_milli", "memory_bytes", "cpu_milli_max", "tasks", "time_limit_ms", "array_limit", "array", "index")),
        ("priority", PRIORITY_MAX, PRIORITY_MAX + 1),
        ("priority", 0, -1),
        ("array", PID_MAX, PID_MAX + 1),
        ("after", (After(300, "ok"),) * NAMES_MAX, (After(300, "ok"),) * (NAMES_MAX + 1)),
        ("label", LONG, LONG + "x"),
        ("policy", LONG, LONG + "x"),
        *((name, (LONG,) * NAMES_MAX, (LONG,) * (NAMES_MAX + 1)) for name in ("devices", "forbidden", "near", "apart")),
        *((name, (LONG,), (LONG[1:] + "ä",)) for name in ("devices", "forbidden", "near", "apart")),
    ],
)
def test_a_bound_is_kept_and_one_more_is_refused(name: str, most: Any, more: Any) -> None:
    check(**{name: most})
    with pytest.raises(CallerError):
        check(**{name: more})
