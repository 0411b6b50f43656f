"""Messages: ports for programs, blocking and asyncio. docs/messages.md."""

from unios.wire import values


def _written(value: object) -> bytes | None:
    from unios.client.messages.travelling import written

    return written(value)


def _read(data: bytes) -> object:
    from unios.client.messages.travelling import read

    return read(data)


def _written_capability(value: object) -> bytes | None:
    from unios.client.messages.capabilities import written

    return written(value)


def _read_capability(data: bytes) -> object:
    from unios.client.messages.capabilities import read

    return read(data)


values.PLAIN[1] = (_written, _read)
values.PLAIN[2] = (_written_capability, _read_capability)
