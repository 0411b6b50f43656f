"""Which addresses a node tells the others."""

from hypothesis import given
from hypothesis import strategies as st

from unios.core.addresses import Local, is_loopback, join_address, split_address, told
from unios.limits import ADDRESSES_MAX

HERE = [
    Local("lo", "127.0.0.1"),
    Local("docker0", "172.17.0.1"),
    Local("wlan0", "fd00::7"),
    Local("wlan0", "fe80::7"),
    Local("wlan0", "192.168.1.7"),
    Local("eth0", "10.0.0.7"),
    Local("eth1", "169.254.3.3"),
]


def test_one_who_listens_everywhere_tells_what_leads_there_and_nothing_else() -> None:
    assert told("0.0.0.0", 7, "", HERE) == ("192.168.1.7:7", "10.0.0.7:7")
    assert told("::", 7, "", HERE) == ("192.168.1.7:7", "10.0.0.7:7", "[fd00::7]:7")


def test_the_address_that_is_known_to_lead_there_comes_first() -> None:
    assert told("0.0.0.0", 7, "", HERE, ["10.0.0.7", "192.0.2.9"]) == ("10.0.0.7:7", "192.168.1.7:7")


def test_what_the_owner_says_comes_before_all_with_his_port_or_the_nodes() -> None:
    assert told("0.0.0.0", 7, "lab.example", HERE)[0] == "lab.example:7"
    assert told("10.0.0.7", 7, "lab.example:99", HERE) == ("lab.example:99",)


def test_one_address_asked_for_is_the_one_told() -> None:
    assert told("127.0.0.1", 7, "", HERE) == ("127.0.0.1:7",)
    assert told("fd00::7", 7, "", HERE) == ("[fd00::7]:7",)


def test_a_machine_without_a_network_tells_its_loopback() -> None:
    assert told("0.0.0.0", 7, "", HERE[:1]) == ("127.0.0.1:7",)
    assert told("::", 7, "", []) == ("[::1]:7",)


@given(st.lists(st.tuples(st.text(max_size=8), st.text(max_size=20) | st.ip_addresses().map(str))), st.sampled_from(["0.0.0.0", "::"]))
def test_whatever_linux_says_there_is_something_to_tell_and_it_is_bounded(found: list[tuple[str, str]], listen: str) -> None:
    addresses = told(listen, 7117, "", [Local(*each) for each in found])
    assert 1 <= len(addresses) <= ADDRESSES_MAX
    for address in addresses:
        host, port = split_address(address)
        assert join_address(host, port) == address and port == 7117


def test_loopbacks_are_known() -> None:
    assert is_loopback("127.3.2.1") and is_loopback("::1") and is_loopback("localhost")
    assert not is_loopback("10.0.0.1") and not is_loopback("lab.example")
