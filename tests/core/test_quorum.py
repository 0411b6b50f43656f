"""Who has a member of the system's own etcd, decided step by step against a model of what etcd itself takes."""

import random

import pytest

from unios.core.quorum import ILL_ALONE_MS, ILL_MS, LEARNS_MS, LOST_MS, VOTERS, Candidate, Member, Step, decide


def node(number: int, machine: int = 0, **more: object) -> Candidate:
    return Candidate(f"n{number}", f"m{machine or number}", f"https://10.0.0.{number}:2380", f"https://10.0.0.{number}:2379", **more)  # type: ignore[arg-type]


def member(number: int, *, learner: bool = False, name: str = "?") -> Member:
    return Member(100 + number, f"n{number}" if name == "?" else name, f"https://10.0.0.{number}:2380", learner)


class Cluster:
    """Nodes and the members that they have; takes steps as etcd does: only while a majority of the voters is there."""

    def __init__(self, nodes: dict[str, Candidate], members: list[Member]) -> None:
        self.nodes, self.members = nodes, members

    def is_there(self, one: Member) -> bool:
        found = next((each for each in self.nodes.values() if each.peer == one.peer), None)
        return found is not None and not found.gone and not found.absent_ms and not one.ill_ms

    def serves(self) -> bool:
        voters = [one for one in self.members if not one.learner]
        return sum(map(self.is_there, voters)) * 2 > len(voters)

    def take(self, step: Step) -> None:
        assert self.serves()
        at = next((at for at, one in enumerate(self.members) if one.id == step.member), -1)
        match step.what:
            case "add":
                peer = self.nodes[step.node].peer
                assert all(one.peer != peer for one in self.members)
                self.members.append(Member(max(one.id for one in self.members) + 1, "", peer, True))
            case "promote":
                assert self.members[at].learner and self.is_there(self.members[at])
                self.members[at] = self.members[at]._replace(learner=False, name=step.node)
            case "move":
                self.members[at] = self.members[at]._replace(peer=self.nodes[step.node].peer)
            case "remove":
                if self.members[at].ill_ms and step.node in self.nodes:
                    self.nodes[step.node] = self.nodes[step.node]._replace(failed=True)
                del self.members[at]

    def settle(self) -> list[Step]:
        taken: list[Step] = []
        while (step := decide(self.nodes.values(), self.members)) is not None:
            taken.append(step)
            assert len(taken) < 30, taken
            self.take(step)
        return taken


def cluster(*nodes: Candidate, members: tuple[int, ...] = (1,)) -> Cluster:
    return Cluster({each.name: each for each in nodes}, [member(number) for number in members])


def test_it_grows_to_three_through_learners() -> None:
    grown = cluster(node(1), node(2), node(3), node(4))
    assert [(step.what, step.node) for step in grown.settle()] == [("add", "n2"), ("promote", "n2"), ("add", "n3"), ("promote", "n3")]


@pytest.mark.parametrize("count", [1, 2])
def test_with_fewer_than_three_nodes_there_is_one(count: int) -> None:
    assert cluster(*(node(number) for number in range(1, count + 1))).settle() == []


def test_a_node_without_etcd_gets_none() -> None:
    assert cluster(node(1), node(2), node(3)._replace(peer="", client="")).settle() == []


def test_machines_come_before_nodes() -> None:
    crowded = cluster(node(1, 1), node(2, 1), node(3, 1), node(4, 2))
    assert [step.node for step in crowded.settle() if step.what == "add"] == ["n4", "n2"]


def test_two_members_of_one_machine_part_when_there_is_another() -> None:
    spread = cluster(node(1, 1), node(2, 1), node(3, 2), node(4, 3), members=(1, 2, 3))
    assert [(step.what, step.node) for step in spread.settle()] == [("remove", "n2"), ("add", "n4"), ("promote", "n4")]


def test_a_lost_node_keeps_its_member_for_a_while_and_for_good_if_nobody_else_can_have_it() -> None:
    for absent_ms in (1, LOST_MS - 1):
        assert cluster(node(1, absent_ms=absent_ms), node(2), node(3), node(4), members=(1, 2, 3)).settle() == []
    assert cluster(node(1, absent_ms=10 * LOST_MS), node(2), node(3), members=(1, 2, 3)).settle() == []


def test_after_that_another_gets_it() -> None:
    replaced = cluster(node(1, absent_ms=LOST_MS), node(2), node(3), node(4), members=(1, 2, 3))
    assert [(step.what, step.node) for step in replaced.settle()] == [("remove", "n1"), ("add", "n4"), ("promote", "n4")]


def test_one_that_has_left_is_let_go_at_once_and_two_become_one() -> None:
    shrunk = cluster(node(1), node(2), node(3, gone=True), members=(1, 2, 3))
    assert [(step.what, step.node) for step in shrunk.settle()] == [("remove", "n3"), ("remove", "n2")]


def test_a_member_whose_node_nobody_knows_is_let_go() -> None:
    assert [step.member for step in cluster(node(1), node(2), node(3), members=(1, 2, 3, 9)).settle()] == [109]


def test_nothing_is_taken_from_those_that_could_not_decide_without_it() -> None:
    assert decide([node(1), node(2, gone=True)], [member(1), member(2)]) is None
    assert decide([node(1), node(2, absent_ms=LOST_MS), node(3, absent_ms=LOST_MS), node(4)], [member(1), member(2), member(3)]) is None


def test_a_learner_whose_node_goes_away_is_let_go() -> None:
    step = decide([node(1), node(2, absent_ms=1), node(3)], [member(1), member(2, learner=True, name="")])
    assert step is not None and (step.what, step.member) == ("remove", 102)


def test_a_new_address_is_told_first() -> None:
    moved = node(2)._replace(peer="https://10.0.0.22:2380")
    step = decide([node(1), moved, node(3)], [member(1), member(2), member(3, learner=True)])
    assert step is not None and (step.what, step.member, step.node) == ("move", 102, "n2")


def _falls_ill(chance: random.Random, world: Cluster) -> None:
    """A member stops answering while its node is there, or answers again."""
    at = chance.randrange(len(world.members))
    before = world.members[at]
    world.members[at] = before._replace(ill_ms=chance.choice([0, 1, ILL_MS, ILL_ALONE_MS]))
    if not world.serves():
        world.members[at] = before


def _happens(chance: random.Random, world: Cluster) -> None:
    if chance.random() < 0.2:
        _falls_ill(chance, world)
        return
    name = chance.choice([*world.nodes, f"n{len(world.nodes) + 1}"])
    if name not in world.nodes:
        world.nodes[name] = node(len(world.nodes) + 1, chance.randint(1, 5))
        return
    one = world.nodes[name]
    after = chance.choice(
        [one._replace(absent_ms=0), one._replace(absent_ms=chance.choice([1, LOST_MS])), one._replace(gone=True), one._replace(absent_ms=0)]
    )
    world.nodes[name] = after
    if not world.serves() or not any(not each.gone for each in world.nodes.values()):
        world.nodes[name] = one  # more than one may lose: what is promised ends there


@pytest.mark.parametrize("seed", range(60))
def test_whatever_happens_it_settles_and_no_step_stops_what_serves(seed: int) -> None:
    chance = random.Random(seed)
    world = cluster(*(node(number, chance.randint(1, 4)) for number in range(1, chance.randint(2, 7))))
    for _ in range(60):
        _happens(chance, world)
        for _step in range(chance.randint(0, 3)):
            step = decide(world.nodes.values(), world.members)
            if step is not None:
                world.take(step)
                assert world.serves(), step
    world.nodes = {name: one._replace(absent_ms=0, failed=False) for name, one in world.nodes.items()}
    world.members = [one._replace(ill_ms=0) for one in world.members]
    world.settle()
    fit = [one for one in world.nodes.values() if not one.gone]
    voters = [one for one in world.members if not one.learner]
    assert len(voters) == len(world.members) == (VOTERS if len(fit) >= VOTERS else 1)
    machines = {one.machine for one in fit}
    assert len({world.nodes[one.name].machine for one in voters}) == min(len(voters), len(machines))


def test_a_learner_that_does_not_catch_up_gives_way_to_another_node() -> None:
    nodes = [node(1), node(2), node(3)]
    waits = [member(1), member(2, learner=True, name="")._replace(waits_ms=LEARNS_MS - 1)]
    assert (step := decide(nodes, waits)) is not None and step.what == "promote"
    waits[1] = waits[1]._replace(waits_ms=LEARNS_MS)
    assert (step := decide(nodes, waits)) is not None and (step.what, step.node, step.member) == ("remove", "n2", 102)
    nodes[1] = nodes[1]._replace(failed=True)
    assert (step := decide(nodes, waits[:1])) is not None and (step.what, step.node) == ("add", "n3")
    assert (step := decide(nodes, [member(1), member(3)])) is not None and (step.what, step.node) == ("add", "n2"), "it is the only one"


def ill(*members: int, ms: int, of: tuple[int, ...] = (1, 2, 3)) -> list[Member]:
    return [member(number)._replace(ill_ms=ms if number in members else 0) for number in of]


def test_a_member_that_does_not_answer_on_a_node_that_is_there_is_replaced() -> None:
    nodes = [node(1), node(2), node(3), node(4)]
    assert decide(nodes, ill(2, ms=ILL_MS - 1)) is None
    replaced = Cluster({each.name: each for each in nodes}, ill(2, ms=ILL_MS))
    assert [(step.what, step.node) for step in replaced.settle()] == [("remove", "n2"), ("add", "n4"), ("promote", "n4")]


def test_where_no_other_node_can_have_it_its_own_gets_a_new_one_once() -> None:
    nodes = [node(1), node(2), node(3)]
    assert decide(nodes, ill(2, ms=ILL_ALONE_MS - 1)) is None
    again = Cluster({each.name: each for each in nodes}, ill(2, ms=ILL_ALONE_MS))
    assert [(step.what, step.node) for step in again.settle()] == [("remove", "n2"), ("add", "n2"), ("promote", "n2")]
    nodes[1] = nodes[1]._replace(failed=True)
    assert decide(nodes, ill(2, ms=ILL_ALONE_MS)) is None, "a new one fell ill too: that is no matter of its copy"


def test_an_ill_member_is_kept_if_the_others_could_not_decide_without_it() -> None:
    assert decide([node(1), node(2), node(3), node(4)], ill(2, 3, ms=10 * ILL_ALONE_MS)) is None
    assert decide([node(1, absent_ms=1), node(2), node(3), node(4)], ill(2, ms=10 * ILL_ALONE_MS)) is None
    assert decide([node(1), node(2), node(3)], ill(1, ms=10 * ILL_ALONE_MS, of=(1,))) is None


def test_a_learner_that_does_not_answer_gets_no_vote() -> None:
    learner = member(2, learner=True, name="")
    assert decide([node(1), node(2), node(3)], [member(1), learner._replace(ill_ms=1)]) is None
    step = decide([node(1), node(2), node(3)], [member(1), learner._replace(ill_ms=1, waits_ms=LEARNS_MS)])
    assert step is not None and step.what == "remove"


def test_nothing_rests_on_one_that_may_leave() -> None:
    nodes = [node(1), node(2), node(3)._replace(leaving=True), node(4, absent_ms=1)]
    assert decide(nodes, ill(2, ms=10 * ILL_ALONE_MS)) is None
    assert decide([node(1), node(2), node(3)._replace(leaving=True)], [member(1)]) is not None
    grown = cluster(node(1), node(2), node(3)._replace(leaving=True), node(4))
    assert [step.node for step in grown.settle()] == ["n2", "n2", "n4", "n4"]
