"""Which command opens a port, by what is seen of the machine's firewall."""

from pathlib import Path
from typing import Any

from unios.client.firewall import opening, opening_in

CHAIN: dict[str, Any] = {"chain": {"family": "inet", "table": "filter", "name": "input", "hook": "input", "policy": "drop"}}


def rule(*expr: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": list(expr)}}


def port(right: Any) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": right}}


def test_ufw_and_firewalld_are_seen_by_their_files(tmp_path: Path) -> None:
    assert opening(7117, tmp_path) == ""
    (tmp_path / "run/firewalld").mkdir(parents=True)
    assert opening(7117, tmp_path) == "firewall-cmd --permanent --add-port=7117/tcp && firewall-cmd --reload"
    (tmp_path / "etc/ufw").mkdir(parents=True)
    (tmp_path / "etc/ufw/ufw.conf").write_text("LOGLEVEL=low\nENABLED=yes\n")
    assert opening(7117, tmp_path) == "ufw allow 7117/tcp"


def test_a_chain_that_drops_wants_a_rule_unless_there_is_one() -> None:
    command = "nft insert rule inet filter input tcp dport 7117 accept"
    assert opening_in([CHAIN], 7117) == command
    assert opening_in([CHAIN, rule(port(22), {"accept": None})], 7117) == command
    assert opening_in([CHAIN, rule(port(7117), {"drop": None})], 7117) == command
    for right in (7117, {"set": [22, 7117]}, {"range": [7000, 7200]}, {"set": [{"range": [7000, 7200]}]}):
        assert opening_in([CHAIN, rule(port(right), {"accept": None})], 7117) == ""


def test_a_chain_that_lets_everything_in_wants_nothing() -> None:
    accepts = {"chain": {**CHAIN["chain"], "policy": "accept"}}
    assert opening_in([], 7117) == opening_in([accepts], 7117) == ""
    assert opening_in([accepts, rule({"drop": None})], 7117).startswith("nft insert rule")
