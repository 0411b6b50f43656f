"""python -m benchmarks: what is printed, what is written to RESULTS.md, and the exit code."""

import json
from pathlib import Path

import pytest
from benchmarks.__main__ import tell
from benchmarks.row import Report, Row, limited

from benchmarks import results

UNDER, OVER = limited("a start", 0.5, "s", 3, 1.0), limited("a call", 3.0, "ms", 3, 1.0)


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize(
    ("rows", "strict", "code"),
    [([UNDER], True, 0), ([UNDER, OVER], True, 1), ([UNDER, OVER], False, 0), ([Row("a peer", 9.0, "us", 1, "ray", 1.0)], True, 0)],
)
def test_only_a_missed_limit_of_a_strict_benchmark_fails_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rows: list[Row], strict: bool, code: int, as_json: bool
) -> None:
    assert tell(Report("calls", rows, strict=strict), "here", as_json=as_json, file=tmp_path / "RESULTS.md") == code
    said = capsys.readouterr()
    assert ("over the limit: a call (3 of it)" in said.err) == bool(code)
    if as_json:
        assert [json.loads(line)["verdict"] for line in said.out.splitlines()] == [row.verdict for row in rows]


@pytest.mark.parametrize("name", ["calls", "tasks", "objects"])
def test_what_has_limits_to_keep_is_strict(name: str) -> None:
    text = (Path(results.__file__).parent / f"{name}.py").read_text()
    assert f'Report("{name}", strict=True)' in text


def test_every_benchmark_has_its_place_in_the_results() -> None:
    folder = Path(results.__file__).parent
    found = {path.stem for path in folder.glob("*.py") if "def run(" in path.read_text() and "-> Report:" in path.read_text()}
    assert found == set(results.ORDER)


def test_a_run_replaces_its_section_and_leaves_the_others(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    results.write(Report("objects", [UNDER], ["a note"]), "first", file)
    results.write(Report("calls", [OVER]), "second", file)
    results.write(Report("calls", [UNDER]), "third", file)
    text = file.read_text()
    assert "second" not in text and text.index("## calls\n\nthird") < text.index("## objects\n\nfirst") < text.index("- a note")
    assert text.startswith(results.HEAD) and text.count("<!-- calls -->") == 1
