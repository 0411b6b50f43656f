"""Device kinds: what is offered, what is not, and what a program is told."""

import pytest

from unios.core.device_kinds import Facts, classify, environment
from unios.demands import Device


def kind(path: str, **shown: str) -> str:
    device = classify(Facts(path, shown))
    return device.kind if device is not None else ""


@pytest.mark.parametrize(
    ("path", "shown", "expected"),
    [
        ("/dev/nvidia0", {"model": "X"}, "gpu"),
        ("/dev/nvidiactl", {}, ""),
        ("/dev/dri/renderD128", {"vendor": "0x1002", "driver": "amdgpu"}, "gpu"),
        ("/dev/dri/renderD128", {"vendor": "0x10de", "driver": "nvidia"}, ""),
        ("/dev/dri/renderD128", {"vendor": "0x1af4", "driver": "virtio_gpu"}, ""),
        ("/dev/dri/renderD128", {}, ""),
        ("/dev/dri/card0", {"vendor": "0x1002"}, ""),
        ("/dev/ttyUSB0", {}, "serial"),
        ("/dev/ttyACM3", {}, "serial"),
        ("/dev/ttyS0", {"type": "4"}, "serial"),
        ("/dev/ttyS0", {"type": "4", "console": "yes"}, ""),
        ("/dev/ttyS1", {"type": "0"}, ""),
        ("/dev/ttyS2", {}, ""),
        ("/dev/tty1", {"type": "4"}, ""),
        ("/dev/video0", {"name": "HD Webcam", "index": "0"}, "camera"),
        ("/dev/video1", {"name": "HD Webcam", "index": "1"}, ""),
        ("/dev/video10", {"name": "bcm2835-codec-decode", "index": "0"}, ""),
        ("/dev/video2", {}, ""),
        ("/dev/snd/controlC0", {"id": "PCH"}, "sound"),
        ("/dev/snd/pcmC0D0p", {}, ""),
        ("/dev/sda", {}, ""),
        ("/dev/null", {}, ""),
    ],
)
def test_what_is_offered(path: str, shown: dict[str, str], expected: str) -> None:
    assert kind(path, **shown) == expected


def test_a_program_is_told_which_are_its_own_in_the_words_of_its_libraries() -> None:
    nvidia = [Device("gpu", f"/dev/nvidia{n}", id=f"GPU-{n}" if n else "") for n in range(2)]
    amd = [Device("gpu", f"/dev/dri/renderD{128 + n}", "AMD 0x1 (amdgpu)") for n in range(3)]
    serial = Device("serial", "/dev/ttyUSB0")
    present = [*amd, *nvidia, serial]
    assert environment([], present) == {}
    assert environment([serial], present) == {"UNIOS_DEVICES": "/dev/ttyUSB0"}
    assert environment(nvidia, present)["CUDA_VISIBLE_DEVICES"] == "0,GPU-1"
    told = environment([amd[1], amd[2]], present)
    assert told == {"UNIOS_DEVICES": "/dev/dri/renderD129:/dev/dri/renderD130", "ROCR_VISIBLE_DEVICES": "1,2"}
