"""Acquaintance: who is cut off from the store takes a newer certificate of a machine that it knows, and no older one; and judges it again when it may."""

import ssl
from types import SimpleNamespace
from typing import Any

import pytest

from unios.core.nodes import NodeRecord, node_key
from unios.kernel import certificates
from unios.kernel.acquaintance import Acquaintance
from unios.kernel.certificates import Identity, mark_der

ME, N1, OTHER = Identity("s", "n2", "m2", ("*",)), Identity("s", "n1", "m1", ("*",)), Identity("s", "n1", "m3", ("*",))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[int, bytes]:
    """Return certificates of n1 (DER) by the day, from now on, on which they were made."""
    folder = tmp_path_factory.mktemp("ca")
    certificates.make_authority(folder, "s")
    found = {}
    for day in (0, 1, 2):
        public = certificates.make_key()[1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(certificates, "datetime", _Later(day))
            found[day] = ssl.PEM_cert_to_DER_cert(certificates.sign(folder, public, N1).decode())
    return found


class _Later:
    """The module datetime, so many days later."""

    def __init__(self, days: int) -> None:
        import datetime

        self.UTC, self.timedelta, real, ahead = datetime.UTC, datetime.timedelta, datetime.datetime, datetime.timedelta(days=days)

        class Moved(real):  # type: ignore[misc, valid-type]
            @classmethod
            def now(cls, tz: Any = None) -> Any:
                return real.now(tz) + ahead

        self.datetime = Moved


class Node:
    """What the judge looks at: records of before, a lease that is held or not, and whose links are cut."""

    def __init__(self, record: NodeRecord) -> None:
        self.left, self.cut = 500, list[frozenset[str]]()
        self.nodes = SimpleNamespace(revision=1, values={node_key("n1"): record})
        self.leasing = SimpleNamespace(left_ms=lambda: self.left)
        self.expelling = SimpleNamespace(refusal=lambda _mark: None)
        self.system = SimpleNamespace(left={}, machines={})
        self.links = SimpleNamespace(cut=lambda _name, marks, _why: self.cut.append(marks))
        self.judge = Acquaintance(self)  # type: ignore[arg-type]


def record(der: bytes, **other: Any) -> NodeRecord:
    return NodeRecord("n1", "m1", 1, certificate=mark_der(der), **other)


def test_who_holds_the_lease_takes_what_the_records_name_alone(made: dict[int, bytes]) -> None:
    node = Node(record(made[1]))
    assert node.judge.refusal(N1, made[1]) is None
    assert "earlier" in node.judge.refusal(N1, made[0]).why  # type: ignore[union-attr]
    assert "earlier" in node.judge.refusal(N1, made[2]).why  # type: ignore[union-attr]


def test_who_is_cut_off_takes_a_newer_one_of_the_same_machine_and_no_older_one(made: dict[int, bytes]) -> None:
    node = Node(record(made[1]))
    assert node.judge.refusal(N1, made[1]) is None
    node.left = 0
    assert node.judge.refusal(N1, made[2]) is None
    assert "earlier" in node.judge.refusal(N1, made[0]).why  # type: ignore[union-attr]
    assert "earlier" in node.judge.refusal(OTHER, made[2]).why  # type: ignore[union-attr]
    gone = Node(record(made[1], state="left"))
    gone.left = 0
    assert gone.judge.refusal(N1, made[2]) is not None


def test_what_was_taken_on_trust_is_judged_when_the_records_have_been_read_anew(made: dict[int, bytes]) -> None:
    for named, cut in ((2, []), (1, [frozenset({mark_der(made[2])})])):
        node = Node(record(made[1]))
        node.left = 0
        assert node.judge.refusal(N1, made[2]) is None
        node.left = 500
        node.judge.look_again(since_ms=60_000)
        assert not node.cut
        node.nodes.values[node_key("n1")] = record(made[named])
        node.judge.look_again()
        assert node.cut == cut
        node.judge.look_again()
        assert node.cut == cut
