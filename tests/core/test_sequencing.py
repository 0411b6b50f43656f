"""Long-lived objects: whatever is lost, one copy at a time, no acknowledged write is lost, none is done twice, and no read is stale."""

import pytest

from tests.core.replicated import World
from unios.core.caching import Cache, Holders
from unios.core.outcomes import Found, Outcomes, Request
from unios.core.replication import Contents, Follower, Have, Install, Message, Order, Reply, Seal, Took, Update
from unios.core.sequencing import Sequencer
from unios.core.strategies import STRATEGIES

CASES = [("active", 2), ("active", 3), ("primary-backup", 2), ("primary-backup", 3), ("cached-reads", 2)]
SEEDS = 25


@pytest.mark.parametrize(("strategy", "copies"), CASES)
def test_nothing_acknowledged_is_lost_and_nothing_is_done_twice_and_no_read_is_stale(strategy: str, copies: int) -> None:
    losses = 0
    for seed in range(SEEDS):
        world = World(seed, strategy, copies)
        try:
            world.run(1_500, losses=4)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
        losses += world.losses
    assert losses > SEEDS


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_without_losses_of_nodes_every_strategy_comes_to_the_same(strategy: str) -> None:
    for seed in range(SEEDS):
        World(seed, strategy, 1 if strategy == "one-place" else 2).run(600, losses=0)


@pytest.mark.parametrize(("strategy", "copies"), [("active", 3), ("primary-backup", 3), ("cached-reads", 4)])
def test_all_copies_but_one_may_be_lost_at_once(strategy: str, copies: int) -> None:
    for seed in range(SEEDS):
        World(seed, strategy, copies).run(1_000, losses=3, together=copies - 1)


def test_one_copy_that_is_lost_is_said_to_be_lost() -> None:
    world = World(1, "one-place", 1)
    world.lose(0)
    world.settle(lambda: world.leader.sequencer.phase == "lost")


@pytest.mark.parametrize(("strategy", "copies"), [("active", 3), ("primary-backup", 2), ("cached-reads", 2)])
def test_any_copy_may_be_lost_at_any_step(strategy: str, copies: int) -> None:
    for step in range(0, 160, 2):
        for rank in range(copies):
            world = World(7 + step % 5, strategy, copies)
            for _ in range(step):
                world.step(new=True)
            world.lose(rank)
            world.run(120, losses=0)


def made_with_an_empty_copy() -> Sequencer:
    """An object that has just been made, beside one copy that has nothing yet."""
    first = Sequencer(1)
    first.table(1, {1: 1})
    first.heard(1, Have(1, 1, 0, 0))
    assert first.phase == "new"
    first.create(STRATEGIES["primary-backup"])
    return first


def test_an_object_is_made_when_every_copy_has_it() -> None:
    first = made_with_an_empty_copy()
    assert (first.phase, first.committed) == ("settling", 0)
    message = first.to_send(1)
    assert isinstance(message, Install)
    first.sent(1, message)
    assert first.committed == 0
    first.heard(1, Took(1, 1, 1))
    assert (first.phase, first.committed) == ("ready", 1)


@pytest.mark.parametrize("incarnation", [0, 2])
def test_a_copy_that_is_lost_while_the_object_is_made_is_not_waited_for(incarnation: int) -> None:
    first = made_with_an_empty_copy()
    first.table(1, {1: incarnation})
    assert (first.phase, first.committed) == ("ready", 1)


# each protection, switched off, is missed by the same runs


def finds(cases: list[tuple[str, int]], seeds: int = 600) -> bool:
    """Say whether a run fails."""
    for strategy, copies in cases:
        for seed in range(seeds):
            try:
                World(seed, strategy, copies).run(1_500, losses=4)
            except AssertionError:
                return True
    return False


def test_without_fencing_an_old_sequencer_does_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    hear = Follower.hear

    def unfenced(self: Follower, message: Message) -> tuple[Order | None, Reply]:
        self.epoch = min(self.epoch, message.epoch)
        return hear(self, message)

    monkeypatch.setattr(Follower, "hear", unfenced)
    assert finds([("active", 3), ("primary-backup", 2), ("primary-backup", 3)])


def test_a_sequencer_that_drops_members_after_it_was_replaced_does_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Sequencer.table
    monkeypatch.setattr(Sequencer, "table", lambda self, _mine, others: table(self, self.epoch, others))
    assert finds([("primary-backup", 2), ("active", 2)])


def test_an_acknowledgement_before_the_backup_has_it_loses_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_once(self: Sequencer) -> None:
        if self.phase in ("settling", "ready") and not self.busy and self.seq:
            self.committed, self.phase = self.seq, "ready"

    monkeypatch.setattr(Sequencer, "_commit", at_once)
    assert finds([("primary-backup", 2)])


def test_without_waiting_for_caches_reads_are_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Holders, "wait_ms", lambda _self, _now: 0.0)
    assert finds([("cached-reads", 2)])


def test_a_write_that_copies_have_before_caches_have_dropped_the_old_state_makes_reads_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(World, "waits_for_caches_first", False)
    assert finds([("cached-reads", 2)])


def test_a_new_owner_that_does_not_let_a_lease_pass_makes_reads_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    init = Holders.__init__

    def at_once(self: Holders, epoch: int, lease_ms: float, now_ms: float) -> None:
        init(self, epoch, lease_ms, now_ms)
        self._not_before_ms = now_ms

    monkeypatch.setattr(Holders, "__init__", at_once)
    assert finds([("cached-reads", 2)])


def test_a_copy_that_shows_what_is_not_committed_makes_reads_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Follower, "is_readable", property(lambda self: self.seq > 0))
    assert finds([("active", 3)])


def test_forgetting_what_was_asked_does_writes_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Outcomes, "find", lambda _self, _request: Found.NEW)
    assert finds([("primary-backup", 2)])


# by hand


def test_a_copy_takes_nothing_of_an_older_epoch_and_nothing_for_another_incarnation() -> None:
    copy = Follower(4)
    copy.hear(Seal(4, 3))
    update = Update(4, 2, 1, Request("s", 1, 1, b""), b"", b"")
    assert type(copy.hear(update)[1]).__name__ == "Fenced"
    assert type(copy.hear(Seal(5, 9))[1]).__name__ == "Gap" and copy.epoch == 3


def test_a_copy_takes_no_write_whose_predecessor_it_has_not() -> None:
    copy = Follower(4)
    copy.hear(Install(4, 1, 1, 1, Contents(b"", b"")))
    assert type(copy.hear(Update(4, 1, 3, Request("s", 1, 1, b""), b"", b""))[1]).__name__ == "Gap" and copy.seq == 1
    assert type(copy.hear(Update(4, 1, 2, Request("s", 1, 1, b""), b"", b""))[1]).__name__ == "Took" and copy.seq == 2


def test_a_state_that_was_to_be_dropped_while_it_was_on_its_way_is_not_kept() -> None:
    cache = Cache(1_000)
    cache.drop(7)
    assert not cache.got(7, 0) and not cache.is_usable(1)
    assert cache.got(8, 0) and cache.is_usable(1)
