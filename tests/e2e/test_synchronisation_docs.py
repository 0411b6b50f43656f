"""Each example of docs/synchronisation.md runs as it stands, on a system of three nodes."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import System

PAGE = Path(__file__).parents[2] / "docs/synchronisation.md"
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def test_there_are_examples() -> None:
    assert len(EXAMPLES) >= 6


@pytest.mark.parametrize("at", range(len(EXAMPLES)))
def test_an_example_does_what_it_says(whole: System, at: int) -> None:
    done = subprocess.run([sys.executable, "-c", EXAMPLES[at]], env=whole.env, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"{EXAMPLES[at]}\n{done.stdout}{done.stderr}"
