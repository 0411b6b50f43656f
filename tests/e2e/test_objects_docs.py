"""The examples of docs/objects.md, as a person would type them one after the other."""

import re
from pathlib import Path

import pytest

from tests.e2e.remote import Remote
from tests.e2e.system import System

PAGE = Path(__file__).parents[2] / "docs" / "objects.md"


def test_the_examples_of_the_page_work(whole: System) -> None:
    pytest.importorskip("numpy")
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(examples) == 6
    with Remote(whole, "n1") as program:
        for example in examples:
            program.do("import contextlib, io; out = io.StringIO()")
            program.do("with contextlib.redirect_stdout(out):\n" + "".join(f"    {line}\n" for line in example.splitlines()))
        assert program.ask("out.getvalue()") == ""
