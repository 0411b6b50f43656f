"""Messages: ports for programs, blocking and asyncio. docs/messages.md."""

from unios.wire import values


def _written(value: object) -> bytes | None:
    from unios.client.messages.travelling import written

    return written(value)


def _read(data: bytes) -> object:
    from unios.client.messages.travelling import read

    return read(data)


values.PLAIN[1] = (_written, _read)
