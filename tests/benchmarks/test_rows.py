"""A row says how a figure came out; a report which are over their limits."""

import pytest
from benchmarks.row import Report, Row, figure, limited, markdown_table, text_table


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        (Row("a", 13.0, "us", 1, "pool", 10.0, 1.3), "ok"),
        (Row("a", 13.1, "us", 1, "pool", 10.0, 1.3), "MISSED"),
        (limited("a", 1.0, "s", 1, 1.0), "ok"),
        (limited("a", 1.01, "s", 1, 1.0), "MISSED"),
        (Row("a", 2.0, "us", 1, "ray", 1.0), "behind"),
        (Row("a", 2.0, "/s", 1, "ray", 1.0, rate=True), "ahead"),
        (Row("a", 0.5, "/s", 1, "ray", 1.0, rate=True), "behind"),
        (Row("a", 1.0, "us", 1), ""),
        (Row("a", 1.0, "us", 1, "ray", 0.0, 1.3), ""),
    ],
)
def test_a_row_says_how_its_figure_came_out(row: Row, verdict: str) -> None:
    assert row.verdict == verdict == row.fields()["verdict"]


def test_a_report_names_what_is_over_its_limit_and_nothing_else() -> None:
    over = limited("over", 2.0, "s", 1, 1.0)
    report = Report("tasks", [limited("under", 0.5, "s", 1, 1.0), over, Row("behind a peer", 2.0, "us", 1, "ray", 1.0)])
    assert report.missed == [over]


def test_tables_show_the_limit_and_mark_what_is_missed() -> None:
    rows = [Row("a task", 20.0, "us", 9, "the pool:", 10.0, 1.3), limited("a start", 0.5, "s", 3, 1.0)]
    assert markdown_table(rows).splitlines()[2:] == [
        "| a task (n=9) | 20 us | limit 1.3 x the pool: 10 us | 2.00 | **MISSED** |",
        "| a start (n=3) | 0.5 s | limit 1 s | 0.50 | ok |",
    ]
    assert [line.split("  ")[-1].strip() for line in text_table(rows).splitlines()] == ["ratio", "MISSED", "ok"]


def test_figures_have_three_digits() -> None:
    assert [figure(value, "us") for value in (0.012345, 12.345, 999.4, 999.6, 123456)] == ["0.0123 us", "12.3 us", "999 us", "1000 us", "123456 us"]
