"""Ports for programs on a whole system of three nodes: the same on one node and between two."""

import gc
import importlib
import os
import pickle
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e import ports
from tests.e2e.ports import held, port
from tests.e2e.system import System, wait_for
from unios.client.messages import memory
from unios.client.messages.port import Port
from unios.client.messages.server import Server
from unios.errors import CallerError, NotFound, OutcomeUnknown, UniosError

WAYS = pytest.mark.parametrize("way", ["local", "relayed"])


@pytest.fixture(scope="module")
def names(whole: System) -> Iterator[dict[str, str]]:
    """Two programs that listen, one on the node of the callers and one on another."""
    with held(whole, "near", "n1"), held(whole, "far", "n2"):
        yield {"local": "near", "relayed": "far"}


@WAYS
def test_calls_streams_messages_and_exceptions(whole: System, names: dict[str, str], way: str) -> None:
    with port(whole, names[way]) as called:
        assert called.one({"a": (1, {2}), "b": None}) == {"a": (1, {2}), "b": None}
        assert called.who()[1] == "n1"
        assert [number for number, _ in called.stream("count", 300, 20_000)] == list(range(300))
        for number in range(500):
            called.send("do", (way, number))
        assert called.do((way, 500)) == (way, 500)
        assert called.twice() == []
        with pytest.raises(KeyError) as caught:
            called.fail()
        assert caught.value.__notes__ == ["noted there"]
        assert "in fail" in "".join(traceback.format_exception(caught.value))
        with pytest.raises(NotFound, match="this port has no"):
            called.nothing()
        with pytest.raises(CallerError, match="cannot be sent"):
            called.one(threading.Lock())


@WAYS
@pytest.mark.parametrize("size", [40_000, 300_000, 30_000_000])
def test_large_buffers_arrive_whole_in_both_directions(whole: System, names: dict[str, str], way: str, size: int) -> None:
    with port(whole, names[way]) as called:
        data = bytearray(os.urandom(size))
        assert called.one(data) == data
        assert called.length(pickle.PickleBuffer(data)) == size
        buffer = memory.allocate(size)
        assert called.length(buffer) == size
        found = called.large(size)
        assert len(found) == size and bytes(found[-4:]) == b"ends"


@WAYS
def test_eight_threads_on_one_port(whole: System, names: dict[str, str], way: str) -> None:
    wrong: list[object] = []
    with port(whole, names[way]) as called:

        def work(me: int) -> None:
            for number in range(100):
                if called.one((me, number)) != (me, number):
                    wrong.append((me, number))
            if sum(1 for _ in called.stream("count", 100, 10_000)) != 100:
                wrong.append(me)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not wrong and not any(thread.is_alive() for thread in threads)


@WAYS
def test_nothing_is_left_of_calls_streams_and_connections(whole: System, names: dict[str, str], way: str) -> None:
    def use() -> None:
        with port(whole, names[way]) as called:
            called.length(bytearray(1_000_000))
            called.length(memory.allocate(1_000_000))
            assert len(called.large(1_000_000)) == 1_000_000
            next(called.stream("count", 1_000_000, 10_000))
        dropped = port(whole, names[way])
        dropped.one(1)

    def kernel() -> int:
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in whole.nodes()["n1"]["pids"] if Path(f"/proc/{pid}/fd").exists())

    with port(whole, names[way]) as watching:
        use()
        gc.collect()
        here, there = len(os.listdir("/proc/self/fd")), watching.descriptors()
        for _ in range(20):
            use()
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == here
        wait_for(watching.descriptors, lambda found: found <= there, "the owner has closed what it was given")


def test_a_port_that_another_process_of_the_user_takes_over_serves_the_next_callers(whole: System) -> None:
    with held(whole, "taken", "n1") as first, port(whole, "taken") as before:
        assert before.pid() == first.pid
        with held(whole, "taken", "n1") as second:
            with port(whole, "taken") as after:
                assert after.pid() == second.pid
            assert before.pid() == first.pid  # what is connected stays so


def test_callers_wait_for_an_owner_who_is_restarted_elsewhere(whole: System) -> None:
    first = ports.start(whole, "moved", "n1")
    with port(whole, "moved") as called:
        assert called.pid() == first.pid
        ports.stop(first)
        found: list[int] = []
        patient = threading.Thread(target=lambda: found.append(called.options(idempotent=True).pid()))
        patient.start()
        with held(whole, "moved", "n3") as second:
            patient.join(30)
            assert found == [second.pid]


def test_a_callee_killed_in_mid_answer_is_not_waited_for_and_not_guessed_about(whole: System) -> None:
    with held(whole, "killed", "n1"), port(whole, "killed") as called:
        pending = called.begin("die")
        again = ports.start(whole, "killed", "n1")
        try:
            with pytest.raises(OutcomeUnknown, match="has been replaced"):
                pending.result(timeout=30)
            assert called.pid() == again.pid
        finally:
            ports.stop(again)


def test_a_port_that_nobody_listens_on_is_waited_for_until_the_deadline(whole: System) -> None:
    with pytest.raises(NotFound, match="nobody listens on port nowhere"):
        port(whole, "nowhere", timeout=0.2)


def test_one_process_may_open_a_thousand_ports_and_close_them(whole: System) -> None:
    many_ports(whole, 1_000)


@pytest.mark.long
def test_one_process_may_open_ten_thousand_ports(whole: System) -> None:
    many_ports(whole, 9_900)


def many_ports(whole: System, count: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, count + 1_000)), hard))
    before = len(os.listdir("/proc/self/fd"))
    servers = [Server(f"many/{number}", {"number": lambda number=number: number}, home=whole.env["UNIOS_HOME"], node="n1") for number in range(count)]
    for number in (0, count // 2, count - 1):
        with port(whole, f"many/{number}") as called:
            assert called.number() == number
    for server in servers:
        server.close()
    assert len(os.listdir("/proc/self/fd")) <= before + 16  # the acceptor's own
    with pytest.raises(NotFound):
        port(whole, "many/0", timeout=0)


@WAYS
def test_a_port_in_a_message_is_called_by_whoever_receives_it(
    whole: System, names: dict[str, str], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIOS_HOME", whole.env["UNIOS_HOME"])
    with held(whole, "passed-on", "n1"), port(whole, "passed-on") as passed, port(whole, names[way]) as called:
        assert called.through(passed, {"through": "it"}) == {"through": "it"}
        with called.give("passed-on") as given:
            assert given.pid() == passed.pid() != called.pid()


@pytest.mark.long
@WAYS
def test_a_result_of_two_gigabytes(whole: System, names: dict[str, str], way: str) -> None:
    with port(whole, names[way], timeout=100) as called:
        found = called.large(2 * 1024**3 + 5)
        assert len(found) == 2 * 1024**3 + 5 and bytes(found[-4:]) == b"ends"


# two users


def as_nobody(system: System, work: Callable[[Callable[[str], Port]], object]) -> str:
    """Do something as another user, in a forked child: the interpreter may be out of his reach. Return what came of it, or which error."""
    for name in ("travelling", "capabilities"):
        importlib.import_module(f"unios.client.messages.{name}")  # which are loaded when they are needed: by then nothing can be read
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            try:
                said = repr(work(lambda name: port(system, name, timeout=10)))
            except UniosError as error:
                said = f"{type(error).__name__} {error}"
            os.write(writing, said.encode())
        except BaseException:  # noqa: BLE001 - in a fork: its parent sees it
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading) as file:
        said = file.read()
    os.waitpid(child, 0)
    return said


def unpickled(port: Port, value: object) -> object:
    """Send a pickle all the same."""
    port._ends.open(None).trusted = True
    return port.one(value)


@pytest.fixture(scope="module")
def shared(whole: System) -> System:
    """A system that another user can reach."""
    if os.geteuid() != 0:
        pytest.skip("two users need root")
    if not os.access(f"/proc/{os.getpid()}/root", os.R_OK):
        pytest.skip("no /proc")
    whole.home.chmod(0o711)
    return whole


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_another_user_is_let_in_by_mode_or_grant_and_is_never_unpickled(shared: System, node: str) -> None:
    name = f"of-root/{node}"
    with held(shared, name, node), port(shared, name) as own:
        assert as_nobody(shared, lambda port: port(name).one(1)).startswith("Denied")
        own.grant("nobody")
        assert as_nobody(shared, lambda port: port(name).one([1, "a", b"b"])) == "[1, 'a', b'b']"
        assert as_nobody(shared, lambda port: port(name).who()) == "['nobody', 'n1']"
        assert as_nobody(shared, lambda port: port(name).one(object())).startswith("CallerError this cannot be sent to another user's process")
        assert as_nobody(shared, lambda port: port(name).fail()) == "CallerError KeyError: 'gone'"
        assert as_nobody(shared, lambda port: len(port(name).one(b"x" * 3_000_000))) == "3000000"
        assert as_nobody(shared, lambda port: unpickled(port(name), print)).startswith("Denied a pickle of another user is not read")
        own.revoke("nobody")
        assert as_nobody(shared, lambda port: port(name).one(1)).startswith("Denied")


def test_a_mode_opens_a_port_to_others(shared: System) -> None:
    with held(shared, "open", "n1", "666"):
        assert as_nobody(shared, lambda port: port("open").one(1)) == "1"


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_a_port_in_a_message_of_another_user_is_called_with_the_rights_of_who_receives_it(
    shared: System, node: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNIOS_HOME", shared.env["UNIOS_HOME"])
    folders = [Path(shared.env["UNIOS_HOME"]), Path(shared.env["UNIOS_HOME"]) / "nodes"]
    for folder in folders:
        folder.chmod(0o755)  # he looks for a node by himself
    for_all, own = f"for-all/{node}", f"own/{node}"
    with held(shared, for_all, node, "666"), held(shared, own, "n1"):
        assert as_nobody(shared, lambda port: port(for_all).through(port(for_all), [1])) == "[1]"
        assert as_nobody(shared, lambda port: port(for_all).give(for_all).one([2])) == "[2]"
        assert as_nobody(shared, lambda port: port(for_all).give(own).options(timeout=5).one(3)).startswith("Denied nobody may not connect")


def test_a_port_of_another_user_cannot_be_taken_over(shared: System) -> None:
    with held(shared, "mine", "n1"):
        home = shared.env["UNIOS_HOME"]
        assert as_nobody(shared, lambda _port: Server("mine", {}, home=home, node="n1")).startswith("Denied port mine belongs to root")
        with port(shared, "mine") as own:
            assert own.one(1) == 1
