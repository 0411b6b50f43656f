"""Whether a joiner is reached: who answers has to know what it was told to say."""

import asyncio

from unios.kernel.addresses import reach

NONCE = b"0123456789abcdef"


def found(said: bytes, asked: bytes = NONCE) -> str:
    """Return what `reach` says of a server that answers so."""

    async def work() -> str:
        async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(said)
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            return await reach(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", asked)

    return asyncio.run(work())


def test_who_says_the_right_bytes_is_reached() -> None:
    assert found(NONCE) == ""


def test_another_machine_at_the_address_is_not_the_joiner() -> None:
    assert found(b"SSH-2.0-OpenSSH_9.2p1\r\n") == "another machine answers there"
    assert found(b"") == found(NONCE[:-1]) == "another machine answers there"


def test_a_closed_port_and_an_address_that_is_none_are_told() -> None:
    assert asyncio.run(reach("127.0.0.1:1", NONCE)) == "refused"
    assert asyncio.run(reach("no address", NONCE)) and asyncio.run(reach("", NONCE))
