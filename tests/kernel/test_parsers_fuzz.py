"""Whatever arrives at a parser of the kernel's side: what it promises, or the one refusal that it promises, and nothing else."""

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernel.rig import Rig
from unios.client.aio import stamp_of
from unios.kernel import program, trees_protocol
from unios.kernel.exit_notes import NAME, Receiver, Sender
from unios.kernel.trees import Trees
from unios.wire.operations import Accepted

FEW = settings(max_examples=80, deadline=None)

# spawn requests

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from([float("inf"), float("nan"), 2**31, 2**32 - 1, 2**64, -1, 0])
    | st.text(st.characters(), max_size=8)
    | st.sampled_from(["\ud800", "\udcff", "\0", "", "12", "-1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
GOOD: dict[str, Any] = {
    "pid": 300,
    "incarnation": 1,
    "argv": ["true"],
    "env": [["PATH", "/bin"]],
    "cwd": "/",
    "uid": os.getuid(),
    "gid": 0,
    "groups": [0],
    "umask": 0o22,
    "limits": {"core": [0, 0]},
    "stdin": False,
    "on_partition": "replace",
    "lease": 1,
}


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(GOOD)), json_values, max_size=3), st.sets(st.sampled_from(sorted(GOOD)), max_size=3))
def test_a_spawn_request_is_a_job_or_refused(changes: dict[str, Any], missing: set[str]) -> None:
    """What is a job can be handed to Linux: no number or text of it fails before Linux has been asked."""
    fields = {name: value for name, value in (GOOD | changes).items() if name not in missing}
    fields = trees_protocol.decode(trees_protocol.encode(fields)[4:]).fields or {}
    with contextlib.suppress(program.Refused):
        program.name_of(fields)
    try:
        job = program.parse(fields)
    except program.Refused as refused:
        code, text = refused.args
        assert code in ("caller", "limits", "denied") and " " in text
        return
    for argument in (*job.argv, *job.env, *job.env.values(), job.cwd):
        assert b"\0" not in os.fsencode(argument)
    assert 0 <= min(job.uid, job.gid, *job.groups) <= max(job.uid, job.gid, *job.groups) < 2**32 - 1
    assert 0 <= job.umask <= 0o7777 and 2 <= job.pid <= 2**22 and job.incarnation >= 1
    os.umask(os.umask(job.umask))
    json.dumps(job._asdict())


BAD: list[dict[str, Any]] = [
    {"pid": float("inf")},
    {"incarnation": float("nan")},
    {"argv": ["\ud800"]},
    {"env": [["A", "\ud800"]]},
    {"cwd": "/\0"},
    {"uid": 2**64},
    {"umask": 2**80},
    {"groups": [2**40]},
    {"limits": {"core": [0]}},
    {"limits": {"\ud800": [0, 0]}},
    {"pid": 2**70},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_what_makes_no_sense_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(program.Refused):
        program.parse(GOOD | change)


def test_guard_and_launcher_outlive_what_makes_no_sense() -> None:
    rig = Rig()

    async def work(trees: Trees) -> None:
        guard = trees._guard
        assert guard is not None
        for number, change in enumerate(BAD):
            with pytest.raises(Exception, match=" "):
                await guard.ask("spawn", **{**GOOD, "pid": 700 + number, "uid": os.getuid(), **change})
        for operation in ("forget", "list", "no such thing"):
            with contextlib.suppress(Exception):
                await guard.ask(operation, pid=float("inf"), incarnation=[])
        await rig.spawn(trees, 750, "sleep", "60")
        with contextlib.suppress(Exception):
            await trees.init(750, 1).ask("signal", number=float("inf"))
        with contextlib.suppress(Exception):
            await trees.init(750, 1).ask("confirm", incarnation=1, lease=float("inf"))
        assert (await trees.init(750, 1).ask("stats"))["state"] == "running"
        assert trees._guard is guard and not guard.closed.is_set()

    try:
        rig.run(work)
    finally:
        rig.close()


# stamps

stamps = st.builds(Accepted, st.integers(0, 2**62), st.text(max_size=8), st.text(max_size=8), st.booleans(), st.text(max_size=4), st.integers(0, 9))


@given(stamps)
def test_a_stamp_comes_out_as_it_went_in(stamp: Accepted) -> None:
    assert stamp_of(msgspec.msgpack.encode(stamp)) == stamp


@given(stamps, st.integers(0, 200), st.integers(1, 255), st.integers(0, 3))
def test_a_damaged_stamp_is_a_stamp_or_none(stamp: Accepted, at: int, change: int, cut: int) -> None:
    data = bytearray(msgspec.msgpack.encode(stamp))
    data[at % len(data)] ^= change
    found = stamp_of(bytes(data[: len(data) - cut]))
    assert found is None or isinstance(found, Accepted)


@given(st.binary(max_size=100))
def test_bytes_that_are_no_stamp_are_none(data: bytes) -> None:
    stamp_of(data)
    assert stamp_of(b"\x91" * 50_000) is None


# exit notes

notes = st.one_of(
    st.binary(max_size=80),
    st.dictionaries(st.sampled_from(["event", "pid", "incarnation", "code"]), json_values | st.just("exit"), max_size=4).map(trees_protocol.encode),
    st.just(trees_protocol.encode({"event": "exit", "pid": 300, "incarnation": 1, "code": 0})),
    st.just(trees_protocol.encode_data(b"x")),
    st.just(b""),
)


@FEW
@given(st.lists(notes, max_size=12))
def test_a_note_is_the_exit_of_a_process_or_passed_over(tmp_path_factory: pytest.TempPathFactory, packets: list[bytes]) -> None:
    folder = str(tmp_path_factory.getbasetemp())
    heard: list[dict[str, Any]] = []
    receiver = Receiver(folder, heard.append)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sent = 0
        for packet in packets:
            with contextlib.suppress(OSError):  # its queue is full
                sock.sendto(packet, f"{folder}/{NAME}")
                sent += 1
        receiver.readable()
        Sender(folder).send({"event": "exit", "pid": 1, "incarnation": 1, "last": True})
        receiver.readable()
    receiver.close()
    assert heard[-1]["last"] is True and len(heard) <= sent + 1
    assert all(fields["event"] == "exit" and isinstance(fields["pid"], int) and isinstance(fields["incarnation"], int) for fields in heard)


def test_a_flood_of_notes_leaves_the_kernel_time_for_other_things(tmp_path: Path) -> None:
    heard = 0

    def again(_fields: dict[str, Any]) -> None:
        nonlocal heard
        heard += 1
        if heard < 5_000:
            sender.send(note)

    note = {"event": "exit", "pid": 1, "incarnation": 1}
    receiver, sender = Receiver(str(tmp_path), again), Sender(str(tmp_path))
    sender.send(note)
    for _turn in range(2):
        before = heard
        receiver.readable()
        assert 0 < heard - before < 1_000
    receiver.close()
