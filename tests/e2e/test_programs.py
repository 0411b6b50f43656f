"""Every Python example of docs/programs.md and of the README runs, as a program or as a test, on a machine with nothing running, and prints what the page says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.embedding import Programs

ROOT = Path(__file__).parents[2]
PAGES = (ROOT / "README.md").read_text() + (ROOT / "docs/programs.md").read_text()
EXAMPLES = re.findall(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", PAGES, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_of_the_page_does_what_it_says(at: int) -> None:
    code, said = EXAMPLES[at]
    name = re.match(r"# (test_\w+\.py)\n", code)
    programs = Programs()
    try:
        file = programs.folder / (name[1] if name else "program.py")
        file.write_text(code)
        pytest_words = ["-m", "pytest", "-q", "-p", "unios.pytest_plugin", "-p", "no:cacheprovider"] if name else []
        env = {**programs.env, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
        done = subprocess.run(
            [sys.executable, *pytest_words, str(file)], env=env, cwd=programs.folder, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert not said or done.stdout == said
        assert programs.left() == []
    finally:
        programs.close()


def test_the_page_has_its_examples() -> None:
    assert len(EXAMPLES) >= 6 and sum(bool(said) for _code, said in EXAMPLES) >= 4
