"""The examples of docs/messages.md run as they stand."""

import re
from pathlib import Path
from types import ModuleType

import pytest

import unios
from tests.e2e.system import System
from unios.client.messages.port import Port
from unios.client.messages.server import Server, caller

TEXT = (Path(__file__).parents[2] / "docs" / "messages.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_the_examples_of_the_page_run(whole: System, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setenv("UNIOS_HOME", whole.env["UNIOS_HOME"])
    for name, found in {"listen": Server, "connect": Port, "caller": caller}.items():
        if name not in vars(unios):
            monkeypatch.setattr(unios, name, found, raising=False)
    exec(compile(EXAMPLES[number], f"docs/messages.md, example {number + 1}", "exec"), vars(ModuleType("example")))


def test_the_page_has_examples() -> None:
    assert len(EXAMPLES) == 6
