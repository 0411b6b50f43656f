"""What Linux says of addresses."""

import socket

from hypothesis import given
from hypothesis import strategies as st

from unios.kernel import interfaces
from unios.kernel.addresses import ports_to_try
from unios.limits import LINK_PORT, LINK_PORTS


def test_the_loopback_is_there_and_leads_to_itself() -> None:
    found = {(local.interface, local.address) for local in interfaces.local_addresses()}
    assert ("lo", "127.0.0.1") in found
    assert interfaces.source_for("127.0.0.1:9") == "127.0.0.1"
    assert interfaces.source_for("no such host:x") == interfaces.source_for("") == ""


@given(st.binary(max_size=400))
def test_a_malformed_packet_is_passed_over(data: bytes) -> None:
    _done, found = interfaces.parse(data)
    for local in found:
        socket.getaddrinfo(local.address, None, flags=socket.AI_NUMERICHOST)


def test_the_port_stays_the_same_if_it_can() -> None:
    assert ports_to_try("10.0.0.1", 0, 0) == [*range(LINK_PORT, LINK_PORT + LINK_PORTS), 0]
    assert ports_to_try("10.0.0.1", 0, 9999)[0] == 9999
    assert ports_to_try("10.0.0.1", 80, 9999) == [80]
    assert ports_to_try("127.0.0.1", 0, 0) == [0]
