"""Who stops all of something stops what was begun meanwhile too."""

import subprocess
from pathlib import Path

from tests.e2e.system import wait_for
from tests.standstill import stop_all


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


def test_what_was_begun_after_a_look_is_stopped_as_well() -> None:
    begun = [subprocess.Popen(["sleep", "60"])]

    def look() -> list[int]:
        found = [each.pid for each in begun]
        if len(begun) < 3:
            begun.append(subprocess.Popen(["sleep", "60"]))
        return found

    try:
        assert stop_all(look) == [each.pid for each in begun] and len(begun) == 3
        wait_for(lambda: [state(each.pid) for each in begun], lambda states: states == ["T"] * 3, "all stand still")
    finally:
        for each in begun:
            each.kill()
            each.wait()
