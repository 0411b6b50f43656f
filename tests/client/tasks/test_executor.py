"""What an executor refuses before it begins."""

from pathlib import Path
from typing import Any

import pytest

import unios
from unios.client.tasks import executor as module
from unios.client.tasks import living
from unios.client.tasks.functions import Pickled


@pytest.mark.parametrize(
    ("options", "raised", "said"),
    [
        ({"max_workers": 0}, ValueError, "max_workers must be from 1"),
        ({"max_workers": 100_000}, ValueError, "max_workers must be from 1"),
        ({"max_workers": "2"}, TypeError, "integer"),
        ({"initializer": 5}, TypeError, "initializer must be a callable"),
        ({"env": {"NAME": 5}}, TypeError, "env must be names and values"),
        ({"max_tasks_per_child": 0}, ValueError, "max_tasks_per_child must be at least 1"),
        ({"retries": -1}, ValueError, "cannot be below 0"),
        ({"memory": -1}, ValueError, "cannot be below 0"),
        ({"cpus": -0.5}, ValueError, "cannot be below 0"),
    ],
)
def test_options_that_make_no_sense_are_refused_at_once(tmp_path: Path, options: dict[str, Any], raised: type[Exception], said: str) -> None:
    with pytest.raises(raised, match=said):
        unios.Executor(home=tmp_path, **options)
    assert not living._engines


def test_a_function_that_is_too_large_with_its_arguments_is_refused_on_the_future(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TASK_BYTES_MAX", 1_000)
    with unios.Executor(1, home=tmp_path) as executor:
        future = executor._give(Pickled(b"f", bytes(990), (), 990), ((1, 2, 3),))
        with pytest.raises(module.PicklingError, match="the function has 990 bytes when it is pickled; with its arguments that is over 1000"):
            future.result(10)


def test_after_the_shutdown_or_in_a_fork_nothing_is_taken(tmp_path: Path) -> None:
    executor = unios.Executor(1, home=tmp_path)
    engine = executor._engine
    broken, engine.broken = engine.broken, None
    engine.forked = True
    with pytest.raises(RuntimeError, match="belongs to the program that this process was forked from"):
        executor._check()
    assert not executor.usable()
    executor.shutdown()  # which waits for nothing there
    engine.forked = False
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor._check()
    engine.broken = broken
    executor.shutdown()
    assert not living._engines
