"""The examples of docs/long-lived-objects.md, as they stand there."""

import os
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.system import System
from unios.client.replicas import comparison
from unios.core.strategies import STRATEGIES

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "long-lived-objects.md").read_text()


def test_the_program_prints_what_it_says(whole: System, tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    says = re.findall(r"print\(.*?\)\s+# (.*)", program)
    (tmp_path / "bank.py").write_text(program)
    env = {**whole.env, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, "bank.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == says == ["105", "105", "-1 is no amount"]


def test_the_table_is_the_one_that_is_printed() -> None:
    assert str(comparison.predict()) in TEXT


def test_every_strategy_is_explained() -> None:
    assert set(re.findall(r"^\| ([a-z-]+) \|.*\|.*\|.*\|$", TEXT, re.M)) - {"strategy"} == set(STRATEGIES)
