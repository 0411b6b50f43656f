"""Devices: what a request means, and who gets which."""

import random

import pytest

from unios.core.devices import matches, missing, mistake, parse, paths, taken_by
from unios.demands import Device

GPUS = tuple(Device("gpu", f"/dev/nvidia{n}", "a card") for n in range(3))
SERIAL = Device("serial", "/dev/ttyUSB0", aliases=("/dev/serial/by-id/usb-FTDI-1",))
ALL = (*GPUS, SERIAL)


@pytest.mark.parametrize(
    "text", ["", "GPU", "gpu:0", "gpu:-1", "gpu:1000", "gpu:2:3", "/etc/passwd", "/dev/../etc/passwd", "dev/x", "gpu ", "gpu:1\n", "/dev/a\0b"]
)
def test_a_request_that_means_nothing_is_told_so_and_matches_nothing(text: str) -> None:
    assert parse(text) is None
    assert mistake([text])
    assert matches([text], ALL) is None


def test_too_many_requests_are_refused() -> None:
    assert not mistake(["gpu"] * 16)
    assert mistake(["gpu"] * 17)


def test_a_kind_takes_the_first_free_ones() -> None:
    assert matches(["gpu"], ALL) == GPUS[:1]
    assert matches(["gpu:2"], ALL, {"/dev/nvidia0"}) == GPUS[1:]
    assert matches(["gpu:2"], ALL, {"/dev/nvidia0", "/dev/nvidia2"}) is None
    assert matches([], ALL) == ()


def test_what_is_asked_for_by_path_is_not_given_to_a_kind_before() -> None:
    assert matches(["gpu", "/dev/nvidia0"], ALL) == (GPUS[0], GPUS[1])
    assert matches(["gpu:3", "/dev/nvidia0"], ALL) is None


def test_a_device_is_found_by_its_lasting_name_too() -> None:
    assert matches(["/dev/serial/by-id/usb-FTDI-1"], ALL) == (SERIAL,)
    assert matches(["/dev/serial/by-id/usb-FTDI-1", "serial"], ALL) is None


def test_the_reason_tells_what_is_not_there_from_what_others_have() -> None:
    assert "no such device" in missing(["camera"], ALL, ())
    assert "other processes" in missing(["serial"], ALL, {"/dev/ttyUSB0"})
    assert missing(["serial"], ALL, ()) == ""


def test_no_device_is_ever_given_twice_whatever_is_asked() -> None:
    seed = random.randrange(1 << 30)
    dice = random.Random(seed)
    wishes = ["gpu", "gpu:2", "gpu:3", "serial", *(path for device in ALL for path in paths(device))]
    for _ in range(2_000):
        taken: list[str] = []
        while (given := matches(dice.choices(wishes, k=dice.randrange(1, 4)), ALL, taken)) is not None:
            taken += [device.path for device in given]
            assert len(set(taken)) == len(taken), f"seed {seed}"
        holders = [dice.choices(wishes, k=1) for _ in range(3)]
        held = [found for found in holders if matches(found, ALL) is not None]
        assert taken_by(ALL, held) <= {device.path for device in ALL}, f"seed {seed}"
