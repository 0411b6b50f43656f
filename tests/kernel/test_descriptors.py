"""Room for many descriptors in unios's own parts, the given bound for programs; and none to be had spoils nothing but the one connection."""

import asyncio
import contextlib
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.kernel.rig import Rig
from tests.wire.pairs import bounded, until
from unios.client.aio import Kernel, stamp_of
from unios.kernel import runfiles
from unios.kernel.trees import Trees
from unios.limits import ACCEPT_REST_MS, DESCRIPTORS_MAX
from unios.wire.acceptor import Acceptor
from unios.wire.doors import connect_unix, listen_unix
from unios.wire.home import NodeFolder
from unios.wire.operations import Accepted

GIVEN = 300
HARD = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
WANTED = DESCRIPTORS_MAX if HARD == resource.RLIM_INFINITY else min(HARD, DESCRIPTORS_MAX)
pytestmark = pytest.mark.skipif(0 < WANTED <= GIVEN, reason="this machine gives too few descriptors to tell")


@contextlib.contextmanager
def soft_bound(number: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def bound_of(pid: int) -> int:
    line = next(line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if line.startswith("Max open files"))
    return int(line.split()[3])


@pytest.mark.parametrize("limits", [{}, {"core": [0, 0]}, {"nofile": [123, 200]}], ids=["spawned", "forked", "asked for"])
@pytest.mark.parametrize("options", [(), ("--no-namespaces", "--freezer", "signals")], ids=["", "without namespaces"])
def test_a_program_has_the_bound_that_it_would_have_without_unios(limits: dict[str, list[int]], options: tuple[str, ...]) -> None:
    with soft_bound(GIVEN):
        rig = Rig(*options)
    try:

        async def work(trees: Trees) -> None:
            assert bound_of(rig.guard.pid) == WANTED
            await rig.spawn(trees, 700, "sh", "-c", "ulimit -Sn", limits=limits)
            await rig.exit_of(700)
            assert int(rig.output(700)) == limits.get("nofile", [GIVEN])[0]

        rig.run(work)
    finally:
        rig.close()


PART = """
import os, resource, sys
from pathlib import Path
from unios.kernel import descriptors, parts
from unios.wire.home import NodeFolder
folder = NodeFolder(Path(sys.argv[1]))
parts.become(folder, "supervisor")
raised = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
if len(sys.argv) == 3:
    os.execv(sys.executable, [sys.executable, "-c", sys.argv[2], sys.argv[1]])
descriptors.give_back()
(folder.path / "seen").write_text(f"{raised} {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}")
"""


@pytest.mark.parametrize("again", [(), (PART,)], ids=["at first", "started again by the guard"])
def test_a_part_of_a_node_has_room_for_many(tmp_path: Path, again: tuple[str, ...]) -> None:
    subprocess.run(["sh", "-c", f'ulimit -Sn {GIVEN}; exec "$@"', "sh", sys.executable, "-c", PART, str(tmp_path), *again], check=True, timeout=30)
    assert (tmp_path / "seen").read_text() == f"{WANTED} {GIVEN}"


def test_a_descriptor_of_any_number_is_waited_for() -> None:
    child = subprocess.Popen(["sleep", "60"])
    low = os.pidfd_open(child.pid)
    with soft_bound(max(2_000, resource.getrlimit(resource.RLIMIT_NOFILE)[0])):
        os.dup2(low, 1_500)
    try:
        assert not runfiles.wait_readable(1_500, 0.01)
        child.kill()
        assert runfiles.wait_readable(1_500, 10)
    finally:
        child.kill()
        child.wait()
        os.close(low)
        os.close(1_500)


def test_a_listener_that_gets_no_descriptor_rests_and_then_goes_on(tmp_path: Path) -> None:
    async def work() -> None:
        listener = listen_unix(tmp_path / "sock", mode=0o600)
        taken: list[socket.socket] = []
        tried = 0

        class Counted:
            def __getattr__(self, name: str) -> Any:
                return getattr(listener, name)

            def accept(self) -> Any:
                nonlocal tried
                tried += 1
                return listener.accept()

        acceptor = Acceptor(Counted(), taken.append)  # type: ignore[arg-type]
        clients = [connect_unix(tmp_path / "sock") for _ in range(2)]
        lowest = os.dup(listener.fileno())
        with soft_bound(lowest):  # every lower one is in use
            await asyncio.sleep(2.5 * ACCEPT_REST_MS / 1000)
            assert not taken and 1 <= tried <= 4
        await until(lambda: len(taken) == 2)
        acceptor.close()
        acceptor.close()
        os.close(lowest)
        for sock in (*clients, *taken):
            sock.close()

    bounded(work)


# a service that listens on a port

STAMP = Accepted(1, "p", "ann", False, "n1")


def service(work: Callable[[socket.socket, list[Accepted]], Any]) -> None:
    """Do `work` with the kernel's end of a listener, and the stamps that were served."""

    async def main() -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        served: list[Accepted] = []
        kernel = Kernel(NodeFolder(Path("/nowhere")), role="test")

        async def serve(stamp: Accepted, sock: socket.socket, _handler: object) -> None:
            served.append(stamp)
            sock.close()

        kernel._serve = serve  # type: ignore[method-assign]
        task = asyncio.create_task(kernel._accept(theirs, None))  # type: ignore[arg-type]
        with ours:
            await work(ours, served)
        await task

    bounded(main)


@pytest.mark.parametrize(
    "packet", [msgspec.msgpack.encode(STAMP), b"\xc1 no stamp", b"\x81\xa4user\xa2\xff\xfe"], ids=["no descriptor", "garbage", "no text"]
)
def test_a_packet_that_is_no_connection_is_passed_over(packet: bytes) -> None:
    async def work(ours: socket.socket, served: list[Accepted]) -> None:
        ours.send(packet)
        with socket.socket() as sock:
            socket.send_fds(ours, [b"\xc1"], [sock.fileno()])
            socket.send_fds(ours, [msgspec.msgpack.encode(STAMP)], [sock.fileno()])
        await until(lambda: bool(served))
        assert served == [STAMP] and stamp_of(b"") is None

    service(work)
