"""Long-lived objects on three nodes: the same results under every strategy, and no loss of a node that is noticed by more than a pause."""

import contextlib
import gc
import os
import pickle
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.account import READS, Account, Oneway, Shelf
from tests.e2e.system import System, wait_for
from unios.client.messages.port import RemoteTraceback
from unios.client.replicas import comparison
from unios.client.replicas.directory import hosts
from unios.client.replicas.handle import caller_of
from unios.client.replicas.objects import discard, distribute, find
from unios.client.replicas.outcome import call_of, result
from unios.core.outcomes import Request
from unios.core.strategies import STRATEGIES
from unios.errors import CallerError, DataLost, Misused, NotFound, OutcomeUnknown

SURVIVORS = ("active", "primary-backup", "cached-reads")
SECONDS = 60.0


def made(system: System, name: str, strategy: str, **options: Any) -> Any:
    return distribute(Account, name, strategy=strategy, reads=READS, home=system.env["UNIOS_HOME"], timeout=SECONDS, **options)


def found(system: System, name: str) -> Any:
    return find(name, home=system.env["UNIOS_HOME"], timeout=SECONDS)


def node_of(handle: Any, rank: int) -> str:
    with caller_of(handle).connection() as connection:
        return hosts(connection, caller_of(handle).name)[rank].node


def workload(seed: int, account: Any) -> list[object]:
    """Do the same random calls; return all that came of them."""
    chance, seen = random.Random(seed), []
    calls: list[Callable[[], object]] = [
        lambda: account.deposit(chance.randrange(-3, 50)),
        lambda: account.withdraw(chance.randrange(60)),
        lambda: account.balance(),
        lambda: account.entries(),
        lambda: account.entries(last=chance.randrange(3)),
        lambda: len(account),
    ]
    for _ in range(120):
        try:
            seen.append(pickle.dumps(chance.choice(calls)()))
        except (ValueError, KeyError) as error:
            seen.append(repr(error))
    return seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_the_results_of_the_plain_class(whole: System, strategy: str) -> None:
    account = made(whole, f"same/{strategy}", strategy)
    assert workload(5, account) == workload(5, Account())
    assert found(whole, f"same/{strategy}").balance() == account.balance()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_done_to_a_result_is_not_done_to_the_object(whole: System, strategy: str) -> None:
    account = made(whole, f"apart/{strategy}", strategy)
    account.deposit(1)
    account.entries(last=0).append(99)
    assert account.entries(last=0) == [1]


def test_an_exception_travels_with_where_it_was_raised(whole: System) -> None:
    account = made(whole, "raises", "primary-backup")
    with pytest.raises(ValueError, match="-1 is no amount") as caught:
        account.deposit(-1)
    assert isinstance(caught.value.__cause__, RemoteTraceback) and "account.py" in str(caught.value.__cause__)
    assert account.entries() == [-1], "what it had done before it raised stays done, as with the plain class"


@pytest.mark.parametrize("strategy", SURVIVORS)
def test_a_read_sees_every_write_that_has_returned(whole: System, strategy: str) -> None:
    writer, readers = made(whole, f"fresh/{strategy}", strategy), [found(whole, f"fresh/{strategy}") for _ in range(2)]
    for number in range(1, 101):
        writer.deposit(1)
        assert [reader.balance() for reader in readers] == [number, number]


def test_copies_are_on_different_nodes(whole: System) -> None:
    account = made(whole, "spread", "active", copies=3)
    assert {node_of(account, rank) for rank in range(3)} == {"n1", "n2", "n3"}


def test_a_handle_works_in_any_process_of_the_system(whole: System) -> None:
    account = made(whole, "shared", "active")
    code = f"import pickle; account = pickle.loads({pickle.dumps(account)!r}); account.deposit(7); print(account.balance(), len(account))"
    env = ("--env", f"PYTHONPATH={os.pathsep.join(path for path in sys.path if path)}")
    assert whole.unios("run", *env, "--on", "n3", "--", sys.executable, "-c", code).stdout == b"7 1\n"
    assert account.balance() == 7


def test_a_forked_child_writes_for_itself(whole: System) -> None:
    account = made(whole, "forked", "primary-backup")
    account.deposit(1)
    pid = os.fork()
    if pid == 0:
        try:
            account.deposit(10)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert account.deposit(100) == 111


def test_a_class_of_the_program_itself_can_be_distributed(whole: System, tmp_path: Any) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import unios\n"
        "class Counter:\n    def __init__(self): self.n = 0\n    def up(self, by): self.n += by.n; return by\n"
        "class By:\n    n = 3\n"
        "if __name__ == '__main__':\n"
        "    counter = unios.distribute(Counter, 'own/counter')\n    print(type(counter.up(By())) is By)\n"
    )
    env = {**whole.env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    assert subprocess.run([sys.executable, program], env=env, capture_output=True, timeout=60, check=True).stdout == b"True\n"


def test_mistakes_get_a_sentence_and_leave_nothing(whole: System) -> None:
    with pytest.raises(Misused, match="there is no strategy 'best'"):
        made(whole, "wrong", "best")
    with pytest.raises(Misused, match="one-place takes one copy"):
        made(whole, "wrong", "one-place", copies=2)
    with pytest.raises(Misused, match="Account has no method total"):
        distribute(Account, "wrong", reads={"total"}, home=whole.env["UNIOS_HOME"])
    with pytest.raises(ValueError, match="begins with something"):
        distribute(Account, "wrong", -1, home=whole.env["UNIOS_HOME"])
    with pytest.raises(CallerError, match="cannot be copied"):
        distribute(threading.Event, "wrong", home=whole.env["UNIOS_HOME"])
    with pytest.raises(CallerError, match="not be made again"):
        distribute(Oneway, "wrong", home=whole.env["UNIOS_HOME"])
    with pytest.raises(NotFound, match="no object wrong"):
        found(whole, "wrong")
    account = made(whole, "taken", "active")
    with pytest.raises(CallerError, match="there is an object taken"):
        made(whole, "taken", "active")
    with pytest.raises(AttributeError, match="no attributes"):
        _ = account.owner
    with pytest.raises(CallerError, match="cannot be sent"):
        account.deposit(threading.Lock())
    discard("taken", home=whole.env["UNIOS_HOME"])
    with pytest.raises(NotFound, match="no object taken"):
        account.balance()


def test_a_cache_of_an_object_that_is_gone_is_not_read_for_another_of_its_name(whole: System) -> None:
    old = made(whole, "again", "cached-reads", lease=20.0)
    old.deposit(1)
    assert old.balance() == 1
    discard("again", home=whole.env["UNIOS_HOME"])
    assert raised_by(old.balance) == "there is no object again"  # though its lease is not over
    new = made(whole, "again", "cached-reads", lease=0.1)
    new.deposit(100)
    assert raised_by(old.balance) == "the object again of this handle is gone, and there is another of that name: unios.find('again')"
    assert new.balance() == 100


def raised_by(call: Callable[[], object]) -> str:
    try:
        return str(call())
    except CallerError as error:
        return str(error)


def test_of_many_that_make_an_object_of_one_name_at_a_time_one_does(whole: System) -> None:
    made_by: list[int] = []
    refused: list[str] = []

    def make(number: int) -> None:
        try:
            made(whole, "raced", "primary-backup", owner=f"{number}")
            made_by.append(number)
        except CallerError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    assert len(made_by) == 1 and len(refused) == 3 and all("there is an object raced" in text for text in refused)
    assert found(whole, "raced").deposit(1) == 1


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_handles_that_are_dropped_leave_no_descriptor_and_no_thread(whole: System, strategy: str) -> None:
    made(whole, f"dropped/{strategy}", strategy)

    def left() -> tuple[int, int]:
        gc.collect()
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = left()
    for _ in range(10):
        assert found(whole, f"dropped/{strategy}").balance() == 0
    wait_for(left, lambda now: now[0] <= before[0] and now[1] <= before[1], f"as before: {before}")


def test_a_write_after_which_the_object_cannot_be_copied_is_undone(whole: System) -> None:
    account = made(whole, "spoilt", "primary-backup")
    account.deposit(5)
    with pytest.raises(CallerError, match="the call was undone"):
        account.spoil()
    assert account.deposit(1) == 6


def test_the_messages_that_are_counted_are_those_of_the_table_and_the_fewest_change_with_the_share_of_reads(whole: System) -> None:
    shares, home = (0, 90), whole.env["UNIOS_HOME"]
    counted = comparison.measure(operations=40, shares=shares, home=home)
    assert [row[3] for row in counted.rows] == [row[3] for row in comparison.predict(operations=40, shares=shares).rows]
    assert (counted.fewest(0), counted.fewest(90)) == ("one-place", "cached-reads")
    print(counted)


def test_a_handle_can_be_looked_at_as_the_object_can_and_has_no_attribute_to_set(whole: System) -> None:
    shelf: Any = distribute(Shelf, "shelf", "a", "b", reads={"__iter__"}, home=whole.env["UNIOS_HOME"], timeout=SECONDS)
    assert list(shelf) == ["a", "b"] and shelf["b"] == 1 and [*shelf, shelf.add("c")] == ["a", "b", 3] and "c" in shelf
    with pytest.raises(AttributeError, match="things of shelf cannot be set: a handle has"):
        shelf.things = []
    assert list(shelf) == ["a", "b", "c"]


class Writers:
    """Threads that deposit 1, each with a handle of its own, and look at the balance."""

    def __init__(self, system: System, name: str, count: int, deposits: int) -> None:
        self.results: list[int] = []
        self.failures: list[BaseException] = []
        self._deposits = deposits
        self._threads = [threading.Thread(target=self._run, args=(found(system, name),)) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def _run(self, account: Any) -> None:
        try:
            for _ in range(self._deposits):
                seen = account.balance()
                result = account.deposit(1)
                assert result > seen
                assert account.balance() >= result
                self.results.append(result)
        except BaseException as error:  # noqa: BLE001 - told by the test
            self.failures.append(error)

    def join(self) -> None:
        for thread in self._threads:
            thread.join(SECONDS)
        assert self.failures == []


def signal_all(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.mark.parametrize("strategy", SURVIVORS)
@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_killed_in_the_middle_of_a_workload_loses_nothing_and_repeats_nothing(fresh: System, strategy: str, rank: int) -> None:
    account = made(fresh, "bank/alice", strategy)
    power = fresh.nodes()[node_of(account, rank)]["pids"]
    writers = Writers(fresh, "bank/alice", 3, 150)
    wait_for(lambda: len(writers.results), lambda number: number > 100, "the writers are at it")
    signal_all(power, signal.SIGKILL)
    assert len(writers.results) < 400, "it was in the middle"
    writers.join()
    assert sorted(writers.results) == list(range(1, 451))
    assert account.balance() == len(account) == 450


@pytest.mark.parametrize("strategy", SURVIVORS)
def test_a_node_that_stood_still_and_goes_on_finds_that_it_was_replaced(fresh: System, strategy: str) -> None:
    account = made_away_from_the_store(fresh, "bank/dora", strategy)
    with caller_of(account).connection() as connection:
        first = hosts(connection, caller_of(account).name)[0]
    stopped = fresh.nodes()[first.node]["pids"]
    writers = Writers(fresh, caller_of(account).name, 2, 150)
    wait_for(lambda: len(writers.results), lambda number: number > 50, "the writers are at it")
    try:
        signal_all(stopped, signal.SIGSTOP)
        assert len(writers.results) < 250, "it was in the middle"
        fresh.wait_process(first.pid, lambda process: process["incarnation"] > 1 and process["state"] == "running", "runs elsewhere")
        wait_for(lambda: len(writers.results), lambda number: number > 100, "the writers go on")
    finally:
        signal_all(stopped, signal.SIGCONT)
    writers.join()
    assert sorted(writers.results) == list(range(1, 301))
    assert account.balance() == len(account) == 300


def made_away_from_the_store(system: System, name: str, strategy: str) -> Any:
    """Make an object whose first copy is not on the node that the store is on. Those that came there stay: another goes elsewhere."""
    run = system.home / "home" / "nodes"
    for number in range(9):
        account = made(system, f"{name}/{number}", strategy)
        if not (run / node_of(account, 0) / "run" / "store.json").exists():
            return account
    raise AssertionError("every first copy came to the same node")


@pytest.mark.parametrize("strategy", SURVIVORS)
def test_a_write_that_is_asked_for_again_after_a_loss_is_not_done_again(fresh: System, strategy: str) -> None:
    account = made_away_from_the_store(fresh, "bank/fay", strategy)
    request = Request("a session", 1, 1, call_of("deposit", (5,), {}))
    outcome = caller_of(account).ask("write", request, "", 0)
    fresh.power_cut(node_of(account, 0))
    assert caller_of(account).ask("write", request, "", 0) == outcome
    assert account.balance() == 5
    later = Request("a session", 3, 3, call_of("deposit", (1,), {}))
    caller_of(account).ask("write", later, "", 0)
    with pytest.raises(OutcomeUnknown, match="no longer kept"):
        result(caller_of(account).ask("write", request, "", 0))
    assert account.balance() == 6


@pytest.mark.parametrize("strategy", SURVIVORS)
def test_a_method_that_ends_its_process_is_given_up_and_the_object_goes_on(whole: System, strategy: str) -> None:
    home = whole.env["UNIOS_HOME"]
    shelf: Any = distribute(Shelf, f"fragile/{strategy}", "a", strategy=strategy, home=home, timeout=SECONDS)
    with pytest.raises(OutcomeUnknown, match=r"has ended \d+ times since this call was begun"):
        shelf.leave()
    assert shelf.add("b") == 2


def test_an_object_whose_process_is_about_to_be_started_again_can_be_discarded(whole: System) -> None:
    shelf: Any = distribute(Shelf, "pausing", home=whole.env["UNIOS_HOME"], timeout=SECONDS)
    with pytest.raises(OutcomeUnknown, match="has ended"):
        shelf.leave()  # by now it is not started again at once
    discard("pausing", home=whole.env["UNIOS_HOME"])
    with caller_of(shelf).connection() as connection:
        assert hosts(connection, "pausing", returning=True) == {}


def test_killed_kernels_are_not_noticed(fresh: System) -> None:
    account = made(fresh, "bank/eve", "primary-backup")
    writers = Writers(fresh, "bank/eve", 2, 200)
    for number, node in enumerate(fresh.nodes().values()):
        wait_for(lambda: len(writers.results), lambda results, number=number: results > 50 * (number + 1), "the writers are at it")
        os.kill(node["kernel_pid"], signal.SIGKILL)
    writers.join()
    assert account.balance() == len(account) == 400


def test_copies_that_were_lost_one_after_the_other_come_back_with_everything(fresh: System) -> None:
    account = made(fresh, "bank/bob", "primary-backup", copies=3)
    for turn in range(1, 5):
        account.deposit(1)
        with caller_of(account).connection() as connection:
            pid = hosts(connection, "bank/bob")[turn % 3].pid
        before = fresh.process(pid)["incarnation"]
        kill_program(fresh, pid)
        fresh.wait_process(pid, lambda process, before=before: process["incarnation"] > before and process["state"] == "running", "began again")
        assert account.balance() == turn


def test_an_active_object_that_cannot_be_copied_goes_on_without_its_lost_copy_until_it_can(fresh: System) -> None:
    account = made(fresh, "bank/grace", "active")
    account.spoil()
    with caller_of(account).connection() as connection:
        pid = hosts(connection, "bank/grace")[1].pid
    kill_program(fresh, pid)
    fresh.wait_process(pid, lambda process: process["incarnation"] > 1 and process["state"] == "running", "began again")
    assert account.deposit(1) == 1
    account.mend()
    wait_for(lambda: caller_of(account).counts()[0].get("install", 0), lambda installs: installs > 0, "the copy is made")
    assert account.deposit(1) == 2


def kill_program(system: System, pid: int) -> None:
    """Kill a process behind the system's back, as the lack of memory would."""
    system.unios("exec", str(pid), "--", "sh", "-c", f"kill -9 {pid}", check=False)


def test_an_object_in_one_place_is_lost_with_its_node_and_says_so(fresh: System) -> None:
    account = made(fresh, "bank/carol", "one-place")
    account.deposit(5)
    fresh.power_cut(node_of(account, 0))
    with pytest.raises(DataLost, match="bank/carol was lost"):
        account.balance()
    discard("bank/carol", home=fresh.env["UNIOS_HOME"])
    assert made(fresh, "bank/carol", "one-place").balance() == 0


def test_a_caller_that_is_stopped_with_a_cache_holds_writes_up_no_longer_than_its_lease(whole: System) -> None:
    account = made(whole, "held", "cached-reads", lease=1.0)
    code = "import sys; import unios; print(unios.find('held').balance(), flush=True); sys.stdin.read()"
    env = {**whole.env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == b"0\n"
        reader.send_signal(signal.SIGSTOP)
        assert account.deposit(1) == 1
        reader.kill()


def test_a_successor_shows_no_write_while_a_cache_has_the_state_before_it(fresh: System) -> None:
    account = made(fresh, "bank/ida", "cached-reads", lease=12.0)
    code = "import sys; import unios; account = unios.find('bank/ida')\nfor line in sys.stdin: print(account.balance(), flush=True)"
    env = {**fresh.env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        reader.stdin.write("\n")
        assert reader.stdout.readline() == "0\n"
        reader.send_signal(signal.SIGSTOP)
        writer = threading.Thread(target=account.deposit, args=(1,))
        writer.start()
        wait_for(lambda: caller_of(account).counts()[0].get("write", 0), lambda writes: writes > 0, "the write has begun")
        with caller_of(account).connection() as connection:
            first = hosts(connection, "bank/ida")[0]
        kill_program(fresh, first.pid)
        fresh.wait_process(first.pid, lambda process: process["incarnation"] > first.incarnation, "began again")
        seen = found(fresh, "bank/ida").balance()
        reader.send_signal(signal.SIGCONT)
        reader.stdin.write("\n")
        assert int(reader.stdout.readline()) >= seen
        writer.join(SECONDS)
        assert account.balance() == len(account) == 1
        reader.kill()
