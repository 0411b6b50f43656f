"""A process of a benchmark: ready, asked, ended with its input; and what is said where it is not."""

import os
import sys

import pytest

from benchmarks import child

ECHO = "import json, sys\nprint('ready', flush=True)\nfor line in sys.stdin: print(json.dumps([json.loads(line)]), flush=True)"


def test_an_order_is_answered_and_the_process_ends_with_its_input() -> None:
    with child.running([sys.executable, "-c", ECHO], os.environ) as process:
        assert child.ask(process, {"do": 1}) == [{"do": 1}]
        assert child.ask(process, 25) == [25]
    assert process.returncode == 0


def test_one_that_is_not_ready_is_an_error() -> None:
    with pytest.raises(RuntimeError, match="did not begin"), child.running([sys.executable, "-c", "print('no')"], os.environ):
        raise AssertionError("it is not ready")


def test_one_that_ends_in_the_middle_is_an_error() -> None:
    command = [sys.executable, "-c", "print('ready', flush=True); input()"]
    with child.running(command, os.environ) as process, pytest.raises(RuntimeError, match="ended while it had an order"):
        child.ask(process, "once")
