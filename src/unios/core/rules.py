"""Rules: what whoever speaks for root has laid down for the whole system: quotas of users, and the placement policy. Data only.

They are kept under /rules/ and read by everybody. core/gate.py lets no member write them that does not speak for root, since it has no rule for them.
"""

from typing import Final

import msgspec

PREFIX: Final = "/rules/"
POLICY_KEY: Final = "/rules/policy"


class Quota(msgspec.Struct, frozen=True, omit_defaults=True, tag="quota"):
    """At /rules/quota-<user>: the most that he may have set aside at a time; 0: no bound. Only who speaks for root may write it."""

    user: str
    cpu_milli: int = 0
    memory_bytes: int = 0
    processes: int = 0


class PolicyRule(msgspec.Struct, frozen=True, omit_defaults=True, tag="policy"):
    """At /rules/policy: the placement policy of the system, by name. Only who speaks for root may write it."""

    name: str
    set_ms: int = 0
    replaced: str = ""
    """Why the default stands in for it: it failed; "" if it does not."""


Rule = Quota | PolicyRule


def quota_key(user: str) -> str:
    return f"/rules/quota-{user}"
