"""Sessions: a program opened inside a process that runs, with a person or a script at it. As with ssh it lives as long as its connection."""

from typing import Protocol

from unios.client.connection import Connection
from unios.client.conversation import Local, converse
from unios.errors import Unavailable
from unios.wire.terminals import Execute, Said

_QUIET_S = 3600.0


class Speaker(Local, Protocol):
    """The person's side of a session."""

    def begin(self, *, terminal: bool) -> None:
        """The program is about to start."""

    def say(self, stream: str, data: bytes) -> None:
        """Show output."""


def execute(connection: Connection, wanted: Execute, local: Speaker) -> int | None:
    """Open the program and stay until it has ended; return its exit code, None if the person has left, which hangs it up.

    Raises why it could not be opened, and OutcomeUnknown or Unavailable when the connection breaks: the session has been hung up then.
    """
    code: list[int] = []
    channel = connection.channel()
    asked = connection.begin("processes.exec", wanted)

    def take(said: Said) -> None:
        if said.stream == "exit":
            code.append(said.exit_code)
        else:
            local.say(said.stream, said.data)

    try:
        local.begin(terminal=wanted.rows > 0)
        if not converse(channel, asked, local, Said, take, quiet_s=_QUIET_S, quiet=lambda: True):
            return None
    finally:
        asked.close()
    if not code:
        raise Unavailable("the session ended without saying how")
    return code[0]
