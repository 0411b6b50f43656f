"""The queue: order, room, back-fill, dependencies, holds, arrays, quotas; as properties on random systems, and with each protection switched off."""

import random
from collections import Counter
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
from msgspec.structs import replace

from unios.core import capacity, claims, outlook, placement, queue, reservation
from unios.core.capacity import Books
from unios.core.forecast import Lengths, begins
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.core.queue import Queue
from unios.core.rules import Quota
from unios.core.share import Shares
from unios.demands import After, Device, Placing, Queueing, Resources
from unios.limits import QUEUE_AGING_MS, SHARE_HALF_LIFE_MS

NOW = 1_000_000_000_000
EVERYBODY = ("*", "root")


def waiting(pid: int, *, user: str = "ann", cpu: int = 1_000, at: int = NOW, **fields: Any) -> ProcessRecord:
    queueing = {name: fields.pop(name) for name in list(fields) if name in Queueing.__struct_fields__}
    resources = Resources(cpu, fields.pop("memory", 0), fields.pop("devices", ()))
    given = {"created_ms": at, "resources": resources, "queueing": Queueing(**queueing), "argv": (b"x",), **fields}
    return ProcessRecord(pid, given.pop("incarnation", 1), "pending", user, **given)


class World:
    """A system that does at once what the queue orders."""

    def __init__(self, **cores: int) -> None:
        self.books, self.shares, self.lengths = Books(), Shares(), Lengths()
        self.queue = Queue(self.books, self.shares)
        self.records: dict[int, ProcessRecord] = {}
        self.ready = list(cores)
        self.now = NOW
        for name, count in cores.items():
            self.books.offer(NodeRecord(name, name, 1, users=EVERYBODY, cores=count))

    def put(self, *records: ProcessRecord) -> None:
        for record in records:
            before = self.records.get(record.pid)
            self.records[record.pid] = record
            self.books.put(record)
            self.shares.put(before, record)
            self.lengths.put(record)
            self.queue.put(record.pid, record)

    def choose(self, record: ProcessRecord, names: list[str]) -> tuple[str, str]:
        ordered, _wrong = placement.order(placement.least_loaded, placement.candidates(self.books, names, record, {}))
        return (ordered[0], "") if ordered else ("", "")

    def plan(self, most: int = 1_000) -> list[int]:
        """Return the pids that are placed, which run from now on."""
        placed = self.queue.plan(self.ready, self.now, lambda _user: True, self.choose, most)
        for order in placed:
            self.put(claims.started(claims.placed(self.records[order.pid], order.node, ""), self.now))
        for name in self.ready:
            node = self.books.node(name)
            assert node is not None and self.books.set_aside(name).cpu_milli <= node.cores * 1_000, "more is set aside than there is"
        return [order.pid for order in placed]

    def end(self, pid: int, code: int = 0) -> None:
        self.put(claims.ended(self.records[pid], code, None, "", self.now))

    def running(self) -> list[ProcessRecord]:
        return [record for record in self.records.values() if record.state == "running"]

    def why(self, pid: int) -> str:
        waits = outlook.outlook(self.queue, self.books, self.lengths, self.ready, self.now)
        return next(wait.reason for wait in waits if wait.record.pid == pid)


def test_what_finds_no_room_waits_with_its_reason_and_goes_when_there_is_some() -> None:
    world = World(a=2, b=2)
    world.put(*[waiting(300 + number) for number in range(6)])
    assert world.plan() == [300, 301, 302, 303]
    assert world.why(304) == "waits for a core: 4 of 4 are set aside; 0 before it"
    assert world.why(305) == "waits for a core: 4 of 4 are set aside; 1 before it"
    world.end(301)
    assert world.plan() == [304] and world.plan() == []


def test_the_higher_priority_goes_first_and_the_older_among_equals() -> None:
    world = World(a=1)
    world.put(waiting(300, priority=5), waiting(301, priority=20), waiting(302, priority=20, at=NOW - 5), waiting(303, priority=31))
    order = []
    while placed := world.plan():
        order += placed
        world.end(placed[0])
    assert order == [303, 302, 301, 300]


def test_what_was_lost_with_a_node_goes_before_all_that_came_later() -> None:
    world = World(a=1)
    world.put(waiting(300, priority=31), waiting(301, priority=0, incarnation=2), waiting(302, incarnation=2, restarts=1, priority=31))
    assert world.plan() == [301]


def test_nothing_that_is_submitted_later_than_the_bound_overtakes_however_high_its_priority() -> None:
    world = World(a=1)
    world.put(waiting(300, priority=0))
    bound = (queue.OVERDUE) * QUEUE_AGING_MS
    early = [waiting(400 + number, user="bob", priority=31, at=NOW + QUEUE_AGING_MS * number) for number in range(40)]
    order: list[int] = []
    for record in early:
        world.now = record.created_ms
        world.put(record)
        order += (placed := world.plan())
        world.end(placed[0])
    overtook = order[: order.index(300)]
    assert all(world.records[pid].created_ms <= NOW + bound for pid in overtook) and 300 in order


def test_a_user_who_had_more_lately_goes_after_one_who_had_less() -> None:
    world = World(a=1)
    world.shares.charge("ann", 3_600_000, NOW)
    world.put(waiting(300), waiting(301, user="bob", at=NOW + 1))
    assert world.plan() == [301]


def test_use_decays_by_half_in_each_half_life() -> None:
    shares = Shares()
    shares.charge("ann", 1_000, NOW)
    assert shares.use("ann", NOW + SHARE_HALF_LIFE_MS, 0) == pytest.approx(500)
    shares.charge("ann", 1_000, NOW + SHARE_HALF_LIFE_MS)
    assert shares.use("ann", NOW + 2 * SHARE_HALF_LIFE_MS, 0) == pytest.approx(750)
    shares.charge("ann", 1_000, NOW)  # told late: it counts as of then
    assert shares.use("ann", NOW + 2 * SHARE_HALF_LIFE_MS, 0) == pytest.approx(1_000)


def test_shares_of_users_converge_whoever_submits_more() -> None:
    rng = random.Random(1)
    world = World(a=4, b=4)
    pids = iter(range(300, 30_000))
    had: Counter[str] = Counter()
    world.put(*[waiting(next(pids), user="greedy", at=NOW - 5) for _ in range(600)])
    world.put(*[waiting(next(pids), user=user) for user in ("ann", "bob") for _ in range(300)])
    ends: dict[int, int] = {}
    for _step in range(600):
        for pid in world.plan():
            ends[pid] = world.now + rng.randrange(5_000, 60_000)
            had[world.records[pid].user] += ends[pid] - world.now
        world.now = min(ends.values())
        for pid in [pid for pid, end in ends.items() if end <= world.now]:
            del ends[pid]
            world.end(pid)
    assert max(had.values()) < 1.15 * min(had.values()), had


def test_a_pass_divides_free_room_between_users() -> None:
    world = World(a=8)
    world.put(*[waiting(300 + n, user="ann") for n in range(20)], *[waiting(400 + n, user="bob", at=NOW + 9) for n in range(20)])
    assert Counter(world.records[pid].user for pid in world.plan()) == {"ann": 4, "bob": 4}


def blocked_by_a_large_one(small_limit: int) -> World:
    """Two cores, one taken for 100 s more; the first wants both, a small one wants the free one."""
    world = World(a=2)
    world.put(waiting(300, time_limit_ms=100_000))
    assert world.plan() == [300]
    world.put(waiting(301, cpu=2_000, priority=20), waiting(302, time_limit_ms=small_limit))
    return world


def test_back_fill_lets_go_what_ends_in_time() -> None:
    assert blocked_by_a_large_one(99_000).plan() == [302]


@pytest.mark.parametrize("limit", [0, 101_000])
def test_back_fill_does_not_delay_the_first(limit: int) -> None:
    assert blocked_by_a_large_one(limit).plan() == []


def test_back_fill_uses_other_nodes_and_what_the_first_leaves() -> None:
    world = World(a=4, b=1)
    world.put(waiting(300, cpu=2_000, time_limit_ms=100_000), waiting(301, cpu=1_000))
    assert sorted(world.plan()) == [300, 301]  # on a and, being the least loaded, on b
    world.put(waiting(302, cpu=3_000, priority=20, pinned="a"), waiting(303), waiting(304))
    assert world.plan() == [303]  # one core of a is left beside 302 once 300 has ended; not two


def test_the_first_keeps_its_reservation_against_a_stream_of_small_ones() -> None:
    world = World(a=2)
    world.put(waiting(300), waiting(301))
    world.plan()
    world.put(waiting(302, cpu=2_000))
    for number in range(20):
        world.put(waiting(400 + number, at=NOW + 1 + number))
    world.end(300)
    assert world.plan() == []
    world.end(301)
    assert world.plan() == [302]


def test_what_asks_for_nothing_waits_for_nothing() -> None:
    world = World(a=1)
    world.put(waiting(300), waiting(301), waiting(302, cpu=0, priority=0))
    assert set(world.plan()) == {300, 302}
    assert world.queue.place_now(waiting(303, cpu=0), world.ready, world.choose)[0] == "a"


def test_a_newcomer_does_not_overtake_those_who_wait() -> None:
    world = World(a=2)
    assert world.queue.place_now(waiting(300), world.ready, world.choose)[0] == "a"
    world.put(waiting(300), waiting(301, devices=("gpu",)))
    world.plan()
    assert world.queue.place_now(waiting(302), world.ready, world.choose)[0] == "a"  # what can never begin holds up nobody
    world.put(waiting(303, cpu=2_000))
    assert world.queue.place_now(waiting(302), world.ready, world.choose)[0] == ""


def test_dependencies_are_met_or_fail_with_a_sentence() -> None:
    world = World(a=8)
    world.put(waiting(300), waiting(301))
    world.plan()
    conditions = ("ok", "failed", "ended")
    world.put(*[waiting(400 + n, after=(After(300, c),)) for n, c in enumerate(conditions)])  # type: ignore[arg-type]
    world.put(*[waiting(500 + n, after=(After(301, c),)) for n, c in enumerate(conditions)])  # type: ignore[arg-type]
    assert world.plan() == [] and world.why(400) == "waits for 300 to end well"
    world.end(300)
    world.end(301, 3)
    assert sorted(world.plan()) == [400, 402, 501, 502]
    failing = {order.pid: order.reason for order in world.queue.failing(lambda _user: True)}
    assert failing == {401: "it waited for 300 to end with a failure, and it ended well", 500: "it waited for 301 to end well, which it did not"}


def test_a_dependency_on_an_array_is_one_on_all_of_its_elements() -> None:
    world = World(a=8)
    world.put(*[waiting(300 + n, array=300, index=n) for n in range(3)], waiting(400, after=(After(300, "ok"),)))
    assert world.plan() == [300, 301, 302]
    world.end(300)
    world.end(301)
    assert world.plan() == []
    world.end(302)
    assert world.plan() == [400]


def test_nobody_becomes_an_element_of_anothers_array() -> None:
    world = World(a=8)
    world.put(*[waiting(300 + n, array=300, index=n, array_limit=2) for n in range(2)], waiting(400, after=(After(300, "ok"),)))
    world.put(waiting(350, user="eve", array=300, array_limit=9))
    assert sorted(world.plan()) == [300, 301, 350]
    world.end(350, 1)
    world.end(300)
    world.end(301)
    assert world.plan() == [400] and not world.queue.failing(lambda _user: True)


def test_what_its_policy_starts_again_has_not_ended() -> None:
    world = World(a=8)
    world.put(replace(waiting(300), restart="on-failure"))
    world.plan()
    world.put(waiting(301, after=(After(300, "ended"),)))
    world.end(300, 1)
    assert world.plan() == []


def test_what_is_held_waits_until_it_is_released() -> None:
    world = World(a=1)
    world.put(waiting(300, held=True), waiting(301))
    assert world.plan() == [301] and "held" in world.why(300)
    world.end(301)
    assert world.plan() == []
    world.put(waiting(300))
    assert world.plan() == [300]


def test_an_array_runs_no_more_elements_at_a_time_than_its_limit() -> None:
    world = World(a=8)
    world.put(*[waiting(300 + n, array=300, index=n, array_limit=2) for n in range(5)], waiting(400))
    assert sorted(world.plan()) == [300, 301, 400]
    assert world.why(302) == "2 elements of its array run, its limit"
    world.end(300)
    assert world.plan() == [302]


def test_quotas_bound_what_a_user_has_at_a_time() -> None:
    world = World(a=8)
    world.queue.quotas["ann"] = Quota("ann", cpu_milli=2_000)
    world.queue.quotas["bob"] = Quota("bob", processes=1)
    world.queue.quotas["eve"] = Quota("eve", memory_bytes=1 << 20)
    world.put(
        *[waiting(300 + n) for n in range(4)], *[waiting(400 + n, user="bob", cpu=0) for n in range(3)], waiting(500, user="eve", memory=2 << 20)
    )
    assert sorted(world.plan()) == [300, 301, 400]
    assert world.why(302) == "over quota: ann may have 2 cores at a time and has 2"
    assert world.why(401) == "over quota: bob may have 1 process at a time"
    assert world.why(500) == "over quota: eve may have 1 MiB of memory at a time and this asks for 2 MiB"
    world.put(waiting(304, cpu=3_000), waiting(501, user="eve", memory=1 << 20))
    assert world.why(304) == "over quota: ann may have 2 cores at a time and this asks for 3"  # it will never be its turn
    assert world.plan() == [501]
    world.put(waiting(502, user="eve", memory=1 << 19))
    assert world.why(502) == "over quota: eve may have 1 MiB of memory at a time and has 1 MiB"
    assert world.queue.place_now(waiting(303), world.ready, world.choose)[0] == ""


def test_devices_and_memory_are_set_aside_and_counted() -> None:
    world = World(a=8)
    gpus = (Device("gpu", "/dev/g0"), Device("gpu", "/dev/g1"))
    world.books.offer(NodeRecord("a", "a", 1, users=EVERYBODY, cores=8, memory_bytes=100, devices=gpus))
    world.put(waiting(300, devices=("/dev/g0",)), waiting(301, devices=("gpu:2",)), waiting(302, devices=("gpu",)))
    assert world.plan() == [300]  # 301 waits for both, and 302 must not take the one that is left
    world.end(300)
    assert world.plan() == [301]
    world.end(301)
    assert world.plan() == [302]
    world.put(waiting(303, devices=("camera",)), waiting(304, memory=101), waiting(305, cpu=9_000))
    assert world.plan() == []
    assert world.why(303) == "no node that is ready has 1 core and a camera"
    assert world.why(304).startswith("no node that is ready has 1 core and 101 bytes")
    assert world.why(305) == "no node that is ready has 9 cores"


def test_a_pin_and_what_is_forbidden_hold() -> None:
    world = World(a=1, b=1)
    world.put(waiting(300, pinned="b"), waiting(301, placing=Placing(forbidden=("a",))), waiting(302, pinned="c"))
    assert world.plan() == [300]
    assert world.why(301) == "waits for a core: 1 of 1 are set aside; 0 before it"
    assert world.why(302) == "waits for node c, which is not ready"


def test_the_estimate_follows_time_limits_and_recent_run_times() -> None:
    assert begins(2, [(1, NOW + 10), (1, NOW + 30)], [(300, 1, 5), (301, 1, 5), (302, 2, 5), (303, 1, 0), (304, 2, 1), (305, 2, 1)], NOW) == {
        300: NOW + 10,
        301: NOW + 15,
        302: NOW + 30,
        303: NOW + 35,
    }
    lengths = Lengths()
    assert lengths.guess_ms(waiting(300)) == 0 and lengths.guess_ms(waiting(300, time_limit_ms=70)) == 70
    lengths.put(replace(waiting(300), state="exited", started_ms=NOW, ended_ms=NOW + 50))
    assert lengths.guess_ms(waiting(301, time_limit_ms=70)) == 50


def test_a_queue_that_acts_for_some_users_leaves_the_others_alone() -> None:
    world = World(a=8)
    world.put(waiting(300), waiting(301, user="bob"))
    placed = world.queue.plan(world.ready, NOW, lambda user: user == "bob", world.choose, 9)
    assert [order.pid for order in placed] == [301]


def drain(seed: int) -> None:
    """A random system worked off to the end: never too much set aside, by priority among equals, and nothing is left or twice."""
    rng = random.Random(seed)
    world = World(**{f"n{number}": rng.randrange(1, 9) for number in range(rng.randrange(1, 4))})
    most = max(node.cores for name in world.ready if (node := world.books.node(name)))
    records = [
        waiting(
            300 + number,
            user=rng.choice(("ann", "bob")),
            cpu=rng.choice((0, 500, 1_000, 1_000, most * 1_000)),
            at=NOW + rng.randrange(1_000),
            priority=rng.choice((0, 16, 31)),
            time_limit_ms=rng.choice((0, 10_000, 60_000)),
            after=(After(rng.randrange(300, 300 + number), "ended"),) if number and rng.random() < 0.2 else (),
        )
        for number in range(60)
    ]
    started: Counter[int] = Counter()
    waited: dict[tuple[str, int], list[tuple[int, int]]] = {}
    left = list(records)
    for _step in range(400):
        while left and rng.random() < 0.5:
            world.put(left.pop(0))
        for pid in world.plan():
            started[pid] += 1
            record = world.records[pid]
            for other in world.queue.records():
                alike = (
                    other.user == record.user
                    and other.resources == record.resources
                    and other.queueing.time_limit_ms == record.queueing.time_limit_ms
                )
                if alike and not record.queueing.after and not other.queueing.after:
                    assert other.queueing.priority <= record.queueing.priority or other.created_ms > world.now, (seed, pid, other.pid)
        waited.clear()
        world.now += 5_000
        for running in world.running():
            limit = running.queueing.time_limit_ms or 1_000_000_000
            if rng.random() < 0.3 or world.now - running.started_ms >= limit:
                world.end(running.pid)
    assert not left and not list(world.queue.records()) and set(started.values()) == {1} and len(started) == 60, seed


@pytest.mark.parametrize("seed", range(25))
def test_random_systems_are_worked_off_in_order_and_within_what_there_is(seed: int) -> None:
    drain(seed)


def mutants() -> Iterator[tuple[str, Any, Any]]:
    yield (
        "room is not looked at",
        mock.patch.object(capacity, "_fits", return_value=True),
        test_what_finds_no_room_waits_with_its_reason_and_goes_when_there_is_some,
    )
    yield (
        "no aging",
        mock.patch.object(queue, "QUEUE_AGING_MS", 1 << 60),
        test_nothing_that_is_submitted_later_than_the_bound_overtakes_however_high_its_priority,
    )
    yield (
        "no reservation",
        mock.patch.object(reservation.Reservation, "allows", return_value=True),
        test_the_first_keeps_its_reservation_against_a_stream_of_small_ones,
    )
    yield "no shares", mock.patch.object(Shares, "use", return_value=0.0), test_shares_of_users_converge_whoever_submits_more
    yield "no charge ahead", mock.patch("unios.core.share.SHARE_AHEAD_MS", 0), test_a_pass_divides_free_room_between_users
    yield (
        "losses do not count",
        mock.patch.object(queue, "was_lost", return_value=False),
        test_what_was_lost_with_a_node_goes_before_all_that_came_later,
    )
    yield "quotas are not looked at", mock.patch.object(Queue, "over_quota", return_value=""), test_quotas_bound_what_a_user_has_at_a_time


@pytest.mark.parametrize(("switched_off", "test"), [pytest.param(patch, test, id=name) for name, patch, test in mutants()])
def test_a_protection_that_is_switched_off_is_missed(switched_off: Any, test: Any) -> None:
    with switched_off, pytest.raises((AssertionError, ValueError, StopIteration)):
        test()


class _Unknown(dict[Any, Any]):
    """In the place of what is known of the groups: any of their lines may ask for nothing."""

    value = 0

    def setdefault(self, key: Any, default: Any = None) -> Any:
        self[key] = default
        return mock.Mock()

    def __getitem__(self, _key: Any) -> Any:
        return self


@pytest.mark.parametrize("seed", range(60))
def test_groups_that_ask_for_more_than_is_free_are_passed_over_and_nothing_else_changes(seed: int) -> None:
    """The same orders as from a look at every line, while processes come, are held, and end."""
    rng = random.Random(seed)
    worlds = World(n1=3, n2=2), World(n1=3, n2=2)
    worlds[1].queue._least = _Unknown()  # type: ignore[assignment]
    pid, running = 300, list[int]()
    for _turn in range(40):
        pid += 1
        new = waiting(
            pid,
            user=rng.choice(("ann", "bob")),
            cpu=rng.choice((0, 250, 500, 1_000, 2_000)),
            at=NOW + pid,
            priority=rng.choice((0, 4)),
            held=rng.random() < 0.1,
        )
        over = running.pop(rng.randrange(len(running))) if running and rng.random() < 0.5 else 0
        placed = []
        for world in worlds:
            world.put(new)
            if over:
                world.end(over)
            world.now += 1_000
            placed.append(world.plan())
        assert placed[0] == placed[1]
        running += placed[0]
    assert all(group.value == min(h[2].resources.cpu_milli for h in worlds[0].queue._groups[key]) for key, group in worlds[0].queue._least.items())


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (1023, "1023 bytes"),
        (3 << 20, "3 MiB"),
        (1000 << 30, "1000 GiB"),
        (1023 << 20, "1023 MiB"),
        (100_000 << 30, "97.7 TiB"),
        (1 << 60, "1048576 TiB"),
    ],
)
def test_sizes_are_told_without_exponents(size: int, text: str) -> None:
    assert queue.mib(size) == text
