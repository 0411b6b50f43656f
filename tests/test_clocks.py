"""Who reads a wall clock is in docs/time.md, with what it costs if that is wrong: a new reader is a decision, and no decision of core/ is one."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "unios"
WALL = re.compile(r"time\.time\(|time\.time_ns\(|CLOCK_REALTIME|datetime\.now\(|(?<!_)wall_ms\(\)")
LISTED = re.compile(r"(?:kernel|services|store|client|wire|core)/(?:\w+/)*\w+\.py")


def readers() -> set[str]:
    found = (path for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).parts[0] != "shell")  # what is shown is no decision
    return {str(path.relative_to(SOURCE)) for path in found if WALL.search(path.read_text())}


def listed() -> set[str]:
    text = (ROOT / "docs" / "time.md").read_text()
    return set(LISTED.findall(text.split("## What rests on a wall clock")[1].split("\n## ")[0]))


def test_every_reader_of_a_wall_clock_is_listed_and_none_is_listed_in_vain() -> None:
    assert readers() == listed()


def test_no_decider_and_no_part_of_the_store_is_among_them() -> None:
    assert {path.split("/")[0] for path in readers()} <= {"kernel", "services"}
