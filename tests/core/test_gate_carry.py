"""What a process took along, at the gate: the specification that says it belongs to its user; the record names blocks of the record's own user only."""

import msgspec
import pytest

from unios.core import gate
from unios.core.gate import Member
from unios.core.processes import ProcessRecord, ProcessSpec, process_key, spec_key
from unios.demands import Carry
from unios.errors import Denied

ANNS = Member("n9", "m9", ("ann",))
CARRY = Carry(b"m" * 32, named=(b"/home/x/secret-plans",))


def record(user: str, results: bytes = b"") -> bytes:
    return msgspec.msgpack.encode(ProcessRecord(300, 1, "running", user, node="n9", carried=b"m" * 32, results=results))


def test_only_the_users_own_members_read_what_he_took_along() -> None:
    for user, mine in (("ann", True), ("bob", False)):
        spec = msgspec.msgpack.encode(ProcessSpec((b"x",), user=user, carry=CARRY))
        assert gate.may_read(ANNS, spec_key(300), spec) is mine
        assert gate.may_read(ANNS, process_key(300), record(user))


def test_results_are_written_by_members_that_speak_for_the_user() -> None:
    key = process_key(300)
    gate.check_put(ANNS, key, record("ann", b"r" * 32), {key: record("ann")}, (), 0)
    for there, written in (("bob", "bob"), ("bob", "ann"), ("ann", "bob")):
        with pytest.raises(Denied):
            gate.check_put(ANNS, key, record(written, b"r" * 32), {key: record(there)}, (), 0)
