"""One-way messages of a conversation: they are begun, whatever else is under way."""

from unios.wire.conversations import Answering, Asking
from unios.wire.values import NOTHING


def test_a_message_that_is_not_answered_is_begun_when_nothing_else_is_under_way() -> None:
    asking, answering = Asking("s"), Answering("u")
    for _ in range(3):
        asked = asking.ask("f", NOTHING, oneway=True)
        assert answering.begin(asked.request(asking.ack, (), 0)) is not None


def test_a_message_that_is_not_answered_says_no_more_than_what_came_before_it() -> None:
    asking, answering = Asking("s"), Answering("u")
    first = asking.ask("f", NOTHING)
    oneway = asking.ask("f", NOTHING, oneway=True)
    for asked in (oneway, first):
        assert answering.begin(asked.request(asking.ack, (), 0)) is not None
