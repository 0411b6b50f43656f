"""What tests of the store's engines ask for by name."""

from tests.store.members import member

__all__ = ["member"]
