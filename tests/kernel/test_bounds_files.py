"""Bounds in the files of either version, as laid out by Linux. With the real ones: test_bounds_of_trees.py, for the versions that this machine has."""

from pathlib import Path

import pytest

from unios.kernel.bounds import NONE, Asked, Bounds
from unios.kernel.hierarchies import KINDS, Hierarchy, settle

MIB = 1 << 20
FILES = {
    "v2": ("memory.max", "memory.swap.max", "pids.max", "cpu.weight", "cpu.max", "cgroup.procs"),
    "v1": ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "pids.max", "cpu.shares", "cpu.cfs_period_us", "cpu.cfs_quota_us", "cgroup.procs"),
}


class Files:
    """A group of one version, as files."""

    def __init__(self, top: Path, version: str, left_out: tuple[str, ...] = ()) -> None:
        self.group = top / "tree"
        self.group.mkdir()
        for name in FILES[version]:
            if name not in left_out:
                (self.group / name).touch()
        self.bounds = Bounds([Hierarchy(version, str(top), KINDS, True)], "tree", str(self.group) if version == "v2" else "")  # type: ignore[arg-type]

    def told(self) -> dict[str, str]:
        return {path.name: path.read_text() for path in self.group.iterdir() if path.read_text()}


ASKED = Asked(memory_bytes=64 * MIB, cpu_milli=2_500, cpu_milli_max=500, tasks=9)


@pytest.mark.parametrize(
    ("version", "expected"),
    [
        ("v2", {"memory.max": str(64 * MIB), "memory.swap.max": "0", "pids.max": "9", "cpu.weight": "250", "cpu.max": "50000 100000"}),
        (
            "v1",
            {
                "memory.limit_in_bytes": str(64 * MIB),
                "memory.memsw.limit_in_bytes": str(64 * MIB),
                "pids.max": "9",
                "cpu.shares": "2560",
                "cpu.cfs_period_us": "100000",
                "cpu.cfs_quota_us": "50000",
            },
        ),
    ],
)
def test_what_is_asked_for_is_written_in_the_words_of_the_version(tmp_path: Path, version: str, expected: dict[str, str]) -> None:
    files = Files(tmp_path, version)
    files.bounds.apply(ASKED)
    assert files.told() == expected


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_defaults_write_nothing_when_the_job_comes(tmp_path: Path, version: str) -> None:
    files = Files(tmp_path, version)
    files.bounds.apply(Asked())
    assert files.told() == {}


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_nothing_that_is_left_over_for_is_still_a_weight_that_linux_takes(tmp_path: Path, version: str) -> None:
    files = Files(tmp_path, version)
    files.bounds.apply(Asked(cpu_milli=0))
    assert files.told() == ({"cpu.weight": "1"} if version == "v2" else {"cpu.shares": "2"})


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_linux_that_does_not_count_swap_bounds_memory_all_the_same(tmp_path: Path, version: str) -> None:
    files = Files(tmp_path, version, ("memory.swap.max", "memory.memsw.limit_in_bytes"))
    files.bounds.apply(Asked(memory_bytes=64 * MIB))
    assert list(files.told().values()) == [str(64 * MIB)]


def test_a_bound_that_cannot_be_written_is_no_secret(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Files(tmp_path, "v2", ("memory.max",)).bounds.apply(ASKED)


def test_figures_of_version_2(tmp_path: Path) -> None:
    files = Files(tmp_path, "v2")
    (files.group / "cpu.stat").write_text("usage_usec 2500000\nuser_usec 1\n")
    (files.group / "memory.current").write_text("5000\n")
    (files.group / "memory.stat").write_text("anon 1\ninactive_file 2000\n")
    (files.group / "memory.peak").write_text("7000\n")
    (files.group / "memory.events").write_text("low 0\noom 4\noom_kill 3\noom_group_kill 0\n")
    one = files.bounds
    assert (one.cpu_ms(), one.memory_bytes(), one.memory_peak_bytes(), one.memory_kills()) == (2_500, 3_000, 7_000, 3)
    one.rest()
    assert one.cpu_ms() == 0, "what was used before the job is not the job's"


def test_figures_of_version_1(tmp_path: Path) -> None:
    files = Files(tmp_path, "v1")
    (files.group / "cpuacct.usage").write_text("2500000000\n")
    (files.group / "memory.usage_in_bytes").write_text("5000\n")
    (files.group / "memory.stat").write_text("cache 1\ninactive_file 2000\n")
    (files.group / "memory.max_usage_in_bytes").write_text("7000\n")
    (files.group / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    one = files.bounds
    assert (one.cpu_ms(), one.memory_bytes(), one.memory_peak_bytes(), one.memory_kills()) == (2_500, 3_000, 7_000, 3)


@pytest.mark.parametrize("text", ["", "x", "usage_usec", "usage_usec x", "\n\n", "oom_kill"])
def test_what_cannot_be_read_is_not_known_and_breaks_nothing(tmp_path: Path, text: str) -> None:
    files = Files(tmp_path, "v2")
    for name in ("cpu.stat", "memory.current", "memory.stat", "memory.peak", "memory.events"):
        (files.group / name).write_text(text)
    one = files.bounds
    assert (one.cpu_ms(), one.memory_bytes(), one.memory_peak_bytes(), one.memory_kills()) == (-1, -1, -1, -1)


def test_without_groups_nothing_is_known_and_nothing_is_done() -> None:
    NONE.apply(ASKED._replace(memory_bytes=0))
    assert (NONE.cpu_ms(), NONE.memory_bytes(), NONE.memory_peak_bytes(), NONE.memory_kills(), NONE.processes()) == (-1,) * 5
    assert settle("/nowhere", None) == ()
