"""A kernel that is hung, as one that is stopped: whoever would connect through it is told at his deadline, and may end. Both twins."""

import asyncio
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.scripted import hostile
from unios.client.messages import aio
from unios.client.messages.places import GRACE_S
from unios.client.messages.port import Port
from unios.errors import OutcomeUnknown, Unavailable, UniosError
from unios.wire.home import Home

LATE_S = 1.0
"""What a loaded machine may add."""


@pytest.fixture
def hung(tmp_path: Path) -> Iterator[Path]:
    """Nodes whose kernels take connections and say nothing, and are there for whoever looks."""
    over = threading.Event()
    servers: list[socket.socket] = []

    def say_nothing(_sock: socket.socket) -> None:
        over.wait(60)

    for name in ("n1", "n2"):
        servers.append(hostile(tmp_path, say_nothing, name))
        stat = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
        (Home(tmp_path).node(name).run / "kernel.json").write_text(json.dumps({"pid": os.getpid(), "start": int(stat[19])}))
    yield tmp_path
    over.set()
    for server in servers:
        server.close()


@pytest.mark.parametrize("left_s", [0.0, 0.3])
def test_a_blocking_caller_is_told_at_his_deadline(hung: Path, left_s: float) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable, match="does not answer"):
        Port("p", home=hung, timeout=left_s)
    assert time.monotonic() - began < left_s + GRACE_S + LATE_S


def test_a_caller_in_asyncio_is_told_at_his_deadline_and_his_program_ends_then(hung: Path) -> None:
    async def work() -> None:
        port = aio.AsyncPort("p", home=hung)
        with pytest.raises(UniosError) as caught:
            await port.options(timeout=0.3).call("anything")
        assert isinstance(caught.value, Unavailable | OutcomeUnknown)
        assert time.monotonic() - began < 0.3 + GRACE_S + LATE_S

    began = time.monotonic()
    asyncio.run(work())
    assert time.monotonic() - began < 0.3 + 2 * GRACE_S + LATE_S
