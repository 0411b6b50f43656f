"""Firewall: which one this machine runs, as far as one may see, and what opens a port in it. Looks only, changes nothing, never certain."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

LOOK_S: Final = 5.0


def opening(port: int, root: Path = Path("/")) -> str:
    """Return the command that lets TCP `port` in, "" if no firewall is seen here."""
    if "ENABLED=yes" in _text(root / "etc/ufw/ufw.conf").replace(" ", ""):
        return f"ufw allow {port}/tcp"
    if (root / "run/firewalld").is_dir() or ((root / "run/dbus/system_bus_socket").exists() and (root / "run/firewalld.pid").exists()):
        return f"firewall-cmd --permanent --add-port={port}/tcp && firewall-cmd --reload"
    return opening_in(_nft_rules(), port) if root == Path("/") else ""


def opening_in(rules: list[dict[str, Any]], port: int) -> str:
    """Return the command for a list of nftables objects (libnftables-json(5)): "" if no chain drops what comes in, or one lets the port in."""
    for each in rules:
        chain = each.get("chain", {})
        if chain.get("hook") == "input" and (chain.get("policy") == "drop" or _ends_in_drop(rules, chain)) and not _lets_in(rules, chain, port):
            return f"nft insert rule {chain['family']} {chain['table']} {chain['name']} tcp dport {port} accept"
    return ""


def _of(rules: list[dict[str, Any]], chain: dict[str, Any]) -> list[dict[str, Any]]:
    key = (chain.get("family"), chain.get("table"), chain.get("name"))
    found = [each["rule"] for each in rules if "rule" in each]
    return [rule for rule in found if (rule.get("family"), rule.get("table"), rule.get("chain")) == key]


def _ends_in_drop(rules: list[dict[str, Any]], chain: dict[str, Any]) -> bool:
    mine = _of(rules, chain)
    return bool(mine) and any(key in last for last in mine[-1].get("expr", [])[:1] for key in ("drop", "reject"))


def _lets_in(rules: list[dict[str, Any]], chain: dict[str, Any], port: int) -> bool:
    for rule in _of(rules, chain):
        expressions = rule.get("expr", [])
        names_port = any(
            each.get("match", {}).get("left", {}).get("payload", {}).get("field") == "dport" and _holds(each["match"].get("right"), port)
            for each in expressions
            if isinstance(each.get("match", {}).get("left"), dict)
        )
        if names_port and any("accept" in each for each in expressions):
            return True
    return False


def _holds(right: Any, port: int) -> bool:
    if isinstance(right, dict) and "set" in right:
        return any(_holds(each, port) for each in right["set"])
    if isinstance(right, dict) and "range" in right:
        low, high = right["range"]
        return bool(low <= port <= high)
    return bool(right == port)


def _nft_rules() -> list[dict[str, Any]]:
    if os.geteuid() != 0 or shutil.which("nft") is None:
        return []
    try:
        done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, timeout=LOOK_S, stdin=subprocess.DEVNULL)
        found = json.loads(done.stdout or b"{}").get("nftables", [])
    except (OSError, ValueError, subprocess.TimeoutExpired, AttributeError):
        return []
    return [each for each in found if isinstance(each, dict)]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
