"""What a member that speaks for one ordinary user may do in the store of root's system. Each rule has a test that fails without it."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.core import gate
from unios.core.gate import Member
from unios.core.logs import LogRecord
from unios.core.nodes import Alive, NodeRecord, may_speak_for
from unios.core.processes import ProcessRecord, ProcessSpec
from unios.core.rules import POLICY_KEY, PolicyRule, Quota, quota_key
from unios.demands import Placing, Queueing, Resources
from unios.errors import Denied
from unios.kernel.ports import PortRecord
from unios.limits import GATE_VALUE_BYTES_MAX
from unios.wire.operations import EventView

BOB = Member("n2", "m2", ("bob",))
ANYBODY = Member("n3", "m3", ("*",))
PROCESS, SPEC = "/processes/0000000400", "/specs/0000000400"
EVENT = "/events/000001700000000-n2-000001"

packed = msgspec.msgpack.encode


def process(user: str = "bob", pid: int = 400) -> bytes:
    return packed(ProcessRecord(pid=pid, incarnation=1, state="pending", user=user))


def spec(user: str = "bob") -> bytes:
    return packed(ProcessSpec(argv=(b"true",), user=user))


def node(**fields: Any) -> bytes:
    return packed(NodeRecord(**{"name": "n2", "machine": "m2", "incarnation": 1, "users": ("bob",), **fields}))


def port(**fields: str) -> bytes:
    return packed({"name": "a/b", "node": "n2", "owner": "bob", "mode": 0o600, **fields})


def log(user: str = "bob", name: str = "history", epoch: int = 0) -> bytes:
    return packed(LogRecord(name=name, user=user, epoch=epoch))


def event(name: str = "n2") -> bytes:
    return packed({"at_ms": 1, "node": name, "kind": "node", "text": "."})


def put(key: str, value: bytes, now: dict[str, bytes] | None = None, together: tuple[str, ...] = (), member: Member = BOB) -> None:
    gate.check_put(member, key, value, now or {}, (key, *together), 0)


def denied(key: str, value: bytes, now: dict[str, bytes] | None = None, together: tuple[str, ...] = (), member: Member = BOB) -> None:
    with pytest.raises(Denied) as refused:
        put(key, value, now, together, member)
    assert " " in str(refused.value)


# who is trusted with the store itself


@pytest.mark.parametrize(
    ("users", "owner", "trusted"),
    [
        (("*", "root"), "root", True),
        (("*",), "root", False),
        (("bob",), "root", False),
        (("bob",), "bob", True),
        (("bob",), "alice", False),
        (("*",), "alice", False),
    ],
)
def test_only_root_and_the_systems_own_user_are_trusted(users: tuple[str, ...], owner: str, trusted: bool) -> None:
    assert gate.is_trusted(users, owner) is trusted


@pytest.mark.parametrize("name", ["root", "#0", "#00", "#-1", "# 0", "#+0", "#٠", "#", "#0x0", "#4294967296000"])
def test_everybody_does_not_include_root_under_another_name(name: str) -> None:
    assert not may_speak_for(("*",), name)
    assert may_speak_for(("*",), "#1000")
    denied(PROCESS, process(name), together=(SPEC,), member=ANYBODY)


# puts


def test_its_own_records_it_may_write() -> None:
    put("/nodes/n2", node(), {"/nodes/n2": node(incarnation=0)})
    put("/nodes/n2", node(state="left"), {"/nodes/n2": node()})
    put("/alive/n2", packed(Alive(1)))
    put("/ports/a/b/n2", port())
    put(EVENT, event())
    put("/events/000001700000000-n2-r000001", event())
    put(PROCESS, process(), together=(SPEC,))
    put(PROCESS, process(), {PROCESS: process()})
    put(SPEC, spec(), together=(PROCESS,))
    put(SPEC, spec(), {PROCESS: process(), SPEC: spec()})
    put("/requests/ab1", b"400", together=(PROCESS,))
    put("/next/pid", b"316")


def test_logs_of_its_users_it_may_write_and_no_others() -> None:
    put("/logs/bob/history", log())
    put("/logs/bob/a/b", log(name="a/b"))
    put("/logs/bob/history", log(epoch=2), {"/logs/bob/history": log(epoch=1)})
    put("/logs/alice/history", log("alice"), member=ANYBODY)
    denied("/logs/alice/history", log("alice"))
    superuser = "root"
    denied(f"/logs/{superuser}/history", log(superuser), member=ANYBODY)
    denied("/logs/bob/history", log("alice"))
    denied("/logs/alice/history", log())
    denied("/logs/bob/other", log())
    denied("/logs/bob/history", b"\xc1")


@pytest.mark.parametrize("key", ["/tokens/ab", "/system", "/next/node", "/next/pid2", "/", "nodes/n2", "/nodes", "/nodes/n2/", "//nodes/n2", "/x/y"])
def test_what_is_not_listed_is_denied(key: str) -> None:
    for value in (b"316", node(), process(), spec()):
        denied(key, value)


@pytest.mark.parametrize("key", ["/nodes/n1", "/nodes/n22", "/nodes/"])
def test_another_nodes_record_is_denied(key: str) -> None:
    denied(key, node(name=key.rpartition("/")[2]))


@pytest.mark.parametrize("fields", [{"name": "n1"}, {"machine": "m1"}, {"users": ("bob", "root")}, {"users": ("*",)}, {"users": ("alice",)}])
def test_its_record_claims_nothing_that_its_certificate_lacks(fields: dict[str, Any]) -> None:
    denied("/nodes/n2", node(**fields))


def test_everybody_is_not_root_in_a_nodes_record() -> None:
    put("/nodes/n3", node(name="n3", machine="m3", users=("*", "alice")), member=ANYBODY)
    denied("/nodes/n3", node(name="n3", machine="m3", users=("*", "root")), member=ANYBODY)


def test_a_node_cannot_have_another_certificate_taken_under_its_name() -> None:
    kept = {"/nodes/n2": node(certificate="aa")}
    put("/nodes/n2", node(certificate="aa", incarnation=2), kept)
    for other in ("bb", ""):
        denied("/nodes/n2", node(certificate=other), kept)
    put("/nodes/n2", node(certificate="aa"), {"/nodes/n2": node()})  # a record of an older version names none


def test_a_node_that_has_left_stays_away() -> None:
    denied("/nodes/n2", node(), {"/nodes/n2": node(state="left")})


def test_a_name_that_was_given_to_another_machine_is_that_machines() -> None:
    denied("/nodes/n2", node(), {"/nodes/n2": node(machine="m9")})


def test_another_nodes_sign_of_life_is_denied() -> None:
    denied("/alive/n1", packed(Alive(1)))
    denied("/alive/n2", b"\xff")


@pytest.mark.parametrize(
    ("key", "fields"),
    [
        ("/ports/a/b/n1", {}),
        ("/ports/a/b/n1", {"node": "n1"}),
        ("/ports/a/b/n2", {"node": "n1"}),
        ("/ports/a/b/n2", {"name": "c"}),
        ("/ports/a/b/n2", {"name": "a", "node": "b/n2"}),
        ("/ports/a/b/n2", {"owner": "root"}),
        ("/ports/a/b/n2", {"owner": "alice"}),
        ("/ports/a/n2/b", {}),
    ],
)
def test_ports_are_its_own_and_of_its_users(key: str, fields: dict[str, str]) -> None:
    denied(key, port(**fields))


@pytest.mark.parametrize("key", ["1-n2-000001", "000001700000000-n1-000001", "000001700000000-n1-n2-000001", "000001700000000-n2", "x-n2-1"])
def test_events_of_other_nodes_are_denied(key: str) -> None:
    denied(f"/events/{key}", event())


def test_an_event_that_names_another_node_is_denied() -> None:
    denied(EVENT, event("n1"))


@pytest.mark.parametrize("field", ["kind", "text"])
def test_an_event_that_nobody_could_decode_is_denied(field: str) -> None:
    """It would break `unios events` for everybody: what is let in is judged whole."""
    denied(EVENT, event().replace(packed(field) + packed({"kind": "node", "text": "."}[field]), packed(field) + b"\xa2\xff\xfe"))
    denied(EVENT, packed({"at_ms": 1, "node": "n2"}))
    denied(EVENT, packed({"at_ms": 1, "node": "n2", "kind": "node", "text": ".", "pid": [[]]}))
    denied("/ports/a/b/n2", packed({"name": "a/b", "node": "n2", "owner": "bob", "mode": "rw"}))


def test_the_gate_decodes_events_and_ports_as_kernels_do() -> None:
    """core/ may not import the types themselves."""
    for form, type_ in ((gate.EventForm, EventView), (gate.PortForm, PortRecord)):
        assert form.__annotations__ == type_.__annotations__


def test_a_process_of_another_user_is_denied_before_and_after() -> None:
    denied(PROCESS, process("root"), together=(SPEC,))
    denied(PROCESS, process("root"), {PROCESS: process("bob")})
    denied(PROCESS, process("bob"), {PROCESS: process("root")})
    denied(PROCESS, process("bob"), {PROCESS: b"\xff"})


def test_a_record_stands_under_its_own_pid() -> None:
    denied(PROCESS, process(pid=401), together=(SPEC, "/specs/0000000401"))
    denied(PROCESS, process(pid=401), {PROCESS: process(pid=401)})


@pytest.mark.parametrize("pid", ["400", "0000000299", "0000032768", "00000004000", "000000040x", "٠٠٠٠٠٠٠400", ""])
def test_a_process_has_a_pid_that_can_be(pid: str) -> None:
    number = int(pid) if pid.isdigit() else 400
    denied(f"/processes/{pid}", process(pid=number), together=(f"/specs/{pid}",))
    denied(f"/specs/{pid}", spec(), together=(PROCESS, f"/processes/{pid}"))


def test_a_new_process_does_not_come_without_its_specification() -> None:
    """Else it would run, as bob, what is left of another's specification."""
    denied(PROCESS, process())


def test_a_specification_of_another_user_is_denied_before_and_after() -> None:
    denied(SPEC, spec("root"), together=(PROCESS,))
    denied(SPEC, spec(), {PROCESS: process(), SPEC: spec("root")})
    denied(SPEC, spec(), {PROCESS: process(), SPEC: b"\xff"})
    denied(SPEC, spec(), {PROCESS: process("root")}, together=(PROCESS,))
    denied(SPEC, spec(), {PROCESS: process("root"), SPEC: spec()}, together=(PROCESS,))


def test_a_specification_belongs_to_a_process() -> None:
    denied(SPEC, spec())
    put(SPEC, spec(), {SPEC: spec("root")}, together=(PROCESS,))  # what a process left that is gone keeps nobody from its pid


def test_a_request_is_made_once_and_names_what_begins_with_it() -> None:
    denied("/requests/ab1", b"400", {"/requests/ab1": b"400"}, together=(PROCESS,))
    denied("/requests/ab1", b"401", together=(PROCESS,))
    denied("/requests/ab1", b"x", together=(PROCESS,))
    denied("/requests/../x", b"400", together=(PROCESS,))


@pytest.mark.parametrize("value", [b"", b"x", b"299", b"32768", b"-300", b" 300", b"0400", b"9" * 50, "٤٠٠".encode()])
def test_the_counter_stays_one(value: bytes) -> None:
    denied("/next/pid", value)


@pytest.mark.parametrize("key", ["/nodes/n2", "/alive/n2", "/ports/a/b/n2", EVENT, PROCESS, SPEC])
def test_what_others_could_not_decode_is_denied(key: str) -> None:
    denied(key, b"\xc1", together=(PROCESS, SPEC))


def test_values_are_bounded() -> None:
    long = packed(ProcessRecord(pid=400, incarnation=1, state="pending", user="bob", reason="x" * GATE_VALUE_BYTES_MAX))
    denied(PROCESS, long, {PROCESS: process()})
    put(SPEC, packed(ProcessSpec(argv=(b"x" * GATE_VALUE_BYTES_MAX,), user="bob")), together=(PROCESS,))


KEYS = st.one_of(
    st.text(max_size=40),
    st.builds("/{}/{}".format, st.sampled_from(["nodes", "alive", "ports", "events", "processes", "specs", "requests", "next", "tokens"]), st.text()),
    st.sampled_from(["/nodes/n1", "/alive/n1", "/ports/p/n1", "/tokens/a", "/system", "/next/node", "/nodes/n2", "/alive/n2", "/next/pid", PROCESS]),
)
VALUES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([node(), node(users=("root",)), packed(Alive(1)), port(), event(), process(), process("root"), spec(), b"316"]),
)


@given(KEYS, VALUES, st.booleans())
def test_never_a_put_on_a_key_outside_the_list(key: str, value: bytes, others: bool) -> None:
    now = {key: process("root")} if others else {}
    try:
        gate.check_put(BOB, key, value, now, (key, PROCESS, SPEC), 0)
    except Denied:
        return
    kind, _, name = key[1:].partition("/")
    assert key.startswith("/")
    assert (
        (kind in ("nodes", "alive") and name == "n2")
        or (kind == "ports" and name == "a/b/n2")
        or (kind == "events" and name[15:-7] in ("-n2", "-n2-"))
        or (kind in ("processes", "specs") and name == "0000000400" and not others)
        or (kind == "requests" and name.isalnum())
        or key == "/next/pid"
    )


# deletes


def test_deletes_alike() -> None:
    for key in ("/alive/n2", "/ports/a/b/n2", EVENT):
        gate.check_delete(BOB, key, prefix=False)


@pytest.mark.parametrize(
    "key",
    [
        "/alive/n1",
        "/ports/a/b/n1",
        "/events/000001700000000-n1-000001",
        "/nodes/n2",
        "/nodes/n1",
        "/next/pid",
        "/tokens/a",
        "/requests/a",
        "/system",
        PROCESS,
        SPEC,
        "/processes/400",
        "",
    ],
)
def test_what_is_not_its_own_is_not_deleted(key: str) -> None:
    with pytest.raises(Denied):
        gate.check_delete(BOB, key, prefix=False)


@pytest.mark.parametrize("key", ["/alive/n2", "/ports/a/b/n2", PROCESS, "/"])
def test_nothing_is_deleted_by_prefix(key: str) -> None:
    with pytest.raises(Denied):
        gate.check_delete(BOB, key, prefix=True)


# leases


def test_leases() -> None:
    gate.check_lease(BOB, "/alive/n2", 7, {7})
    gate.check_lease(BOB, "/ports/a/n2", 7, {7})
    gate.check_lease(BOB, PROCESS, 0, {7})
    for key, lease in (("/alive/n2", 8), ("/alive/n2", 0), ("/ports/a/n2", 0), (PROCESS, 7), ("/nodes/n2", 7), ("/next/pid", 7)):
        with pytest.raises(Denied):
            gate.check_lease(BOB, key, lease, {7})


# reading


def test_reading() -> None:
    assert gate.may_read(BOB, PROCESS, process("root"))
    assert gate.may_read(BOB, "/nodes/n1", node(name="n1"))
    assert gate.may_read(BOB, SPEC, spec())
    assert gate.may_read(BOB, "/requests/a", b"400", "bob")
    assert not gate.may_read(BOB, SPEC, spec("root"))
    assert not gate.may_read(BOB, SPEC, b"\xff")
    assert not gate.may_read(BOB, "/requests/a", b"400", "root")
    assert not gate.may_read(BOB, "/requests/a", b"400")
    assert not gate.may_read(BOB, "/tokens/a", b"")
    assert not gate.may_read(ANYBODY, SPEC, spec("root"))


def test_comparing_is_no_way_to_read() -> None:
    gate.check_compare(BOB, PROCESS, "value")
    gate.check_compare(BOB, SPEC, "version")
    gate.check_compare(BOB, "/requests/a", "version")
    for key, target in ((SPEC, "value"), ("/requests/a", "value"), ("/tokens/a", "value"), ("/tokens/a", "version")):
        with pytest.raises(Denied):
            gate.check_compare(BOB, key, target)


def test_what_decides_about_a_write_is_asked_for() -> None:
    assert gate.needs(PROCESS) == (PROCESS,)
    assert set(gate.needs(SPEC)) == {SPEC, PROCESS}
    assert gate.needs("/nodes/n2") == ("/nodes/n2",)
    assert gate.needs("/requests/a") == ("/requests/a",)
    for key in ("/alive/n2", "/specs/x", "/specs/400", "/next/0000000400", "/ports/0000000400"):
        assert gate.needs(key) == ()


def test_what_a_request_names() -> None:
    assert gate.names_process("/requests/a", b"400") == PROCESS
    assert gate.names_process("/requests/a", b"x") == ""
    assert gate.names_process("/nodes/a", b"400") == ""


# the queue


def queued(**fields: Any) -> bytes:
    return packed(ProcessRecord(**{"pid": 400, "incarnation": 1, "state": "pending", "user": "bob", **fields}))


@pytest.mark.parametrize(
    "demands",
    [{"resources": Resources(-3_000)}, {"queueing": Queueing(-1)}, {"queueing": Queueing(time_limit_ms=-1)}, {"placing": Placing(near=("x",) * 33)}],
)
def test_a_member_demands_nothing_out_of_range(demands: dict[str, Any]) -> None:
    denied(PROCESS, queued(**demands), together=(SPEC,))


def test_a_new_process_may_share_the_specification_of_one_that_is_begun_with_it_and_never_changes_to_another() -> None:
    put(PROCESS, queued(spec_pid=399), together=("/specs/0000000399",))
    denied(PROCESS, queued(spec_pid=399), together=(SPEC,))
    denied(PROCESS, queued(spec_pid=399), {PROCESS: queued()})
    put(PROCESS, queued(spec_pid=399), {PROCESS: queued(spec_pid=399)})


@pytest.mark.parametrize("key", [POLICY_KEY, quota_key("bob")])
def test_quotas_and_policies_are_read_by_everybody_and_written_by_no_member(key: str) -> None:
    value = packed(PolicyRule("pack")) if key == POLICY_KEY else packed(Quota("bob", 1))
    denied(key, value)
    denied(key, value, member=ANYBODY)
    with pytest.raises(Denied):
        gate.check_delete(BOB, key, prefix=False)
    assert gate.may_read(BOB, key, value)


def test_nobody_who_passes_here_writes_what_users_have_used() -> None:
    for member in (BOB, ANYBODY):
        denied("/usage/bob", packed({"user": "bob"}), member=member)
        with pytest.raises(Denied):
            gate.check_delete(member, "/usage/bob", prefix=False)
    assert gate.may_read(BOB, "/usage/eve", packed({"user": "eve"}))
