"""Looking for devices, in folders that look like those of machines that have some."""

from pathlib import Path

import pytest

from unios.kernel.devices import Roots


class Machine:
    """Folders laid out as /dev, /sys and /proc are. Plain files stand for devices: nothing is ever opened."""

    def __init__(self, top: Path) -> None:
        self.top = top
        self.roots = Roots(str(top / "dev"), str(top / "sys"), str(top / "proc"))

    def file(self, path: str, text: str = "") -> None:
        place = self.top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n")

    def link(self, path: str, to: str) -> None:
        place = self.top / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(to)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_machine_without_any_of_those_folders_has_none(machine: Machine) -> None:
    assert machine.roots.look() == ()
    assert machine.roots.names() == ()


def test_nvidia_cards_have_names_uuids_and_the_files_that_all_of_them_need(machine: Machine) -> None:
    for name in ("nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm"):
        machine.file(f"dev/{name}")
    for minor in range(2):
        text = f"Model: \t\t Card {minor}\nGPU UUID: \t GPU-{minor}a-b\nDevice Minor: \t {minor}"
        machine.file(f"proc/driver/nvidia/gpus/0000:0{minor}:00.0/information", text)
    found = machine.roots.look()
    assert [(one.path, one.name, one.id) for one in found] == [("/dev/nvidia0", "Card 0", "GPU-0a-b"), ("/dev/nvidia1", "Card 1", "GPU-1a-b")]
    assert found[0].more == ("/dev/nvidiactl", "/dev/nvidia-uvm")


def test_an_amd_card_brings_its_card_file_and_kfd(machine: Machine) -> None:
    for name in ("dri/renderD128", "dri/card1", "kfd"):
        machine.file(f"dev/{name}")
    machine.file("sys/class/drm/renderD128/device/vendor", "0x1002")
    machine.file("sys/class/drm/renderD128/device/device", "0x744c")
    machine.file("sys/class/drm/renderD128/device/drm/card1/dev")
    machine.link("sys/class/drm/renderD128/device/driver", "../../bus/pci/drivers/amdgpu")
    (found,) = machine.roots.look()
    assert (found.kind, found.path, found.name, found.more) == ("gpu", "/dev/dri/renderD128", "AMD 0x744c (amdgpu)", ("/dev/dri/card1", "/dev/kfd"))


def test_a_serial_port_has_the_name_of_its_usb_device_and_the_path_that_lasts(machine: Machine) -> None:
    machine.file("dev/ttyUSB0")
    machine.file("dev/ttyUSB10")
    machine.file("dev/ttyUSB2")
    machine.link("dev/serial/by-id/usb-FTDI_FT232R-if00-port0", "../../ttyUSB2")
    machine.file("sys/devices/usb1/1-4/product", "FT232R")
    machine.file("sys/devices/usb1/1-4/manufacturer", "FTDI")
    machine.file("sys/devices/usb1/1-4/1-4:1.0/ttyUSB2/x")
    machine.link("sys/class/tty/ttyUSB2/device", str(machine.top / "sys/devices/usb1/1-4/1-4:1.0/ttyUSB2"))
    found = {one.path: one for one in machine.roots.look()}
    assert list(found) == ["/dev/ttyUSB0", "/dev/ttyUSB2", "/dev/ttyUSB10"]
    assert found["/dev/ttyUSB2"].name == "FTDI FT232R"
    assert found["/dev/ttyUSB2"].aliases == ("/dev/serial/by-id/usb-FTDI_FT232R-if00-port0",)


def test_the_console_is_nobodys_serial_port(machine: Machine) -> None:
    machine.file("dev/ttyS0")
    machine.file("dev/ttyS1")
    for name in ("ttyS0", "ttyS1"):
        machine.file(f"sys/class/tty/{name}/type", "4")
    machine.file("sys/class/tty/console/active", "tty0 ttyS0")
    assert [one.path for one in machine.roots.look()] == ["/dev/ttyS1"]


def test_a_camera_and_a_sound_card_are_found_once_each(machine: Machine) -> None:
    for number in range(2):
        machine.file(f"dev/video{number}")
        machine.file(f"sys/class/video4linux/video{number}/name", "HD Webcam")
        machine.file(f"sys/class/video4linux/video{number}/index", str(number))
    for name in ("controlC0", "pcmC0D0p", "pcmC0D0c", "pcmC1D0p", "timer"):
        machine.file(f"dev/snd/{name}")
    machine.file("sys/class/sound/card0/id", "PCH")
    found = machine.roots.look()
    assert [(one.kind, one.path, one.name) for one in found] == [("sound", "/dev/snd/controlC0", "PCH"), ("camera", "/dev/video0", "HD Webcam")]
    assert found[0].more == ("/dev/snd/pcmC0D0c", "/dev/snd/pcmC0D0p")


def test_what_comes_and_goes_shows_in_the_names(machine: Machine) -> None:
    before = machine.roots.names()
    machine.file("dev/ttyACM0")
    assert machine.roots.names() != before
    assert [one.path for one in machine.roots.look()] == ["/dev/ttyACM0"]
    (machine.top / "dev/ttyACM0").unlink()
    assert machine.roots.names() == before


def test_the_folders_of_this_machine_can_be_looked_at() -> None:
    assert all(one.path.startswith("/dev/") and Path(one.path).exists() for one in Roots().look())
