"""`unios top` without a terminal: what its keys mean and what it draws."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.limits import TOP_HISTORY
from unios.shell.snapshots import NodeRow, ProcessRow, Rates, Snapshot, whole
from unios.shell.top_model import SORTS, Act, Look, Model, Quit
from unios.shell.top_screen import bars, clock, cut, draw, size

NODES = (
    NodeRow("n1", "ready", 2, 0.5, 1 << 30, 8 << 30, 0.7, 2, 0, "here"),
    NodeRow("n2", "lost", 4, None, None, 0, None, 0, 1, "broken", "its lease has ended"),
)
PROCESSES = (
    ProcessRow(300, "ann", "running", "n1", "burn", cpu=1.5, memory_bytes=10 << 20, cpu_ms=9_000),
    ProcessRow(301, "bob", "frozen", "n1", "sleep 100", cpu=0.0, memory_bytes=90 << 20, cpu_ms=500),
    ProcessRow(302, "ann", "pending", "", "gpu job", reason="no node has a gpu"),
)


def shown(model: Model, rows: int = 24, columns: int = 80) -> str:
    return "\n".join(line.text for line in draw(model, rows, columns))


def typed(model: Model, *keys: str) -> list[object]:
    return [order for key in keys if (order := model.key(key)) is not None]


@pytest.fixture
def model() -> Model:
    found = Model()
    found.take(Snapshot(1.0, NODES, PROCESSES))
    return found


def test_eighty_columns_hold_a_line_per_node_and_process(model: Model) -> None:
    text = shown(model)
    assert "1 of 2 nodes ready" in text and "1 waiting" in text
    assert "n1   ready       2   50%" in text and "1.0G/8.0G" in text and "its lease has ended"[:10] in text
    assert "  300 ann  running n1   150.0   10M  0:09.00   0 burn" in text
    assert "gpu job  (no node has a gpu)" in text and "q quit" in text
    assert len(text.splitlines()) == 24 and all(len(line) <= 80 for line in text.splitlines())


def test_before_the_first_answer_nothing_is_said_of_nodes_and_processes() -> None:
    text = shown(Model())
    assert "nobody has answered yet" in text and "0 of 0" not in text and "no process runs" not in text


def test_the_selection_follows_its_process_and_passes_to_a_neighbour_when_it_is_gone(model: Model) -> None:
    typed(model, "down")
    assert model.selected == 301
    model.take(Snapshot(2.0, NODES, (ProcessRow(299, "ann", "running", "n1", "new", cpu=9.0), *PROCESSES)))
    assert model.selected == 301
    model.take(Snapshot(3.0, NODES, (PROCESSES[0], PROCESSES[2])))
    assert model.selected == 302
    typed(model, "home")
    assert model.selected == 300
    typed(model, "end", "down")
    assert model.selected == 302


@pytest.mark.parametrize(
    ("keys", "orders"),
    [
        (["k", "enter"], [Act("signal", 300, 15)]),
        (["k", *"KILL", "enter"], [Act("signal", 300, 9)]),
        (["k", "9", "x", "backspace", "enter"], [Act("signal", 300, 9)]),
        (["k", *"nonsense", "enter"], []),
        (["k", "escape"], []),
        (["k", "interrupt", "q"], [Quit()]),
        (["down", "f", "t"], [Act("freeze", 301), Act("thaw", 301)]),
        (["r", *"-5", "enter"], [Act("renice", 300, -5)]),
        (["r", *"99", "enter"], []),
        (["r", "enter"], []),
        (["enter"], [Look(300)]),
        (["h", "q", "q"], [Quit()]),
        (["unknown", "x", "left"], []),
    ],
)
def test_keys_become_orders(model: Model, keys: list[str], orders: list[object]) -> None:
    assert typed(model, *keys) == orders


def test_a_wrong_signal_is_said(model: Model) -> None:
    typed(model, "k", *"WRONG", "enter")
    assert "there is no signal 'WRONG'" in shown(model)


def test_sorting_goes_round(model: Model) -> None:
    orders = {}
    for _ in SORTS:
        orders[model.sort] = [row.pid for row in model.rows()]
        typed(model, "s")
    assert model.sort == "cpu"
    assert orders == {
        "cpu": [300, 301, 302],
        "mem": [301, 300, 302],
        "time": [300, 301, 302],
        "pid": [300, 301, 302],
        "node": [300, 301, 302],
        "user": [300, 302, 301],
    }


def test_the_filter_is_live_and_escape_drops_it(model: Model) -> None:
    typed(model, "/", *"BOB")
    assert [row.pid for row in model.rows()] == [301]
    typed(model, "enter")
    assert "only 'BOB'" in shown(model)
    typed(model, "escape")
    assert len(model.rows()) == 3


def test_details_come_later_and_only_if_they_are_still_wanted(model: Model) -> None:
    typed(model, "enter")
    model.tell_details(301, ("other",))
    assert "one moment" in shown(model)
    model.tell_details(300, ("process 300", *map(str, range(100))))
    typed(model, "pagedown")
    assert "\n10\n" in shown(model) and "\n9\n" not in shown(model)
    typed(model, "escape")
    model.tell_details(300, ("late",))
    assert "late" not in shown(model) and "burn" in shown(model)


def test_a_history_holds_a_minute_and_that_of_a_node_that_left_goes() -> None:
    model = Model()
    for at in range(2 * TOP_HISTORY):
        model.take(Snapshot(float(at), (NodeRow("n1", "ready", 1, at / 2 / TOP_HISTORY),)))
    assert len(model.histories["n1"]) == TOP_HISTORY and model.histories["n1"][-1] > 0.9
    model.take(Snapshot(0.0, ()))
    assert set(model.histories) == {""}


def test_bars_show_the_newest_at_the_right() -> None:
    assert bars([], 4) == "    "
    assert bars([0.0] * 45 + [1.0] * 15, 4) == "▁▁▁█"
    assert bars([1.0], 4) == "   █"
    assert bars([0.25] * 60, 4, ascii_only=True) == "::::"


def test_the_whole_is_weighed_by_cores() -> None:
    assert whole((NodeRow("a", "ready", 3, 1.0), NodeRow("b", "ready", 1, 0.0), NodeRow("c", "lost", 9, None))) == 0.75
    assert whole(()) is None


def test_shares_are_of_the_time_between_two_looks() -> None:
    rates = Rates()
    assert rates.of({(1, 1): 5_000}, 10.0) == {}
    assert rates.of({(1, 1): 6_000, (2, 1): 7}, 12.0) == {(1, 1): 0.5}
    assert rates.of({(1, 1): 3, (1, 2): 4}, 13.0) == {}


@pytest.mark.parametrize(
    ("number", "text"), [(5, "5B"), (2048, "2.0K"), (1023 << 10, "1.0M"), (10 << 20, "10M"), (3 << 40, "3.0T"), (1 << 60, "1024P")]
)
def test_sizes_are_short(number: int, text: str) -> None:
    assert size(number) == text


def test_times_are_short() -> None:
    assert [clock(500), clock(61_250), clock(7_300_000)] == ["0:00.50", "1:01.25", "2h01m"]


def test_wide_characters_take_two_cells() -> None:
    assert cut("日本語", 5) == "日本" and cut("e\u0301x", 1) == "e\u0301" and cut("abc", 2) == "ab"


NAMES = st.text(max_size=30)
ROWS = st.builds(ProcessRow, st.integers(300, 400), NAMES, st.sampled_from(["running", "pending"]), NAMES, NAMES, cpu=st.none() | st.floats(0, 99))
NODE_ROWS = st.builds(NodeRow, NAMES, NAMES, st.integers(0, 99), st.none() | st.floats(0, 1), reason=NAMES)
KEYS = st.sampled_from(["k", "r", "s", "/", "h", "enter", "escape", "up", "down", "end", "backspace", "9", "ä", "t", "j", "pagedown", "unknown"])


@settings(max_examples=300, deadline=None)
@given(st.lists(NODE_ROWS, max_size=12), st.lists(ROWS, max_size=30), st.lists(KEYS, max_size=12), st.integers(1, 40), st.integers(1, 120))
def test_no_size_no_name_and_no_key_breaks_the_screen(nodes: list[NodeRow], rows: list[ProcessRow], keys: list[str], high: int, wide: int) -> None:
    model = Model()
    model.take(Snapshot(0.0, tuple(nodes), tuple(rows)))
    for key in keys:
        model.key(key)
        lines = draw(model, high, wide)
        assert len(lines) == high
        assert all(cut(line.text, wide) == line.text and line.text.isprintable() for line in lines)
