"""Users are names of the system: each machine has numbers of its own for them, and need not know them all."""

from typing import Any

import pytest

from tests.e2e.system import wait_for
from tests.live.machines import Lab
from tests.live.test_machines import process, start, wait_process

pytestmark = pytest.mark.live

WHO = "echo $(id -u) $(id -un) $(id -Gn) $HOME $USER; touch /tmp/mine && stat -c %U /tmp/mine; rm /tmp/mine"


def test_users_are_mapped_by_name(three: Lab) -> None:
    first, second, third = three.machines
    first.add_user("alice", 2001)
    second.add_user("alice", 3007)
    second.run("groupadd", "--gid", "4001", "lab")
    second.run("usermod", "-a", "-G", "lab", "alice")
    second.add_user("mallory", 2001)  # who has alice's number here is not alice
    as_alice = ("run", "--user", "alice", "--cwd", "/")
    assert first.unios(*as_alice, "--on", "n1", "sh", "-c", WHO).stdout.decode() == "2001 alice alice /home/alice alice\nalice\n"
    assert first.unios(*as_alice, "--on", "n2", "sh", "-c", WHO).stdout.decode() == "3007 alice alice lab /home/alice alice\nalice\n"
    lacking = third.unios(*as_alice, "--on", "n3", "true", check=False)
    assert lacking.returncode == 125
    assert lacking.stderr.decode() == "unios: n3: there is no user alice: add it there (useradd alice), or run it as another user\n"

    # One who is on one machine only: wherever the process is tried first, it comes to that machine.
    second.add_user("bob", 5005)
    start(second, "sleep", "1000", options=("--on", "n2"))  # so that n2 is the last to be tried
    assert third.unios("run", "--user", "bob", "--cwd", "/", "sh", "-c", "id -u; hostname").stdout == b"5005\nm2\n"
    nowhere = first.unios("run", "--user", "nobody-knows", "--cwd", "/", "true", check=False).stderr.decode()
    assert "n1, n3, n2: there is no user nobody-knows: add it there" in nowhere

    # His machine is lost: the process waits for a machine that knows him, and says what to do; it runs as soon as there is one.
    pid = start(second, "sleep", "1000", options=("--user", "bob", "--cwd", "/"))
    assert wait_process(first, pid, "runs", state="running")["node"] == "n2"
    second.die()

    def lacks(record: dict[str, Any]) -> bool:
        return record["state"] == "pending" and not record["node"] and "add it there (useradd bob)" in record["reason"]

    for_all = wait_for(
        lambda: [process(first, pid), process(third, pid)], lambda seen: all(map(lacks, seen)), "wherever one asks it says what it lacks"
    )
    assert [record["incarnation"] for record in for_all] == [2, 2]
    second.boot()
    second.unios("up")
    assert wait_process(first, pid, "runs again", state="running")["node"] == "n2"
