"""Failures that an object keeps and raises do not keep their callers' variables alive."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from unios.errors import DataLost, Unavailable, fresh


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Kept:
    failure = Unavailable("it is away")

    def finish(self) -> None:
        raise fresh(self.failure)


class Large:
    pass


def caller() -> "weakref.ref[Large]":
    kept, large = Kept(), Large()
    kept.failure = Unavailable("it is away")
    try:
        kept.finish()
    except Unavailable:
        pass
    return weakref.ref(large)


@pytest.mark.usefixtures("no_collector")
def test_what_a_caller_had_is_gone_with_the_caller() -> None:
    assert caller()() is None


def test_an_error_made_anew_is_the_same_to_who_catches_it() -> None:
    cause = OSError("disk")
    error = DataLost("it is lost")
    error.__cause__ = cause
    again = fresh(error)
    assert type(again) is DataLost and str(again) == "it is lost" and again.__cause__ is cause
