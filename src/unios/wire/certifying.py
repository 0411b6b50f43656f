"""Certificates of nodes as one kernel has another make them."""

import msgspec


class Certify(msgspec.Struct, frozen=True):
    """node.certify -> Certified, from a kernel for itself: another certificate for the identity that it has shown. `public_key`: PEM. Idempotent: the last
    one counts."""

    public_key: bytes


class Certified(msgspec.Struct, frozen=True):
    """PEM. It is in the node's record as the next one already."""

    certificate: bytes
