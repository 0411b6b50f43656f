"""Claims, reconciling, recovery and placement: what becomes of a process."""

import msgspec
import pytest

from unios.core import claims, placement, reconcile, recovery
from unios.core.placement import Candidate
from unios.core.processes import ProcessRecord, ProcessSpec, State
from unios.core.reconcile import Adopt, Confirm, Drop, Gone, Report, StartNow, Supersede, Tree


def record(**fields: object) -> ProcessRecord:
    base = ProcessRecord(300, 2, "running", "ann", node="n1", started_ms=1)
    return msgspec.structs.replace(base, **fields)


def test_submitted_shows_a_bounded_argv() -> None:
    made = claims.submitted(300, ProcessSpec((b"x" * 5_000, b"y")), "ann", "n1", "", 5)
    assert (made.state, made.incarnation, len(made.argv[0])) == ("pending", 1, 1_024)


def test_only_the_holder_holds() -> None:
    assert claims.holds(record(), "n1", 2)
    assert not claims.holds(record(), "n2", 2) and not claims.holds(record(), "n1", 1)
    assert not claims.holds(record(state="exited"), "n1", 2)


def test_a_pending_process_keeps_the_wish_and_an_ended_wish_stays() -> None:
    pending = record(state="pending")
    assert (claims.frozen(pending).state, claims.frozen(pending).wanted) == ("pending", "frozen")
    assert (claims.thawed(claims.frozen(pending)).state, claims.thawed(claims.frozen(pending)).wanted) == ("pending", "running")
    for wish in (claims.thawed(claims.frozen(claims.stopped(record()))), claims.frozen(claims.stopped(record()))):
        assert wish.wanted == "stopped"


@pytest.mark.parametrize(
    ("fields", "outcome"),
    [
        ({}, "again"),
        ({"restart": "never"}, "lost"),
        ({"on_partition": "stop"}, "lost"),
        ({"on_partition": "keep"}, "kept"),
        ({"state": "pending", "on_partition": "keep"}, "kept"),
        ({"wanted": "stopped"}, "lost"),
        ({"state": "frozen", "wanted": "frozen"}, "again"),
    ],
)
def test_on_loss(fields: dict[str, object], outcome: str) -> None:
    assert claims.on_loss(record(**fields)) == outcome


def test_each_claim_raises_the_incarnation_and_says_why() -> None:
    again = claims.claimed(record(), "n2", "n1 was lost")
    assert (again.incarnation, again.node, again.state) == (3, "n2", "pending") and "n1 was lost" in again.reason
    gone = claims.lost(record(restart="never"), "n1 was lost", 9)
    assert gone.state == "lost" and "never" in gone.reason and gone.ended_ms == 9
    over = claims.restarted(record(state="exited", exit_code=3, restart="always"), "n2")
    assert (over.incarnation, over.restarts, over.exit_code) == (3, 1, None)


def test_restart_policies_and_their_bound() -> None:
    ended = record(state="exited", exit_code=3)
    for restart, wanted in (("never", False), ("on-loss", False), ("on-failure", True), ("always", True)):
        assert claims.wants_restart(msgspec.structs.replace(ended, restart=restart)) is wanted
    assert not claims.wants_restart(msgspec.structs.replace(ended, restart="on-failure", exit_code=0))
    assert not claims.wants_restart(msgspec.structs.replace(ended, restart="always", restarts=10))
    assert not claims.wants_restart(msgspec.structs.replace(ended, restart="always", wanted="stopped"))


def test_what_is_killed_before_it_is_started_again_keeps_how_it_ended() -> None:
    ended = record(state="exited", exit_code=137, restart="always", reason="its bound of memory")
    forgone = claims.forgone(ended, "ada ended it")
    assert not claims.wants_restart(forgone)
    assert (forgone.state, forgone.exit_code, forgone.reason) == ("exited", 137, "its bound of memory; ada ended it")


@pytest.mark.parametrize(("now", "then"), [("exited", "running"), ("lost", "exited"), ("failed", "running")])
def test_what_has_ended_does_not_come_to_life(now: State, then: State) -> None:
    with pytest.raises(AssertionError):
        claims._becomes(record(state=now), then)


def plan(tree: Tree | None, held: ProcessRecord | None, ripe: frozenset[int] = frozenset()) -> list[reconcile.Order]:
    return reconcile.plan("n1", [tree] if tree else [], {held.pid: held} if held else {}, ripe)


def test_reconcile() -> None:
    here = Tree(300, 2, "running")
    assert plan(here, record()) == [Confirm(300, 2)]
    assert plan(here, record(state="pending")) == [Confirm(300, 2), Adopt(300, 2)]
    assert plan(here, record(incarnation=3, node="n2")) == [Supersede(300, 2, 3)]
    assert plan(here, record(node="n2")) == [Supersede(300, 2, 3)]
    assert plan(here, record(state="lost")) == [Supersede(300, 2, 3)]
    assert plan(here, None) == [Supersede(300, 2, 3)]
    assert plan(Tree(300, 2, "ended"), record()) == [Report(300, 2)]
    assert plan(Tree(300, 2, "ended"), record(state="exited")) == []
    assert plan(Tree(300, 2, "ended"), record(incarnation=3)) == [Drop(300, 2), Gone(300, 3)]
    assert plan(Tree(300, 2, "ended"), None) == [Drop(300, 2)]
    assert plan(None, record()) == [Gone(300, 2)]
    assert plan(None, record(state="pending")) == []
    assert plan(None, record(state="pending"), frozenset({300})) == [StartNow(300, 2)]
    assert plan(None, record(node="n2")) == []
    assert not reconcile.doubtful([Confirm(300, 2), Adopt(300, 2)]) and reconcile.doubtful([Supersede(300, 2, 3)])
    assert reconcile.doubtful([Confirm(300, 2), Adopt(300, 2)], frozenset({300})) == {Adopt(300, 2)}


def test_recovery_every_survivor_has_another_rank_and_only_the_lost_nodes_processes_count() -> None:
    nodes = ["n2", "n3", "n4"]
    assert sorted(recovery.rank(300, me, nodes) for me in nodes) == [0, 1, 2]
    others = [record(), record(pid=301, node="n2"), record(pid=302, state="exited")]
    assert [claim.pid for claim in recovery.plan("n1", others, "n2", nodes)] == [300]
    assert [claim.pid for claim in recovery.restarts([record(state="exited", exit_code=1, restart="always")], "n2", nodes)] == [300]


def test_placement_least_loaded_and_only_where_it_may() -> None:
    nodes = [Candidate("n1", 4, 4, ("*", "root")), Candidate("n2", 1, 2, ("*",)), Candidate("n3", 0, 1, ("bob",))]
    assert placement.least_loaded(nodes) == ["n3", "n2", "n1"]
    assert [node.name for node in placement.eligible(nodes, "ann", "")] == ["n1", "n2"]
    assert [node.name for node in placement.eligible(nodes, "root", "")] == ["n1"]
    assert [node.name for node in placement.eligible(nodes, "bob", "", ["n1"])] == ["n2", "n3"]
    assert [node.name for node in placement.eligible(nodes, "bob", "n3")] == ["n3"]


def test_a_policy_that_raises_or_answers_nonsense_is_passed_over_and_said() -> None:
    nodes = [Candidate("n1", 4, 4, ("*",)), Candidate("n2", 1, 2, ("*",))]

    def broken(_candidates: list[Candidate]) -> list[str]:
        raise ValueError("oh")

    for policy in (broken, lambda _candidates: ["n1"], lambda _candidates: ["n1", "n9"], lambda _candidates: None):
        names, wrong = placement.order(policy, nodes)  # type: ignore[arg-type]
        assert names == ["n2", "n1"] and "passed over" in wrong
    assert placement.order(lambda _candidates: ["n1", "n2"], nodes) == (["n1", "n2"], "")


def test_what_waited_no_longer_says_why_once_it_is_assigned_and_a_later_incarnation_still_says_why_there_is_one() -> None:
    waited = record(state="pending", node="", incarnation=1, reason="waits for a core: 8 of 8 are set aside")
    assert (taken := claims.taken_up(waited, "n2", "policy pack")).reason == "" and (taken.node, taken.why) == ("n2", "policy pack")
    assert claims.taken_up(record(state="pending", node="", reason="n1 was lost"), "n2", "").reason == "n1 was lost"
