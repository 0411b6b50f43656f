"""Travelling: ports in messages. One travels as its name; whoever receives it connects with rights of his own when he first calls.

To a process of the same user it goes as a pickle (Port.__reduce__, AsyncPort.__reduce__), to another user's as an extension of msgpack, which has the name and
nothing else: what another user says of deadlines and of what may be done again is not believed.
"""

import msgspec

from unios.client.messages.aio_port import AsyncPort, travelled
from unios.client.messages.port import Port, _travelled
from unios.limits import PORT_NAME_BYTES_MAX
from unios.undecodable import UNDECODABLE


def written(value: object) -> bytes | None:
    """Return a port as it travels to another user, None for anything else."""
    return msgspec.msgpack.encode((value.name, isinstance(value, AsyncPort))) if isinstance(value, Port | AsyncPort) else None


def read(data: bytes) -> Port | AsyncPort:
    """Return the port. ValueError for what is none."""
    try:
        name, is_async = msgspec.msgpack.decode(data, type=tuple[str, bool])
    except UNDECODABLE as error:
        raise ValueError(f"this is no port: {error}") from error
    if not name.isprintable() or len(name.encode(errors="replace")) > PORT_NAME_BYTES_MAX:
        raise ValueError("this is no name of a port")
    found: Port | AsyncPort = (travelled if is_async else _travelled)(name, None, False)
    return found
