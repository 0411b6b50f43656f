"""What the doctor says of what is between machines."""

from pathlib import Path

from unios.limits import CLOCK_OFFSET_MS_MAX
from unios.shell.doctor_machines import clocks, port, releases
from unios.wire.operations import LinkView, NodeInfo


def node() -> NodeInfo:
    addresses = ("10.0.0.1:7117", "[fd00::1]:7117")
    return NodeInfo("n1", "s", "m", 1, "0.1.0", 1, (), 2, "root", True, addresses[0], "here", 900, True, "v2", addresses=addresses)


def test_a_firewall_that_is_seen_is_told_with_the_command_that_opens_it(tmp_path: Path) -> None:
    open_ = port(node(), tmp_path)
    assert open_.ok and "TCP port 7117" in open_.found and "10.0.0.1:7117" in open_.found
    (tmp_path / "etc/ufw").mkdir(parents=True)
    (tmp_path / "etc/ufw/ufw.conf").write_text("ENABLED=yes")
    closed = port(node(), tmp_path)
    assert not closed.ok and closed.command == "ufw allow 7117/tcp" and closed.as_root


def test_a_clock_is_told_only_if_it_is_certainly_wrong() -> None:
    far = LinkView("n2", True, clock_ms=3_600_000.0, clock_doubt_ms=1.0)
    slow = LinkView("n3", True, clock_ms=CLOCK_OFFSET_MS_MAX + 10, clock_doubt_ms=20)
    (found,) = clocks(node(), (far, slow))
    assert found.found == "n2 3,600 s ahead" and "timedatectl" in found.mend
    (found,) = clocks(node(), (slow,))
    assert found.ok
    assert list(clocks(node(), (LinkView("n2", False),))) == []


def test_another_release_is_told() -> None:
    (found,) = releases(node(), (LinkView("n2", True, version="9.0.0"), LinkView("n3", True, version="0.1.0"), LinkView("n4", True)))
    assert found.found == "n2 9.0.0" and not found.ok
    assert list(releases(node(), (LinkView("n4", True),))) == []
