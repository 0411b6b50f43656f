"""Every example of the manual page runs, in order, in one bash, on a system of its own, and prints what the page says."""

import re
import subprocess
from pathlib import Path

from tests.e2e.system import UNIOS, System
from unios.shell.manual import matches, read_page

PAGE = Path(__file__).parents[2] / "docs/man/unios.1"
MARK = "@@ example"


def test_the_examples_of_the_manual_page_do_what_it_says() -> None:
    system = System()
    examples = read_page(PAGE.read_text())
    assert len(examples) > 10
    script = "".join(f"{{\n{one.command}\n}}\nprintf '\\n{MARK} %s %s\\n' {at} $?\n" for at, one in enumerate(examples))
    work = system.home / "work"
    work.mkdir()
    try:
        env = {**system.env, "PATH": f"{Path(UNIOS).parent}:{system.env['PATH']}"}
        done = subprocess.run(
            ["bash", "-c", script], env=env, cwd=work, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=110, check=False
        )
        parts = re.split(rf"\n{MARK} (\d+) (\d+)\n", done.stdout)
        said = {int(parts[at + 1]): (parts[at], int(parts[at + 2])) for at in range(0, len(parts) - 2, 3)}
        for at, one in enumerate(examples):
            text, code = said.get(at, ("it was never reached", -1))
            assert code == 0 and matches(one.output, text), f"$ {one.command}\nexpected {one.output}\ngot {code}:\n{text}\n{done.stderr}"
    finally:
        system.close()
