"""The checkers themselves: histories written by hand, objects that are right, objects that are wrong in a planted way, and every order tried."""

import zlib
from collections.abc import Sequence
from random import Random
from typing import Any

import msgspec
import pytest

from tests.histories import bank, judge, linear, simulated, transactions
from tests.histories.brute import is_linearizable, is_serializable
from tests.histories.history import Asked, Began, Ended, Operation, Outcome
from tests.histories.linear import Model
from tests.histories.models import lock, queue, register
from tests.histories.models import set as sets
from tests.histories.simulated import Thing
from tests.histories.transactions import Transaction

SEEDS = 60


def asked(workload: str, *lines: tuple[Any, ...], key: str = "x") -> list[Asked]:
    """Return a history of lines (client, action, argument, began, ended or None, result, outcome, note); the last three may be left out."""
    found = []
    for number, line in enumerate(lines):
        client, action, argument, began, ended, *rest = line
        result, outcome, note = [*rest, *(None, "ok", "")[len(rest) :]]
        said = Ended(client, number, outcome, result, ended, note) if ended is not None else None
        found.append(Asked(Began(client, number, workload, key, action, argument, began), said))
    return found


def word(workload: str, *lines: tuple[Any, ...]) -> str:
    (verdict,) = judge.of(workload, asked(workload, *lines)).values()
    return verdict.word


UNKNOWN: tuple[None, Outcome] = (None, "unknown")

GOOD_AND_BAD: dict[str, tuple[str, str, tuple[tuple[Any, ...], ...]]] = {
    "a read during a write sees either": ("good", "register", (("a", "write", 1, 0, 9), ("b", "read", None, 1, 2), ("b", "read", None, 3, 4, 1))),
    "a read after a write sees it": ("bad", "register", (("a", "write", 1, 0, 1), ("b", "read", None, 2, 3))),
    "two reads during a write go forward": ("bad", "register", (("a", "write", 1, 0, 9), ("b", "read", None, 1, 2, 1), ("b", "read", None, 3, 4))),
    "a stale read": ("bad", "register", (("a", "write", 1, 0, 1), ("a", "write", 2, 2, 3), ("b", "read", None, 4, 5, 1))),
    "an unknown write that takes effect late": (
        "good",
        "register",
        (("a", "write", 1, 0, 1, *UNKNOWN), ("b", "write", 2, 2, 3), ("b", "read", None, 4, 5, 2), ("b", "read", None, 6, 7, 1)),
    ),
    "an unknown write that takes effect twice": (
        "bad",
        "register",
        (
            ("a", "write", 1, 0, None),
            ("b", "read", None, 1, 2, 1),
            ("b", "write", 2, 3, 4),
            ("b", "read", None, 5, 6, 2),
            ("b", "read", None, 7, 8, 1),
        ),
    ),
    "a write that was said to have failed": ("bad", "register", (("a", "write", 1, 0, 1, None, "fail"), ("b", "read", None, 2, 3, 1))),
    "two swaps of the same value": ("bad", "register", (("a", "swap", [None, 1], 0, 9, [True, None]), ("b", "swap", [None, 2], 0, 9, [True, None]))),
    "a swap that says what it found": (
        "good",
        "register",
        (("a", "swap", [None, 1], 0, 9, [True, None]), ("b", "swap", [None, 2], 0, 9, [False, 1])),
    ),
    "a swap that had no reason to fail": ("bad", "register", (("a", "swap", [None, 1], 0, 1, [False, None]),)),
    "an element that was added is read": ("bad", "set", (("a", "add", 1, 0, 1), ("b", "read", None, 2, 3, []))),
    "an element that nobody added": ("bad", "set", (("b", "read", None, 2, 3, [1]),)),
    "an unknown element seen, then not": ("bad", "set", (("a", "add", 1, 0, None), ("b", "read", None, 1, 2, [1]), ("b", "read", None, 3, 4, []))),
    "two reads that saw two adds in different orders": (
        "bad",
        "set",
        (("a", "add", 1, 0, 9), ("b", "add", 2, 0, 9), ("c", "read", None, 1, 2, [1]), ("d", "read", None, 1, 2, [2])),
    ),
    "a queue in order": ("good", "queue", (("a", "put", 1, 0, 1), ("a", "put", 2, 2, 3), ("b", "get", None, 4, 5, 1), ("b", "get", None, 6, 7, 2))),
    "a queue out of order": (
        "bad",
        "queue",
        (("a", "put", 1, 0, 1), ("a", "put", 2, 2, 3), ("b", "get", None, 4, 5, 2), ("b", "get", None, 6, 7, 1)),
    ),
    "an item twice": ("bad", "queue", (("a", "put", 1, 0, 1), ("b", "get", None, 2, 3, 1), ("c", "get", None, 4, 5, 1))),
    "an item lost": ("bad", "queue", (("a", "put", 1, 0, 1), ("b", "get", None, 2, 3), ("a", "put", 2, 4, 5))),
    "an item lost whose putter is not there any more": ("good", "queue", (("a", "put", 1, 0, 1), ("b", "get", None, 2, 3))),
    "a loss that only one of two users is told of": (
        "bad",
        "queue",
        (
            ("b", "get", None, 0, 1),
            ("a", "put", 1, 2, 3),
            ("c", "get", None, 4, 5),
            ("a", "get", None, 6, 7, None, "fail", "lost"),
            ("b", "get", None, 8, 9),
        ),
    ),
    "an item lost, and its putter was told": (
        "good",
        "queue",
        (("a", "put", 1, 0, 1), ("b", "get", None, 2, 3), ("a", "put", 2, 4, 5, None, "fail", "lost")),
    ),
    "an item that was there after the loss that one was told of": (
        "bad",
        "queue",
        (("a", "put", 1, 0, 1), ("a", "put", 2, 2, 3, None, "fail", "lost"), ("a", "put", 3, 4, 5), ("b", "get", None, 6, 7), ("a", "put", 4, 8, 9)),
    ),
    "an unknown put that is got late": ("good", "queue", (("a", "put", 1, 0, None), ("b", "get", None, 2, 3), ("b", "get", None, 4, 5, 1))),
    "an unknown put that is got twice": ("bad", "queue", (("a", "put", 1, 0, None), ("b", "get", None, 2, 3, 1), ("b", "get", None, 4, 5, 1))),
    "an unknown get that took the item": ("good", "queue", (("a", "put", 1, 0, 1), ("b", "get", None, 2, None), ("c", "get", None, 4, 5))),
    "an unknown get that took two items": (
        "bad",
        "queue",
        (("a", "put", 1, 0, 1), ("a", "put", 2, 1, 2), ("b", "get", None, 3, None), ("c", "get", None, 4, 5), ("a", "put", 3, 6, 7)),
    ),
    "one holder after the other": (
        "good",
        "lock",
        (("a", "acquire", "write", 0, 1, [1, 1]), ("a", "release", [1, 1], 2, 3), ("b", "acquire", "write", 0, 9, [1, 2])),
    ),
    "two holders": ("bad", "lock", (("a", "acquire", "write", 0, 1, [1, 1]), ("b", "acquire", "write", 2, 3, [1, 2]), ("a", "check", [1, 1], 4, 5))),
    "a holder that says no more": ("good", "lock", (("a", "acquire", "write", 0, 1, [1, 1]), ("b", "acquire", "write", 2, 3, [1, 2]))),
    "a holder that lost it and was told": (
        "good",
        "lock",
        (("a", "acquire", "write", 0, 1, [1, 1]), ("b", "acquire", "write", 2, 3, [1, 2]), ("a", "check", [1, 1], 4, 5, None, "fail", "lost")),
    ),
    "a holder that held it when another had it": (
        "bad",
        "lock",
        (
            ("a", "acquire", "write", 0, 1, [1, 1]),
            ("b", "acquire", "write", 2, 3, [1, 2]),
            ("a", "check", [1, 1], 4, 5),
            ("a", "check", [1, 1], 6, 7, None, "fail", "lost"),
        ),
    ),
    "a token that is not greater": (
        "bad",
        "lock",
        (("a", "acquire", "write", 0, 1, [1, 2]), ("a", "release", [1, 2], 2, 3), ("b", "acquire", "write", 4, 5, [1, 1])),
    ),
    "readers together": (
        "good",
        "rwlock",
        (("a", "acquire", "read", 0, 1, [1, 1]), ("b", "acquire", "read", 2, 3, [1, 2]), ("a", "check", [1, 1], 4, 5), ("b", "check", [1, 2], 4, 5)),
    ),
    "a reader beside a writer": (
        "bad",
        "rwlock",
        (("a", "acquire", "write", 0, 1, [1, 1]), ("b", "acquire", "read", 2, 3, [1, 2]), ("a", "check", [1, 1], 4, 5)),
    ),
    "lists in order": (
        "good",
        "append",
        (("a", "do", {"x": 1}, 0, 1, {"x": []}), ("b", "do", {"x": 2}, 2, 3, {"x": [1]}), ("c", "do", {}, 2, 9, {"x": [1, 2]})),
    ),
    "an append that nobody finds": ("bad", "append", (("a", "do", {"x": 1}, 0, 1, {"x": []}), ("c", "do", {}, 2, 9, {"x": []}))),
    "an append that was said to have failed": (
        "bad",
        "append",
        (("a", "do", {"x": 1}, 0, 1, None, "fail"), ("c", "do", {}, 2, 9, {"x": [1]})),
    ),
    "two that did not see each other": (
        "bad",
        "append",
        (
            ("a", "do", {"x": 1}, 0, 9, {"x": [], "y": []}),
            ("b", "do", {"y": 2}, 0, 9, {"x": [], "y": []}),
            ("c", "do", {}, 10, 11, {"x": [1], "y": [2]}),
        ),
    ),
    "half of a transaction": (
        "bad",
        "append",
        (("a", "do", {"x": 1, "y": 1}, 0, 9, {"x": [], "y": []}), ("c", "do", {}, 1, 2, {"x": [1], "y": []})),
    ),
    "an unknown transaction that was done": (
        "good",
        "append",
        (("a", "do", {"x": 1, "y": 1}, 0, None), ("c", "do", {}, 1, 2, {"x": [], "y": []}), ("c", "do", {}, 3, 4, {"x": [1], "y": [1]})),
    ),
    "a transfer": (
        "good",
        "bank",
        (("a", "do", {"x": [1, -3], "y": [1, 3]}, 0, 1, {"x": [], "y": []}), ("c", "do", {}, 2, 3, {"x": [[1, -3]], "y": [[1, 3]]})),
    ),
    "more than there was": (
        "bad",
        "bank",
        (("a", "do", {"x": [1, -30], "y": [1, 30]}, 0, 1, {"x": [], "y": []}), ("c", "do", {}, 2, 3, {"x": [[1, -30]], "y": [[1, 30]]})),
    ),
    "money from nowhere": (
        "bad",
        "bank",
        (("a", "do", {"x": [1, -3], "y": [1, 4]}, 0, 1, {"x": [], "y": []}), ("c", "do", {}, 2, 3, {"x": [[1, -3]], "y": [[1, 4]]})),
    ),
    "a table in order": (
        "good",
        "table",
        (
            ("a", "submit", ["p", 3], 0, 1, 300),
            ("a", "view", 300, 2, 3, [300, 1, "running", None]),
            ("b", "view", 300, 2, 4, [300, 2, "running", None]),
            ("h", "ran", [300, 1], 2, 3),
            ("h", "ran", [300, 2], 4, 5),
            ("a", "list", None, 6, 7, [[300, 2, "exited", 3]], "ok", "last"),
        ),
    ),
    "a pid twice": ("bad", "table", (("a", "submit", ["p", 3], 0, 1, 300), ("b", "submit", ["q", 3], 0, 1, 300))),
    "a process that is nowhere": ("bad", "table", (("a", "submit", ["p", 3], 0, 1, 300), ("a", "list", None, 6, 7, [], "ok", "last"))),
    "a process that goes back": (
        "bad",
        "table",
        (("a", "view", 300, 2, 3, [300, 1, "exited", 0]), ("a", "view", 300, 4, 5, [300, 1, "running", None])),
    ),
    "an incarnation that goes back": (
        "bad",
        "table",
        (("a", "view", 300, 2, 3, [300, 2, "pending", None]), ("a", "view", 300, 4, 5, [300, 1, "running", None])),
    ),
    "an end with two codes": ("bad", "table", (("a", "view", 300, 2, 3, [300, 1, "exited", 0]), ("b", "view", 300, 1, 5, [300, 1, "exited", 1]))),
    "a code of another": ("bad", "table", (("a", "submit", ["p", 3], 0, 1, 300), ("a", "view", 300, 2, 3, [300, 1, "exited", 4]))),
    "two incarnations at a time": ("bad", "table", (("h", "ran", [300, 1], 2, 5), ("h", "ran", [300, 2], 4, 9))),
}


@pytest.mark.parametrize("name", GOOD_AND_BAD)
def test_a_history_written_by_hand_is_judged_as_it_is(name: str) -> None:
    expected, workload, lines = GOOD_AND_BAD[name]
    assert word(workload, *lines) == expected


MANY = [(thing, defect) for thing in simulated.THINGS for defect in (*thing.defects, *(["twice"] if thing is not simulated.Lock else []))]


def verdict_of(thing: type[Thing], defect: str, seed: int, count: int = 60) -> linear.Verdict:
    rng = Random(zlib.crc32(f"{thing.workload} {defect} {seed}".encode()))
    asked = simulated.history(thing(rng, defect), rng, count=count, unknown=0.25 if defect == "twice" else 0.08)
    (verdict,) = judge.of(thing.workload, asked).values()
    return verdict


@pytest.mark.parametrize("thing", simulated.THINGS)
def test_what_a_right_object_answers_is_good(thing: type[Thing]) -> None:
    for seed in range(SEEDS):
        assert verdict_of(thing, "", seed).word == "good", f"seed {seed}:\n{verdict_of(thing, '', seed)}"


@pytest.mark.parametrize(("thing", "defect"), MANY, ids=[f"{thing.workload}: {defect}" for thing, defect in MANY])
def test_what_a_wrong_object_answers_is_bad(thing: type[Thing], defect: str) -> None:
    verdicts = [verdict_of(thing, defect, seed) for seed in range(SEEDS // 5)]
    bad = [verdict for verdict in verdicts if verdict.word == "bad"]
    assert {verdict.word for verdict in verdicts} <= {"good", "bad"}
    assert len(bad) >= 2, f"{len(bad)} of {len(verdicts)} are found"
    assert all(verdict.bad and verdict.why for verdict in bad)


# every order tried


def some(rng: Random, model: Model, choices: Sequence[tuple[str, Any, Sequence[Any]]]) -> list[Operation]:
    """Return some operations on an object, with answers that it may give and others."""
    found = []
    for number in range(rng.randrange(2, 7)):
        action, argument, results = rng.choice(choices)
        began = rng.randrange(0, 12)
        must = rng.random() < 0.75
        ended = began + rng.randrange(1, 8) if must or rng.random() < 0.5 else None
        found.append(Operation(f"c{number}", action, argument, rng.choice(results) if must else None, began, ended, must))
    return found


CHOICES: dict[str, tuple[Model, Sequence[tuple[str, Any, Sequence[Any]]]]] = {
    "register": (
        register.Register(),
        [
            ("read", None, (None, 1, 2)),
            ("write", 1, (None,)),
            ("write", 2, (None,)),
            ("swap", [1, 2], ([True, None], [False, 2])),
            ("swap", [2, 1], ([True, None], [False, 1])),
        ],
    ),
    "set": (sets.Set(), [("add", 1, (None,)), ("add", 2, (None,)), ("remove", 1, (None,)), ("read", None, ([], [1], [2], [1, 2]))]),
    "lock": (
        lock.Lock(),
        [("acquire", kind, ([1, token],)) for kind in ("read", "write") for token in (1, 2)]
        + [(action, [1, token], (None,)) for action in ("release", "check") for token in (1, 2)],
    ),
}


@pytest.mark.parametrize("name", CHOICES)
def test_the_checker_says_what_trying_every_order_says(name: str) -> None:
    model, choices = CHOICES[name]
    words = []
    for seed in range(1_500):
        operations = some(Random(seed), model, choices)
        if name == "lock":  # an acquisition of which nobody has heard has no token
            operations = [one for one in operations if one.action != "acquire" or one.must]
        expected = is_linearizable(model, operations)
        found = linear.check(model, operations)
        assert found.word == ("good" if expected else "bad"), f"seed {seed}:\n" + "\n".join(map(str, operations))
        words.append(found.word)
    assert min(words.count("good"), words.count("bad")) > 50


QUEUE = [("put", None, (None,))] * 3 + [("get", None, (1, 2, 3, None))] * 5 + [("told", None, (None,))]


def test_the_checker_says_of_queues_what_trying_every_order_says() -> None:
    words = []
    for seed in range(4_000):
        rng = Random(seed)
        operations, puts, gets = [], iter(range(1, 9)), list(range(1, 5))
        for one in some(rng, queue.Queue(), QUEUE):
            changes: dict[str, Any] = {"client": rng.choice("ab")}
            if one.action == "put":
                changes["argument"] = next(puts)
            elif one.action == "get" and one.must and one.result is not None:
                changes["result"] = gets.pop(rng.randrange(min(2, len(gets)))) if len(gets) > 1 else None
            elif one.action == "get" and not one.must:
                changes["ended_ns"] = None
            operations.append(msgspec.structs.replace(one, **changes))
        found = linear.check(queue.Queue(), operations)
        assert found.is_good == is_linearizable(queue.Queue(), operations), f"seed {seed}:\n" + "\n".join(map(str, operations))
        words.append(found.word)
    assert min(words.count("good"), words.count("bad")) > 400


def test_what_a_lock_is_told_of_its_history_changes_no_verdict() -> None:
    words = []
    for seed in range(3_000):
        rng = Random(seed)
        operations = []
        for number in range(1, rng.randrange(3, 5)):
            began = rng.randrange(0, 12)
            ended = began + rng.randrange(1, 6)
            operations.append(Operation("c", "acquire", rng.choice(["read", "write"]), [1, number], began, ended))
            if rng.random() < 0.5:
                began = rng.randrange(ended, ended + 6)
                operations.append(Operation("c", "check", [1, number], None, began, began + rng.randrange(1, 4)))
            if rng.random() < 0.8:
                operations.append(Operation("c", rng.choice(["release", "lose"]), [1, number], None, rng.randrange(ended, ended + 6), None, False))
        found = linear.check(lock.Lock(once=True), operations)
        assert found.is_good == is_linearizable(lock.Lock(), operations), f"seed {seed}:\n" + "\n".join(map(str, operations))
        words.append(found.word)
    assert min(words.count("good"), words.count("bad")) > 100


def test_what_a_set_is_told_of_its_history_changes_no_verdict() -> None:
    words = []
    for seed in range(2_000):
        rng = Random(seed)
        elements = iter(range(1, 9))
        choices = [("add", None, (None,))] * 3 + [("remove", 1, (None,))] + [("read", None, ([], [1], [2], [1, 2], [2, 3], [1, 2, 3]))] * 3
        made = some(rng, sets.Set(), choices)
        operations = [
            msgspec.structs.replace(
                one, argument=next(elements) if one.action == "add" else one.argument, ended_ns=one.ended_ns if one.must else None
            )
            for one in made
        ]
        found = linear.check(sets.Set(once=True), operations)
        assert found.is_good == is_linearizable(sets.Set(), operations), f"seed {seed}:\n" + "\n".join(map(str, operations))
        words.append(found.word)
    assert min(words.count("good"), words.count("bad")) > 100


def some_transactions(rng: Random, *, reads_what_it_appends: bool) -> list[Transaction]:
    """Return some transactions that may have read what one list after the other held, or not."""
    lists: dict[str, list[int]] = {"x": [], "y": []}
    found, item = [], 0
    for number in range(rng.randrange(2, 6)):
        reads: dict[str, tuple[Any, ...]] = {}
        appends: dict[str, Any] = {}
        for key in sorted(rng.sample(["x", "y"], rng.randrange(1, 3))):
            item += 1
            append = rng.random() < 0.6
            if not append or reads_what_it_appends or rng.random() < 0.5:
                reads[key] = tuple(lists[key][: len(lists[key]) - (rng.random() < 0.25)])
            if append:
                appends[key] = item
        state = rng.random()
        if state < 0.9:
            for key, value in appends.items():
                lists[key].append(value)
        began = number * 2 + rng.randrange(0, 4)
        must = state < 0.75
        found.append(
            Transaction(f"c{number}", reads if must else {}, appends, began, began + rng.randrange(1, 7) if must else None, must, state > 0.95)
        )
    if rng.random() < 0.8:
        found.append(Transaction("last", {key: tuple(items) for key, items in lists.items()}, {}, 30, 31))
    return found


def test_transactions_that_read_what_they_append_to_are_judged_as_trying_every_order_does() -> None:
    words = []
    for seed in range(3_000):
        history = some_transactions(Random(seed), reads_what_it_appends=True)
        found = transactions.check(history)
        assert found.is_good == is_serializable(history), f"seed {seed}: {found}\n" + "\n".join(map(str, history))
        words.append(found.word)
    assert min(words.count("good"), words.count("bad")) > 200


def test_no_order_explains_what_the_checker_of_transactions_calls_bad() -> None:
    for seed in range(3_000):
        history = some_transactions(Random(seed), reads_what_it_appends=False)
        assert transactions.check(history).is_good or not is_serializable(history), f"seed {seed}\n" + "\n".join(map(str, history))


def test_a_history_with_more_to_look_at_than_is_allowed_is_said_to_be_too_large() -> None:
    puts = [Operation(f"c{number}", "put", number, None, 0, 100) for number in range(12)]
    verdict = linear.check(queue.Queue(), puts, configurations_max=1_000)
    assert verdict.word == "too large" and "1000" in verdict.why


def test_the_bad_part_is_shown_and_little_else() -> None:
    lines = [("a", "write", number, 10 * number, 10 * number + 5) for number in range(50)]
    stale = ("b", "read", None, 600, 605, 3)
    (verdict,) = judge.of("register", asked("register", *lines, stale)).values()
    assert verdict.word == "bad" and len(verdict.bad) <= 3, str(verdict)
    assert [str(one).split()[-1] for one in verdict.bad][-1] == "3"


def test_unknown_outcomes_do_not_make_a_history_too_large() -> None:
    """Forty writes of which nobody knows, each of which may come at any later time."""
    lost = [("a%d" % number, "write", number, number, None) for number in range(40)]  # noqa: UP031
    reads = [("b", "read", None, 100 + 10 * number, 105 + 10 * number, number) for number in range(40)]
    assert word("register", *lost, *reads) == "good"
    assert word("register", *lost, *reads, ("b", "read", None, 900, 901, 3)) == "bad"


def test_a_bank_is_a_bank_when_its_transfers_are_checked() -> None:
    right = [Transaction("a", {"x": (), "y": ()}, {"x": (1, -3), "y": (1, 3)}, 0, 1), Transaction("b", {"x": ((1, -3),), "y": ((1, 3),)}, {}, 2, 3)]
    assert bank.check(right).is_good
