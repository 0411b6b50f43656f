"""When members of etcd are compacted and defragmented: one at a time, the leader last, and only if it pays."""

from unios.core.upkeep import MIB, PAYS_BYTES, State, Upkeep, decide

QUOTA = 1_000 * MIB


def state(
    number: int, size: int = 10, used: int = 10, *, leader: bool = False, alarm: str = "", answers: bool = True, learner: bool = False
) -> State:
    return State(number, f"n{number}", answers, learner, leader, size * MIB, used * MIB, alarm)


def step(*members: State, compacted: bool = True) -> Upkeep | None:
    return decide(members, QUOTA, compacted=compacted)


def settle(members: list[State]) -> list[int]:
    """Defragment as is decided; return whom."""
    done: list[int] = []
    while (found := decide(members, QUOTA, compacted=True, rewritten=done)) is not None and found.what == "defragment":
        done.append(found.member)
        members = [one._replace(bytes=one.used_bytes) if one.id == found.member else one for one in members]
    return done


def test_the_leader_comes_last_and_each_once() -> None:
    assert settle([state(1, 300, 20, leader=True), state(2, 200, 20), state(3, 250, 20)]) == [3, 2, 1]


def test_what_does_not_pay_is_left() -> None:
    pays = PAYS_BYTES // MIB
    assert step(state(1, pays, 1), state(2), state(3)) is None and step(state(1, 400, 250), state(2), state(3)) is None
    assert step(state(1, 2 * pays, pays), state(2), state(3)) is not None


def test_nothing_is_done_while_one_is_away_or_learns() -> None:
    for other in (state(2, answers=False), state(2, learner=True), state(2, alarm="corrupt")):
        assert step(state(1, 900, 1, alarm="nospace"), other, state(3), compacted=False) is None


def test_the_only_member_is_left_alone_until_room_is_short() -> None:
    assert step(state(1, 500, 10, leader=True)) is None
    assert step(state(1, 800, 10, leader=True), compacted=False) == Upkeep("compact", 0, "its file has come near what it may have")
    assert (found := step(state(1, 800, 10, leader=True))) is not None and found.what == "defragment"


def test_an_alarm_is_taken_back_when_there_is_room_and_not_before() -> None:
    full = [state(1, 1_000, 100, alarm="nospace"), state(2, 1_000, 100, leader=True), state(3, 1_000, 100)]
    assert (found := step(*full, compacted=False)) is not None and found.what == "compact"
    assert settle(full) == [1, 3, 2]
    assert settle([one._replace(used_bytes=one.bytes) for one in full]) == [1, 3, 2], "what was freed is not said yet"
    roomy = [one._replace(bytes=one.used_bytes) for one in full]
    assert decide(roomy, QUOTA, compacted=True, rewritten=(1, 2, 3)) == Upkeep("disarm", 1, "n1 has room again")
    assert decide(full, QUOTA, compacted=True, rewritten=(1, 2, 3)) is None, "what it has are records: a person has to act"
    assert decide(roomy, 0, compacted=True, rewritten=(1, 2, 3)) is None
