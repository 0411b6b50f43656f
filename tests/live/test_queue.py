"""A queue of real work drained by three machines, one of which loses power in the middle."""

import json
from collections import Counter
from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab

pytestmark = pytest.mark.live

JOBS = 500
GZIP = (
    "f=$(find /usr/lib/python3* -name '*.py' -size +1k | sort | sed -n ${UNIOS_ARRAY_INDEX}p); "
    'test -n "$f" && gzip -9 -c "$f" | gunzip | cmp - "$f" && echo "$f"'
)


def test_every_job_of_a_queue_is_done_once_though_a_machine_dies_in_the_middle(three: Lab) -> None:
    first, _second, third = three.machines
    pids = json.loads(first.unios("run", "--json", "--array", f"1-{JOBS}", "--", "sh", "-c", GZIP).stdout)["pids"]

    def ended() -> list[dict[str, Any]]:
        return [process for process in first.json("ps", "-a") if process["pid"] in pids and process["state"] not in ("pending", "running")]

    wait_for(ended, lambda those: len(those) > JOBS // 4, "a quarter has ended", 120)
    third.die()
    done = wait_for(ended, lambda those: len(those) == JOBS, "all have ended", 150)
    assert [process for process in done if (process["state"], process["exit_code"]) != ("exited", 0)] == []
    accepted = Counter(event["pid"] for event in first.json("events") if event["kind"] == "exit" and event["pid"] in pids)
    assert {pid: count for pid, count in accepted.items() if count != 1} == {}, "an end was accepted twice"
    assert all(process["incarnation"] <= 2 for process in done)
