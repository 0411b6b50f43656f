"""Proofs: that both ends of a connection know the executor's secret. Before that nothing is unpickled: anybody may listen under a name on another node.

The secret goes to the workers' processes in their environment, which only their user may read.
"""

import hmac
import os
from hashlib import blake2b
from typing import Final

VARIABLE: Final = "UNIOS_EXECUTOR"
"""Names the port, the crew and the secret."""
SECRET_BYTES: Final = 32


def new_secret() -> bytes:
    return os.urandom(SECRET_BYTES)


def new_nonce() -> bytes:
    return os.urandom(16)


def of_caller(secret: bytes, nonce: bytes) -> bytes:
    """Return what the executor proves itself with to who said `nonce`."""
    return blake2b(b"caller" + nonce, key=secret, digest_size=32).digest()


def of_worker(secret: bytes, nonce: bytes, crew: int, worker: int) -> bytes:
    """Return what a worker, or with 0 a parent, proves itself with."""
    return blake2b(b"worker %d %d" % (crew, worker) + nonce, key=secret, digest_size=32).digest()


def same(one: bytes, other: bytes) -> bool:
    return hmac.compare_digest(one, other)
