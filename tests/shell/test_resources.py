"""What is typed after --cpus, --memory and the others: right or refused with a sentence."""

from typing import Any

import pytest

from unios.demands import RESOURCES, Resources
from unios.shell.resources import resources, size
from unios.shell.usage import seconds
from unios.shell.words import Given, Misused


def given(**values: Any) -> Resources:
    return resources(Given(values))


def test_nothing_given_is_the_default() -> None:
    assert given() == RESOURCES


def test_what_is_typed_is_taken() -> None:
    found = given(cpus="0.5", cpus_max="2", memory="1.5G", tasks=7, device=("gpu:2", "/dev/ttyUSB0"))
    assert found == Resources(500, 3 << 29, ("gpu:2", "/dev/ttyUSB0"), 2_000, 7)
    assert given(cpus="0").cpu_milli == 0


@pytest.mark.parametrize(
    "values",
    [
        {"cpus": "x"},
        {"cpus": "-1"},
        {"cpus": "1e9"},
        {"cpus": "1.2345"},
        {"cpus_max": "0"},
        {"cpus_max": "0.001"},
        {"memory": "5"},
        {"memory": "-1G"},
        {"memory": "1Q"},
        {"memory": "9999999T"},
        {"memory": "²G"},
        {"tasks": 1},
        {"tasks": 1 << 40},
        {"device": ("GPU",)},
        {"device": ("gpu:0",)},
        {"device": ("/etc/passwd",)},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(Misused):
        given(**values)


@pytest.mark.parametrize(("text", "number"), [("1K", 1024), ("1k", 1024), ("2MiB", 2 << 20), ("2MB", 2 << 20), ("7", 7), ("0.5g", 1 << 29)])
def test_sizes(text: str, number: int) -> None:
    assert size("--memory", text) == number


@pytest.mark.parametrize(("ms", "text"), [(0, "0.0s"), (999, "1.0s"), (12_345, "12s"), (200_000, "3m20s"), (7_500_000, "2h05m")])
def test_processor_time_is_written_as_people_do(ms: int, text: str) -> None:
    assert seconds(ms) == text
