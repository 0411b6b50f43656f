"""The bounds of a transaction, whatever the engine."""

from unios.errors import CallerError
from unios.limits import KEY_BYTES_MAX, TRANSACTION_OPERATIONS_MAX, VALUE_BYTES_MAX
from unios.store.model import Put, Range, Transaction


def check(transaction: Transaction) -> None:
    """Raise CallerError for what breaks a bound."""
    if len(transaction.compares) + len(transaction.then) + len(transaction.otherwise) > TRANSACTION_OPERATIONS_MAX:
        raise CallerError(f"a transaction has more than {TRANSACTION_OPERATIONS_MAX} parts")
    for branch in (transaction.then, transaction.otherwise):
        puts = [operation.key for operation in branch if isinstance(operation, Put)]
        if len(puts) != len(set(puts)):
            raise CallerError("a transaction puts one key twice")
        for operation in branch:
            check_key(operation.key)
            if isinstance(operation, Put) and len(operation.value) > VALUE_BYTES_MAX:
                raise CallerError(f"the value of {operation.key[:80]} has {len(operation.value)} bytes, the limit is {VALUE_BYTES_MAX}")
            if isinstance(operation, Range) and operation.limit < 0:
                raise CallerError(f"a range of at most {operation.limit} records")
    for compare in transaction.compares:
        check_key(compare.key)
        if (compare.target == "value") != isinstance(compare.operand, bytes):
            raise CallerError(f"{compare.target} is compared with a {type(compare.operand).__name__}")


def check_key(key: str) -> None:
    """Raise CallerError for what is no key."""
    if not key or len(key.encode("utf-8", "surrogatepass")) > KEY_BYTES_MAX or not key.isprintable():
        raise CallerError(f"{key[:80]!r} is no key: 1 to {KEY_BYTES_MAX} printable bytes")
