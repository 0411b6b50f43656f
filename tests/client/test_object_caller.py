"""Caller of a long-lived object: what it says when nobody is left to ask."""

from typing import Any, NoReturn

import pytest

from unios.client.replicas.caller import Caller
from unios.client.replicas.directory import Host
from unios.errors import OutcomeUnknown, Unavailable, UniosError
from unios.limits import OBJECT_ENDS_MAX


class Alone(Caller):
    """One whose copy answers with an error, after which no kernel answers."""

    def __init__(self, host: Host, error: UniosError) -> None:
        super().__init__("thing", home="nowhere")
        self._hosts = {0: host}
        self._error = error

    def port(self, host: Host, timeout: float) -> NoReturn:
        raise self._error

    def look(self) -> Any:
        raise Unavailable("no kernel answers")


class Ending(Caller):
    """One whose copy ends whenever it is asked, and comes back."""

    def __init__(self) -> None:
        super().__init__("thing", home="nowhere")
        self.asked = 0

    def port(self, host: Host, timeout: float) -> NoReturn:
        self.asked += 1
        raise OutcomeUnknown("the connection broke")

    def look(self) -> Any:
        self._hosts = {0: Host(300, self.asked + 1, "n1")}
        return self._hosts


def test_a_call_under_which_the_process_ends_again_and_again_is_not_asked_for_without_end() -> None:
    caller = Ending()
    with pytest.raises(OutcomeUnknown, match=f"process 300 of the object thing has ended {OBJECT_ENDS_MAX} times since this call was begun"):
        caller.ask("write", b"")
    assert caller.asked == OBJECT_ENDS_MAX


@pytest.mark.parametrize(
    ("error", "said"), [(OutcomeUnknown("the connection broke"), OutcomeUnknown), (Unavailable("nobody could be asked"), Unavailable)]
)
def test_what_may_have_been_done_is_not_said_to_be_undone_when_no_kernel_is_left(error: UniosError, said: type[UniosError]) -> None:
    caller = Alone(Host(300, 1, "n1"), error)
    with pytest.raises(UniosError) as caught:
        caller.ask("write", b"")
    assert type(caught.value) is said
