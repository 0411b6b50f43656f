"""What no node could run, or nobody may ask for, is refused before anything is written."""

from typing import Any

import pytest

from unios.demands import After, Placing, Queueing, Resources
from unios.errors import CallerError, Denied
from unios.services.batches import check_request
from unios.services.specifications import spec_of, user_of
from unios.wire.operations import Accepted, Program

ANN = Accepted(1, "placement", "ann", False, "n1")
ROOT = Accepted(1, "placement", "root", True, "n1")


@pytest.mark.parametrize(
    "fields",
    [
        {"resources": Resources(-1)},
        {"resources": Resources(1, -1)},
        {"resources": Resources(1 << 60)},
        {"resources": Resources(devices=("x" * 101,))},
        {"resources": Resources(devices=("x",) * 33)},
        {"queueing": Queueing(32)},
        {"queueing": Queueing(-1)},
        {"queueing": Queueing(time_limit_ms=-1)},
        {"queueing": Queueing(array=1 << 20)},
        {"queueing": Queueing(after=(After(300, "ok"),) * 33)},
        {"placing": Placing(label="x" * 101)},
        {"placing": Placing(near=("x",) * 33)},
    ],
)
def test_demands_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(CallerError):
        spec_of(Program((b"true",), **fields), "ann")


def test_a_priority_over_the_default_and_another_user_are_for_the_privileged() -> None:
    high, other = Program((b"true",), queueing=Queueing(17)), Program((b"true",), user="bob")
    for program in (high, other):
        with pytest.raises(Denied):
            user_of(program, ANN)
    assert (user_of(high, ROOT), user_of(other, ROOT), user_of(Program((b"true",)), ANN)) == ("root", "bob", "ann")


@pytest.mark.parametrize("request_id", ["", "a/b", "x" * 65, "é", "a b"])
def test_a_request_id_is_letters_and_digits(request_id: str) -> None:
    with pytest.raises(CallerError):
        check_request(request_id)
