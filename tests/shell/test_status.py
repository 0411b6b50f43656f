"""What `unios status` says of a system, judged from made-up facts; on a real one it is tests/e2e/test_seeing.py."""

from typing import Any

import msgspec
import pytest

from unios.demands import Queueing
from unios.shell.problems import Facts, ended_badly, find, named
from unios.shell.status import report
from unios.wire.operations import EventView, NodeInfo, NodeView, ProcessView, ServiceView, SystemView

NOTE = "n1, n2 share one machine and its fate"


def node(name: str, state: str = "ready", reason: str = "", machine: str = "m1") -> NodeView:
    return NodeView(name, state, machine, 1, cores=2, reason=reason)


def info(name: str, **fields: Any) -> NodeInfo:
    whole = {"lease_ms": 800, "disk_bytes": 100 << 30, "disk_free_bytes": 50 << 30, **fields}
    return msgspec.convert(
        {
            "name": name,
            "system": "s",
            "machine": "m1",
            "incarnation": 1,
            "version": "1",
            "kernel_pid": 1,
            "pids": (),
            "cores": 2,
            "user": "root",
            "privileged": True,
            "address": "",
            "store": "here",
            "namespaces": True,
            "freezer": "v2",
            **whole,
        },
        NodeInfo,
    )


def process(pid: int, state: str = "running", **fields: Any) -> ProcessView:
    return ProcessView(pid, state, fields.pop("node", "n1"), "ann", (b"x",), 1, **fields)


def facts(**fields: Any) -> Facts:
    nodes = fields.pop("nodes", (node("n1"), node("n2")))
    warnings = fields.pop("warnings", ())
    return Facts(
        SystemView("sys", "0.1", "sqlite", "m1", nodes, {"running": 1}, (NOTE, *warnings), (NOTE,)),
        fields.pop("infos", {one.name: info(one.name) for one in nodes if one.state == "ready"}),
        fields.pop("processes", [process(300)]),
        fields.pop("events", []),
    )


def said(found: Facts, now_ms: int = 10_000) -> str:
    return "\n".join(report(found, find(found), now_ms, colour=False))


def test_when_all_is_well_the_first_line_says_so_and_nothing_is_to_be_typed() -> None:
    text = said(facts())
    assert text.startswith("all is well: 2 nodes ready\n") and "type:" not in text
    assert "processes: 1 running" in text and f"note: {NOTE}" in text


@pytest.mark.parametrize(
    ("fields", "what", "type_"),
    [
        ({"nodes": (node("n1"), node("n2", "lost", "its lease has ended"))}, "n2 is lost", "unios leave --dead n2"),
        ({"nodes": (node("n1"), node("n2", "suspect", "no ping"))}, "n2 is suspect", "unios doctor --node n2"),
        (
            {"nodes": (node("n1"), msgspec.structs.replace(node("n2"), flaps=True))},
            "n2 comes and goes: it was lost 3 times within 60 s",
            "unios events --node-of n2",
        ),
        ({"infos": {"n1": info("n1"), "n2": None}}, "n2 does not answer", "unios doctor --node n2"),
        ({"infos": {"n1": info("n1", lease_ms=-5)}}, "n1 is cut off from the store", "network"),
        ({"processes": None}, "the store does not answer; it lives on machine m1 (n1, n2)", "unios up"),
        (
            {"infos": {"n1": info("n1", services=[ServiceView("recovery", 0, 7, "waiting", "signal 9")])}},
            "recovery of n1 keeps dying",
            "log/recovery.log",
        ),
        ({"infos": {"n1": info("n1", disk_free_bytes=1 << 20)}}, "the disk of n1 is nearly full: 1 MiB of 102400 are free", "make room"),
        (
            {"processes": [process(i, "pending", node="", reason="no node that is ready runs programs as ann") for i in range(300, 307)]},
            "300, 301, 302, 303, 304 and 2 more wait for a place: no node that is ready runs programs as ann",
            "unios kill 300",
        ),
        (
            {"processes": [process(300, "pending", node="", reason="n3 has been stopped")]},
            "300 waits for a place: n3 has been stopped",
            "bring such a node with `unios up` on its machine",
        ),
        ({"warnings": ("the clocks are apart: mend it",)}, "the clocks are apart", ""),
    ],
)
def test_what_is_wrong_is_said_once_with_what_to_type(fields: dict[str, Any], what: str, type_: str) -> None:
    found = facts(**fields)
    problems = find(found)
    assert [problem.what for problem in problems] == [what]
    assert problems[0].costs and type_ in problems[0].type
    assert said(found).startswith("1 thing needs you:\n\n 1. " + what)


@pytest.mark.parametrize(
    "fields",
    [
        {"nodes": (node("n1"), node("n2", "lost", "it was stopped; `unios up` brings it back"))},
        {"nodes": (node("n1"), node("n2", "left", "it left"))},
        {"infos": {"n1": info("n1", services=[ServiceView("recovery", 5, 3)])}},
        {"processes": [process(300, "pending", node="", reason="waits for 1 core: 8 of 8 are set aside")]},
        {"processes": [process(300, "pending", node="", reason="no node that is ready has 9 cores", queueing=Queueing(held=True))]},
        {"processes": [process(300, "exited", exit_code=1, ended_ms=9_000)]},
    ],
)
def test_what_needs_nobody_is_no_problem(fields: dict[str, Any]) -> None:
    assert find(facts(**fields)) == []


@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
def test_of_a_store_that_does_not_answer_is_told_what_it_says_itself(engine: str) -> None:
    found = facts(processes=None)
    found = found._replace(
        view=msgspec.structs.replace(found.view, engine=engine), why="the store's file store.db on m1 is damaged: move it elsewhere"
    )
    assert "(it is said: the store's file store.db on m1 is damaged: move it elsewhere)" in said(found)


def test_a_warning_that_tells_of_a_problem_is_not_told_again() -> None:
    found = find(facts(nodes=(node("n1"), node("n2", "lost", "its lease has ended")), warnings=("n2 is lost: its lease has ended",)))
    assert [problem.what for problem in found] == ["n2 is lost"]


def test_since_when_comes_from_the_events() -> None:
    events = [EventView(at, "n1", "loss", "n2 is lost: its lease has ended") for at in (1_000, 5_000)]
    lost = facts(nodes=(node("n1"), node("n2", "lost", "x")), events=events)
    assert find(lost)[0].since_ms == 5_000 and "(5s ago)" in said(lost)
    dying = info("n1", services=[ServiceView("recovery", 0, 7, "waiting", "x")])
    events = [EventView(at, "n1", "service", "recovery of n1 was replaced: x") for at in (1_000, 100_000, 130_000, 150_000)]
    assert find(facts(infos={"n1": dying}, events=events))[0].since_ms == 100_000


def test_a_program_that_ended_badly_is_shown_unless_its_user_ended_it() -> None:
    records = [
        process(300, "exited", exit_code=1, ended_ms=9_000),
        process(301, "failed", exit_code=127, ended_ms=9_500),
        process(302, "exited", exit_code=143, signal=15, ended_ms=9_000, wanted="stopped"),
        process(303, "exited", exit_code=0, ended_ms=9_000),
        process(304, "exited", exit_code=9, ended_ms=1),
    ]
    assert [one.pid for one in ended_badly(records, since_ms=2)] == [301, 300]
    text = said(facts(processes=records), now_ms=3_600_002)
    assert "in the last hour 2 ended badly: 301 (failed), 300 (exit 1); `unios ps -a` and `unios logs 301`" in text


def test_the_most_common_reason_to_wait_is_shown() -> None:
    waiting = [process(i, "pending", reason="a" if i < 303 else "b") for i in range(300, 304)]
    assert "0 running, 4 waiting (3 of them: a)" in said(facts(processes=waiting))


def test_nothing_that_a_terminal_would_obey_passes() -> None:
    assert "\x1b" not in said(facts(nodes=(node("n1"), node("\x1b[2J", "lost", "\x1b]0;"))))


def test_many_pids_are_a_few_and_a_number() -> None:
    assert named([1, 2]) == "1, 2" and named(range(9)) == "0, 1, 2, 3, 4 and 4 more"


def test_a_link_that_is_being_made_is_a_note_and_no_problem() -> None:
    found = facts(nodes=(node("n1"), msgspec.structs.replace(node("n2", "suspect", "it was closed"), settling=True)))
    assert find(found) == [] and "note: the link to n2 is being made" in said(found)
