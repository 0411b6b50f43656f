"""Expelling a node: what is asked of its system, and of each of the other kernels."""

import msgspec


class Expel(msgspec.Struct, frozen=True):
    """node.expel -> Expelled: a node that is there and is not to be trusted is cut off on all nodes. Idempotent."""

    name: str


class Expelled(msgspec.Struct, frozen=True, omit_defaults=True):
    """`confirmed`: who has cut it off. `missing`: (who has not, why). `is_whole`: every node whose lease stands has. `tokens`: how many unspent join tokens
    are void by it. `notes`: what it does not reach, as sentences."""

    confirmed: tuple[str, ...]
    missing: tuple[tuple[str, str], ...] = ()
    is_whole: bool = True
    tokens: int = 0
    notes: tuple[str, ...] = ()


class Cut(msgspec.Struct, frozen=True):
    """node.cut -> Empty, between kernels: have nothing to do any more with the holder of the certificates of these hashes, a node called `name`. Answered
    once it is cut off and that is on disk. Idempotent."""

    name: str
    marks: tuple[str, ...]
