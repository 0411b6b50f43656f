"""Joining on machines that differ: a firewall, a clock that is an hour off, another version, addresses that lead elsewhere."""

import json
import shutil
from typing import Any

import pytest

from tests.e2e.system import UNIOS, wait_for
from tests.live import machines
from tests.live.machines import Lab, Machine, lab
from tests.live.test_machines import nodes, start, wait_process
from unios.kernel import tokens

pytestmark = pytest.mark.live

_NEWER = """
import unios
unios.__version__ = "9.0.0"
import unios.wire.messages as messages
messages.PROTOCOL_MIN, messages.PROTOCOL_MAX = {low}, {high}
"""


def needs_machines() -> None:
    why = machines.missing() or ("" if shutil.which("cc") else "needs a C compiler, for a clock of the machine's own")
    if why:
        pytest.skip(f"no pseudo-machines here: {why}")


def status(machine: Machine) -> list[str]:
    """Return what the status warns of; it ends with 1 when that needs somebody."""
    warnings: list[str] = json.loads(machine.unios("status", "--json", check=False).stdout)["warnings"]
    return warnings


def close_door(machine: Machine) -> None:
    """A firewall that lets in what belongs to connections from inside, and ping, as most have it."""
    for line in (
        "add table inet filter",
        "add chain inet filter input { type filter hook input priority 0; policy drop; }",
        "add rule inet filter input iif lo accept",
        "add rule inet filter input ct state established accept",
    ):
        machine.run("nft", line)


def other_addresses(token: str, *addresses: str) -> str:
    text = tokens.decode(token)
    return tokens.encode(tokens.TokenText((*addresses, *text.addresses), text.fingerprint, text.secret))


def as_version(machine: Machine, low: int, high: int, *words: str) -> Any:
    """Run a command as another release of unios would: the same code, with another version and other protocols."""
    machine.run("mkdir", "-p", "/var/newer")
    machine.run("sh", "-c", 'echo "$0" > /var/newer/sitecustomize.py', _NEWER.format(low=low, high=high))
    return machine.run("env", "PYTHONPATH=/var/newer", "PYTHONDONTWRITEBYTECODE=1", UNIOS, *words, check=False)


def test_joining_from_behind_a_firewall_with_a_clock_an_hour_ahead() -> None:
    needs_machines()
    with lab(2) as built:
        try:
            _join_oddly(built)
        finally:
            for machine in reversed(built.machines):
                machine.unios("down", "--all", check=False)


def _join_oddly(built: Lab) -> None:
    first, second = built.machines
    first.unios("up", "--listen", "0.0.0.0")
    made = first.json("join", "--root")
    assert made["addresses"] == ["10.99.0.1:7117"]

    # Each address is tried in turn; of those that fail it is said why.
    second.give_clock()
    second.set_clock(3600)
    second.run("env", "UNIOS_HOME=/var/other", UNIOS, "up", "--listen", "127.0.0.1:7300")
    wrong = other_addresses(made["token"], "10.99.0.1:1", "127.0.0.1:7300")
    nowhere = tokens.decode(wrong)
    only_wrong = tokens.encode(tokens.TokenText(nowhere.addresses[:2], nowhere.fingerprint, nowhere.secret))
    refused = second.unios("join", only_wrong, check=False)
    assert refused.returncode == 75
    assert b"10.99.0.1:1: nothing listens there (refused)" in refused.stderr
    assert b"127.0.0.1:7300: who answers there is not the system that made the token" in refused.stderr
    second.run("env", "UNIOS_HOME=/var/other", UNIOS, "down", "--all")

    close_door(second)
    joined = second.unios("join", wrong).stderr.decode()
    assert "n1 cannot reach this machine at 10.99.0.2:7117 (no answer: a firewall drops it): open TCP port 7117 here" in joined
    assert "nft insert rule inet filter input tcp dport 7117 accept" in joined
    assert "the clock of this machine is 3,600 s ahead of that of the system: nothing of unios depends on it" in joined

    # It works all the same, and everybody is told of the clock.
    assert first.unios("run", "--on", "n2", "--", "hostname").stdout == b"m2\n"
    ahead = wait_for(lambda: [text for text in status(first) if "clock" in text], bool, "the clock is seen")
    assert ahead[0].startswith("the clock of n2 is 3,600 s ahead of that of n1") or ahead[0].startswith("the clock of n2 is 3,599 s ahead"), ahead
    assert "timedatectl set-ntp true" in ahead[0]
    assert any("the clock of n1 is 3,600 s behind that of n2" in text or "3,599 s behind" in text for text in status(second))
    pid = start(first, "sleep", "1000", options=("--on", "n2"))
    wait_process(first, pid, "runs", state="running")
    moving = start(second, "sleep", "1000")
    start(second, "sleep", "1000", options=("--on", "n1"))
    wait_process(second, moving, "runs", state="running")
    second.die()
    wait_process(first, moving, "runs on n1", state="running", node="n1")
    assert first.unios("run", "--cpus", "0", "--", "true").returncode == 0  # the cores of n1 are set aside by now


def test_another_version_is_told_what_to_do_on_both_sides(three: Lab) -> None:
    first, _second, third = three.machines
    token = first.json("join", "--root")["token"]
    third.unios("down", "--all")
    joins = as_version(third, 2, 3, "--home", "/var/another", "join", token)
    assert joins.returncode == 75
    apart = "n1 speaks protocol 1 to 1 (unios 0.1.0), this side 2 to 3 (unios 9.0.0): upgrade the older of the two, which is n1"
    assert apart in joins.stderr.decode()

    comes_back = as_version(third, 2, 3, "up")
    assert comes_back.returncode == 75
    assert "n3 is kept out of its system" in comes_back.stderr.decode() and "which is n" in comes_back.stderr.decode()
    links = wait_for(lambda: status(first), bool, "the other side")
    assert links
    why = first.run("cat", f"{first.home}/nodes/n1/run/why").stdout.decode()
    assert why == "n3 speaks protocol 2 to 3 (unios 9.0.0), this side 1 to 1 (unios 0.1.0): upgrade the older of the two, which is this side"

    assert as_version(third, 1, 2, "up").returncode == 0  # a newer one that speaks the old protocol too
    assert first.unios("run", "--on", "n3", "--", "hostname").stdout == b"m3\n"
    assert "n3 runs unios 9.0.0 and n1 0.1.0" in "\n".join(wait_for(lambda: status(first), lambda texts: "9.0.0" in str(texts), "it is seen"))
    assert nodes(first)["n3"]["version"] == "9.0.0"
