import os
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.client.scripted import ScriptedKernel, hostile
from unios.client import nodes
from unios.client.channel import Channel
from unios.client.connection import Connection
from unios.errors import Denied, DiskFull, NotFound, OutcomeUnknown, ProtocolError, Unavailable, UniosError
from unios.limits import CLIENT_TOLD_MS, STREAM_WINDOW_BYTES
from unios.wire.frames import frame
from unios.wire.home import Home
from unios.wire.messages import Credit, Hello, Reply, encode, pack
from unios.wire.operations import NodeView
from unios.wire.peer import Answer, Call

HELLO = frame(encode(Hello(1, 1)))


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


async def one_node(call: Call) -> object:
    return (NodeView("n1", "ready", "m", 1),)


def test_where_nothing_runs_the_sentence_says_what_to_type(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="start one with `unios up`"):
        nodes.list_nodes(Connection(tmp_path))


def test_where_only_another_user_may_list_the_nodes_the_sentence_says_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.delenv("UNIOS_NODE", raising=False)
    monkeypatch.setattr("unios.wire.home.os.listdir", refuse)
    with pytest.raises(Denied, match="name one to talk to, as in `unios --node n1 ps`; for a program, UNIOS_NODE=n1 in its environment does it"):
        nodes.list_nodes(Connection(tmp_path))
    with pytest.raises(Denied, match="another user's"):
        Home(tmp_path).nodes()
    with pytest.raises(Unavailable, match="no unios node runs here"):
        nodes.list_nodes(Connection(tmp_path, "n1"))


def test_an_answer_comes_back_as_its_type(kernel: ScriptedKernel, connection: Connection) -> None:
    kernel.operations["node.list"] = one_node
    assert nodes.list_nodes(connection) == (NodeView("n1", "ready", "m", 1),)


def test_a_fault_is_raised_as_the_error_it_names(kernel: ScriptedKernel, connection: Connection) -> None:
    async def refuse(call: Call) -> object:
        raise NotFound("there is no such thing")

    kernel.operations["x.y"] = refuse
    with pytest.raises(NotFound, match="no such thing"):
        connection.call("x.y")


def test_an_answer_of_another_shape_is_a_protocol_error(kernel: ScriptedKernel, connection: Connection) -> None:
    async def nonsense(call: Call) -> object:
        return {"who": 1}

    kernel.operations["node.list"] = nonsense
    with pytest.raises(ProtocolError):
        nodes.list_nodes(connection)


def test_a_kernel_that_does_not_answer_is_outcome_unknown_at_the_deadline(kernel: ScriptedKernel, connection: Connection) -> None:
    async def sleep(call: Call) -> object:
        return await call.receive(bytes)

    kernel.operations["x.sleep"] = sleep
    with pytest.raises(OutcomeUnknown):
        connection.call("x.sleep", timeout_s=0.05)
    kernel.operations["node.list"] = one_node
    assert nodes.list_nodes(connection)


def test_a_connection_cut_after_asking_is_outcome_unknown_and_the_next_request_opens_another(kernel: ScriptedKernel, connection: Connection) -> None:
    async def cut(call: Call) -> object:
        call.peer.close()
        return None

    kernel.operations["x.cut"] = cut
    with pytest.raises(OutcomeUnknown):
        connection.call("x.cut")
    kernel.operations["node.list"] = one_node
    assert nodes.list_nodes(connection)
    assert [op for op, _node in kernel.asked].count("x.cut") == 1


def test_an_idempotent_request_outlives_a_restart_of_the_kernel(kernel: ScriptedKernel, connection: Connection) -> None:
    kernel.operations["node.list"] = one_node
    nodes.list_nodes(connection)
    kernel.stop()
    timer = threading.Timer(0.2, kernel.start)
    timer.start()
    assert nodes.list_nodes(connection)
    timer.join()


def test_an_idempotent_request_is_not_repeated_when_nothing_of_a_node_is_left(kernel: ScriptedKernel, connection: Connection) -> None:
    kernel.stop(dead=True)
    with pytest.raises(Unavailable, match="unios up"):
        nodes.list_nodes(connection)


def test_a_node_of_this_machine_is_asked_through_its_own_socket(kernel: ScriptedKernel, tmp_path: Path) -> None:
    second = ScriptedKernel(tmp_path, "n2")
    try:
        second.operations["node.list"] = one_node
        with Connection(tmp_path, "n2") as connection:
            nodes.list_nodes(connection)
        assert second.asked == [("node.list", "")] and kernel.asked == []
    finally:
        second.close()


def test_a_node_elsewhere_is_asked_through_any_kernel(kernel: ScriptedKernel, tmp_path: Path) -> None:
    kernel.operations["node.list"] = one_node
    with Connection(tmp_path, "n9") as connection:
        nodes.list_nodes(connection)
    assert kernel.asked == [("node.list", "n9")]


def test_a_hung_kernel_does_not_hide_one_that_answers(tmp_path: Path) -> None:
    stuck = threading.Event()
    server = hostile(tmp_path, lambda sock: (stuck.wait(20), None)[1], "n1")
    second = ScriptedKernel(tmp_path, "n2")
    try:
        second.operations["node.list"] = one_node
        with Connection(tmp_path) as connection:
            assert nodes.list_nodes(connection)
    finally:
        stuck.set()
        server.close()
        second.close()


@pytest.mark.parametrize("hung", ["n1", "n2", "both"])
def test_kernels_that_are_hung_keep_nobody_longer_than_his_deadline(tmp_path: Path, hung: str) -> None:
    stuck, tried = threading.Event(), list[str]()

    def say_nothing(name: str) -> Callable[[socket.socket], None]:
        def say(_sock: socket.socket) -> None:
            tried.append(name)
            stuck.wait(20)

        return say

    servers = [hostile(tmp_path, say_nothing(name), name) for name in ("n1", "n2") if hung in (name, "both")]
    other = ScriptedKernel(tmp_path, {"n1": "n2", "n2": "n1"}[hung]) if hung != "both" else None
    try:
        if other is not None:
            other.operations["node.list"] = one_node
        for left_s in (0.2, -1):
            tried.clear()
            began = time.monotonic()
            with Connection(tmp_path) as connection:
                if other is None:
                    with pytest.raises(Unavailable, match="the node n2 does not answer"):
                        connection.begin("node.list", until=began + left_s)
                else:
                    assert connection.begin("node.list", until=began + left_s).finish(timeout_s=10)[0]
            assert len(tried) <= len(servers)  # each once
            assert time.monotonic() - began < max(0.0, left_s) + 0.5
    finally:
        stuck.set()
        for server in servers:
            server.close()
        if other is not None:
            other.close()


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        struct.pack(">I", 1 << 31),
        frame(b"\xc1\xc1"),
        frame(encode(Hello(7, 9))),
        frame(encode(Credit(1, 5))),
        HELLO + HELLO,
        HELLO + frame(encode(Credit(1, -5, to_asker=True))),
        HELLO + frame(encode(Reply(1, pack(b""), descriptors=3))),
        HELLO[:-1],
        HELLO + frame(encode(Reply(1, pack("no"))))[:-2],
        b"",
    ],
)
def test_a_kernel_that_speaks_nonsense_gets_a_sentence(tmp_path: Path, said: bytes) -> None:
    def say(sock: socket.socket) -> None:
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)
        while sock.recv(4096):
            pass

    server = hostile(tmp_path, say)
    try:
        with Connection(tmp_path) as connection, pytest.raises(UniosError) as caught:
            connection.call("node.list", None, tuple[NodeView, ...], timeout_s=2)
        assert str(caught.value)
    finally:
        server.close()


def channel_against(said: bytes) -> Channel:
    ours, theirs = socket.socketpair()
    theirs.sendall(HELLO + said)
    channel = Channel(ours)
    theirs.shutdown(socket.SHUT_WR)
    channel.theirs_socket = theirs  # type: ignore[attr-defined] kept open until the test ends
    return channel


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_no_bytes_from_a_peer_raise_anything_but_our_errors(noise: bytes, framed: bool) -> None:
    channel: Any = None
    try:
        channel = channel_against(frame(noise) if framed else noise)
        channel.call("x.y", timeout_s=1)
    except UniosError:
        pass
    else:
        pytest.fail("noise was taken for an answer")
    finally:
        if channel is not None:
            channel.theirs_socket.close()
            channel.close()


def test_descriptors_of_an_answer_nobody_waits_for_are_closed(kernel: ScriptedKernel, connection: Connection) -> None:
    async def give(call: Call) -> object:
        return Answer(None, [os.open("/dev/null", os.O_RDONLY) for _ in range(3)])

    kernel.operations["x.give"] = give
    kernel.operations["node.list"] = one_node
    nodes.list_nodes(connection)
    before = open_descriptors()
    for _ in range(5):
        connection.call("x.give")
        connection.begin("x.give").close()
    nodes.list_nodes(connection)
    assert open_descriptors() == before


def test_a_stream_longer_than_the_window_arrives_whole_and_in_order(kernel: ScriptedKernel, connection: Connection) -> None:
    pieces = 300
    data = os.urandom(STREAM_WINDOW_BYTES // 50)

    async def pour(call: Call) -> object:
        for number in range(pieces):
            await call.send((number, data))
        return None

    kernel.operations["x.pour"] = pour
    asked = connection.begin("x.pour")
    numbers = []
    while (item := asked.next(tuple[int, bytes])) is not None:
        numbers.append(item[0])
        assert item[1] == data
    assert numbers == list(range(pieces))


def test_items_longer_than_the_window_are_sent_as_credit_comes(kernel: ScriptedKernel, connection: Connection) -> None:
    async def swallow(call: Call) -> object:
        total = 0
        while (item := await call.receive(bytes)) is not None:
            total += len(item)
        return total

    kernel.operations["x.swallow"] = swallow
    asked = connection.begin("x.swallow")
    for _ in range(100):
        asked.send(b"x" * 65_536, timeout_s=10)
    asked.end_items()
    raw, _descriptors = asked.finish(timeout_s=10)
    assert raw == pack(100 * 65_536)


def test_answers_of_several_requests_at_a_time_find_their_own(kernel: ScriptedKernel, connection: Connection) -> None:
    async def echo(call: Call) -> object:
        return call.decode(int)

    kernel.operations["x.echo"] = echo
    asked = [connection.begin("x.echo", number) for number in range(50)]
    assert [one.finish()[0] for one in reversed(asked)] == [pack(number) for number in reversed(range(50))]


def test_who_waits_for_room_on_a_disk_is_told_once_and_goes_on_when_there_is_room(kernel: ScriptedKernel, connection: Connection) -> None:
    told: list[str] = []
    asked: list[str] = []

    async def policy(_call: Call) -> object:
        asked.extend("x" if told else "")
        if len(asked) < 2:  # refused once more when it has been told
            raise DiskFull("the disk of the store is full")
        return "done"

    kernel.operations["x.y"] = policy
    connection.tell = told.append
    assert connection.ask("x.y", None, str) == "done"
    assert told == ["the disk of the store is full; this command tries again for at most 30 s, and nothing is lost"]


def test_a_store_that_is_away_is_waited_for_without_a_word_of_disks(kernel: ScriptedKernel, connection: Connection) -> None:
    told: list[str] = []
    begun = time.monotonic()

    async def away(_call: Call) -> object:
        if time.monotonic() < begun + 2 * CLIENT_TOLD_MS / 1000:
            raise Unavailable("the store is away")
        return "done"

    kernel.operations["x.y"] = away
    connection.tell = told.append
    assert connection.ask("x.y", None, str) == "done" and not told


def test_what_is_given_up_for_want_of_room_says_after_how_long(
    kernel: ScriptedKernel, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unios.client.connection.CLIENT_RECONNECT_MS", 0)

    async def full(_call: Call) -> object:
        raise DiskFull("the disk of the store is full")

    kernel.operations["x.y"] = full
    with pytest.raises(DiskFull, match="is full; given up after 0 s"):
        connection.ask("x.y", None, str)
