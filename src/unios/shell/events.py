"""`unios events`: what happened in the system, oldest first."""

from unios.client.events import events as client
from unios.shell.session import Session
from unios.shell.table import moment, plain
from unios.shell.words import Given, Option, Word
from unios.wire.operations import EventView


def events(session: Session, given: Given) -> int:
    following = given.flag("follow")
    happened = client(session.connection, follow=following, last=given.number("last"))
    if session.json and not following:
        session.print_json([describe(event) for event in happened])
        return 0
    for event in happened:
        if session.json:
            session.print_json(describe(event))
        else:
            session.print(f"{moment(event.at_ms)}  {plain(event.node):<4} {plain(event.kind):<18} {event.text}")
    return 0


def describe(event: EventView) -> dict[str, object]:
    """Return an event as JSON shows it."""
    return {name: getattr(event, name) for name in event.__struct_fields__}


WORDS = {
    "events": Word(
        events,
        Option("follow", "-f", "--follow", text="Go on with what happens from now on; in JSON, a line each."),
        Option("last", "-n", "--last", metavar="N", number=True, text="Only the last so many."),
        text="Show what happened in the system: nodes lost, processes moved, services replaced.",
    )
}
