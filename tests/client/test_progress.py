"""Progress of a loop: a line that fits, drawn seldom, and nothing where nobody looks."""

import io
import os
import pty
import subprocess
import sys
import types
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import pairwise
from typing import Any

import pytest

from unios.client import progress as module
from unios.client.progress import line, progress
from unios.errors import CallerError


def test_a_line_says_how_much_how_long_and_how_fast() -> None:
    assert line("maps", 30, 120, 10.0, columns=80) == "maps  25% |" + "#" * 8 + " " * 26 + "| 30/120 in 0:10, 0:30 left, 3.0/s"
    assert line("", 0, 4, 0.0, columns=30) == "  0% |" + " " * 10 + "| 0/4 in 0:00"
    assert line("", 4, 4, 7300.0, columns=120).endswith("| 4/4 in 2:01:40, 1825.0 s each")
    assert line("read", 7, None, 3.5, columns=80) == "read 7 in 0:04, 2.0/s"
    assert line("", 0, 0, 0.0, columns=80) == "0/0 in 0:00"
    assert line("", 9, 4, 1.0, columns=80).startswith("100% |####")


@pytest.mark.parametrize("columns", [*range(1, 60), 80, 200])
@pytest.mark.parametrize("what", ["", "a long name of what is counted here", "計算の進み具合", "e\u0301\u0301"])
def test_no_line_is_wider_than_the_terminal(columns: int, what: str) -> None:
    for total in (None, 0, 7, 10**9):
        assert module._width(line(what, 5, total, 12345.0, columns=columns)) < max(columns, 1)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """stderr is a terminal that remembers what was drawn when, on a clock that each look moves by 10 ms."""
    now, drawn = [0.0], list[float]()

    def monotonic() -> float:
        now[0] += 0.01
        return now[0]

    monkeypatch.setattr(module, "time", types.SimpleNamespace(monotonic=monotonic))
    monkeypatch.setattr(module, "_screen", lambda what: types.SimpleNamespace(draw=lambda *_: drawn.append(now[0]), end=lambda *_: drawn.append(-1)))
    return drawn


def test_it_is_drawn_at_most_ten_times_a_second_and_once_at_the_end(terminal: list[float]) -> None:
    assert list(progress(range(1000))) == list(range(1000))
    gaps = [later - earlier for earlier, later in pairwise(terminal[:-1])]
    assert terminal[-1] == -1 and 80 < len(gaps) < 101 and min(gaps) > 0.099


def test_a_loop_that_breaks_off_ends_the_line(terminal: list[float]) -> None:
    shown = progress(iter([1, 2, 3]), 3)
    assert next(shown) == 1
    shown.close()  # type: ignore[attr-defined]
    assert terminal[-1] == -1


def test_what_an_item_raises_is_raised(terminal: list[float]) -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        list(progress(broken(), 2))
    assert terminal[-1] == -1


def test_where_nobody_looks_nothing_is_said(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress(x for x in range(3))) == [0, 1, 2]
    for stream in (None, io.StringIO()):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(progress([1, 2])) == [1, 2]
    assert capfd.readouterr() == ("", "")


def test_futures_are_counted_as_they_complete() -> None:
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(pow, 2, n) for n in range(20)]
        assert sum(one.result() for one in progress(as_completed(futures), len(futures))) == 2**20 - 1


def test_an_impossible_total_is_refused_at_once() -> None:
    with pytest.raises(CallerError, match="-1"):
        progress([], -1)


def test_a_terminal_gets_one_line(tmp_path: Any) -> None:
    leader, follower = pty.openpty()
    code = "import unios; print(sum(unios.progress(range(5), what='a\\nb')))"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=follower, timeout=30, check=True, env={**os.environ, "TERM": "xterm"}
    )
    os.close(follower)
    said = os.read(leader, 65536).decode()
    os.close(leader)
    assert done.stdout == b"10\n"
    assert said.startswith("\ra b   0% |") and said.endswith("\x1b[K\r\n") and said.count("\n") == 1 and "100% |####" in said


def test_a_notebook_gets_a_bar_that_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the two calls of IPython.display that are used: display(object, display_id=True) and update(object)."""
    shown: list[Any] = []
    handle = types.SimpleNamespace(update=shown.append)

    def display(bar: Any, *, display_id: bool) -> Any:
        assert display_id
        shown.append(bar)
        return handle

    ipython, part = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: types.SimpleNamespace(kernel=object())  # type: ignore[attr-defined]
    part.display = display  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", part)
    assert list(progress([1, 2], what="<b>")) == [1, 2]
    assert shown[0]._repr_html_().startswith('<progress value="0" max="2"></progress> &lt;b&gt; 0/2')
    assert shown[-1]._repr_html_().startswith('<progress value="2" max="2">') and repr(shown[-1]).startswith("<b> 100% |###")
