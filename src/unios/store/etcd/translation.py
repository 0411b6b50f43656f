"""Between the store's model and etcd's messages. Decides only: nothing is asked here.

Where the two differ:
- An absent key differs from any value here; in etcd no compare of a value holds for it. So `value !=` is asked as `value ==` with the branches
  changed over, one transaction within another.
- A put with a lease needs the lease's record, which says that it runs: its branch is a transaction within the transaction. If the lease has ended
  nothing of it is done: NotFound.
- etcd refuses a put of what the same branch deletes (CallerError).
- Revisions of a store that was moved to etcd go on where they were: etcd's own, and keys.base on top. A compare with one from before the move holds as
  for a record that has changed since.
"""

from collections.abc import Iterator

from unios.errors import NotFound, OutcomeUnknown, UniosError
from unios.ids import Generation
from unios.limits import RANGE_RECORDS_MAX
from unios.store.etcd import messages
from unios.store.etcd.keys import Keys
from unios.store.etcd.messages import Change, Deleted, Done, KeyValue, Ranged
from unios.store.model import Compare, Delete, Event, Operation, Put, Range, RangeResult, Record, Revision, Transaction, TransactionResult
from unios.store.sqlite import LEASE_ID_MAX, RANGE_BYTES_MAX, record_bytes


def writes(transaction: Transaction) -> bool:
    return any(not isinstance(operation, Range) for operation in (*transaction.then, *transaction.otherwise))


def request(keys: Keys, transaction: Transaction) -> bytes:
    """Return etcd's request. Raises NotFound if a lease is none that etcd could have."""
    plain = [one for one in transaction.compares if not _turned(one)]
    then, otherwise = _branch(keys, transaction.then), _branch(keys, transaction.otherwise)
    for compare in filter(_turned, transaction.compares):
        equal = messages.compare(keys.record(compare.key), "value", "==", compare.operand)
        then = [messages.as_transaction(messages.transaction([equal], otherwise, then))]
    compares = [messages.compare(keys.record(one.key), one.target, *_operand(keys, one)) for one in plain]
    return messages.transaction(compares, then, otherwise)


def request_of_all(keys: Keys, transactions: tuple[Transaction, ...]) -> bytes:
    """Return etcd's request for several that touch nothing of each other. Raises NotFound as `request` does."""
    if len(transactions) == 1:
        return request(keys, transactions[0])
    # etcd counts what it writes, and refuses when it has no space, by the puts that are not in a transaction within: this one, of a key that only gateways use
    counted = messages.as_put(messages.put(keys.gateways + b"group", b""))
    return messages.transaction([], [counted, *(messages.as_transaction(request(keys, one)) for one in transactions)], [])


def _operand(keys: Keys, compare: Compare) -> tuple[str, int | bytes]:
    """Return how etcd is asked: every record that there is has a revision above the base, and one that there is not has 0."""
    op, operand = compare.op, compare.operand
    if compare.target not in ("created", "modified") or not isinstance(operand, int) or operand <= 0:
        return op, operand
    if operand > keys.base:
        return op, operand - keys.base
    return {"==": ("<", 0), "!=": ("!=", LEASE_ID_MAX), ">": (">", 0), "<": ("==", 0)}[op]


def _turned(compare: Compare) -> bool:
    return compare.target == "value" and compare.op == "!="


def _branch(keys: Keys, operations: tuple[Operation, ...]) -> list[bytes]:
    leases = _leases(operations)
    if any(not 0 < lease <= LEASE_ID_MAX for lease in leases):
        raise NotFound(f"lease {leases[0]} has ended")
    found = [operation(keys, one) for one in operations]
    if not leases:
        return found
    running = [messages.compare(keys.lease(lease), "version", ">", 0) for lease in leases]
    return [messages.as_transaction(messages.transaction(running, found, []))]


def _leases(operations: tuple[Operation, ...]) -> list[int]:
    return sorted({operation.lease for operation in operations if isinstance(operation, Put) and operation.lease})


def operation(keys: Keys, operation: Operation) -> bytes:
    match operation:
        case Put(key, value, lease):
            return messages.as_put(messages.put(keys.record(key), value, lease))
        case Delete(key, prefix):
            first = keys.record(key)
            return messages.as_delete(messages.delete(first, messages.after(first) if prefix else b""))
        case Range():
            return messages.as_range(range_request(keys, operation))


def range_request(keys: Keys, range_: Range, *, limit: int = 0, revision: int = 0) -> bytes:
    """Return etcd's request for a range; `limit` 0: as many as it asks for."""
    first = keys.record(range_.key)
    if not range_.prefix:
        if range_.after and range_.key <= range_.after:  # nothing: the range ends before it begins
            return messages.range_(first + b"\0", first, limit=1, revision=revision)
        return messages.range_(first, limit=1, revision=revision)
    start = max(first, keys.record(range_.after) + b"\0" if range_.after else first)
    return messages.range_(start, messages.after(first), limit=limit or bound(range_), revision=revision)


def bound(range_: Range) -> int:
    """Return how many records a range may answer."""
    return min(range_.limit or RANGE_RECORDS_MAX, RANGE_RECORDS_MAX)


def result(keys: Keys, generation: Generation, transaction: Transaction, done: Done) -> TransactionResult:
    """Return what etcd's answer means. Raises NotFound if a lease has ended, OutcomeUnknown if it is no answer to that."""
    revision = Revision(generation, done.revision + keys.base)
    succeeded = done.succeeded
    for _turn in filter(_turned, transaction.compares):
        if not succeeded:
            break
        (inner,) = done.results
        if not isinstance(inner, Done):
            raise OutcomeUnknown("etcd answered something else than was asked")
        done, succeeded = inner, not inner.succeeded
    operations = transaction.then if succeeded else transaction.otherwise
    results = done.results
    if leases := _leases(operations):
        (inner,) = results
        if not isinstance(inner, Done) or not inner.succeeded:
            raise NotFound(f"lease {' or '.join(map(str, leases))} has ended")
        results = inner.results
    if len(results) != len(operations):
        raise OutcomeUnknown("etcd answered something else than was asked")
    return TransactionResult(succeeded, revision, tuple(_one(keys, *pair) for pair in zip(operations, results, strict=True)))


def results_of_all(keys: Keys, generation: Generation, transactions: tuple[Transaction, ...], done: Done) -> list[TransactionResult | UniosError]:
    """Return what etcd's answer to `request_of_all` means for each. Raises OutcomeUnknown if it is no answer to that."""
    each = (done,) if len(transactions) == 1 else done.results[1:]
    if len(each) != len(transactions):
        raise OutcomeUnknown("etcd answered something else than was asked")
    found: list[TransactionResult | UniosError] = []
    for transaction, inner in zip(transactions, each, strict=True):
        if not isinstance(inner, Done):
            raise OutcomeUnknown("etcd answered something else than was asked")
        try:
            found.append(result(keys, generation, transaction, inner._replace(revision=done.revision)))
        except NotFound as error:
            found.append(error)
    return found


def _one(keys: Keys, operation: Operation, answer: Ranged | Deleted | Done | None) -> RangeResult | int:
    if isinstance(answer, Ranged):
        return cut([record(keys, found) for found in answer.found], answer.more and isinstance(operation, Range) and operation.prefix)
    return answer.keys if isinstance(answer, Deleted) else 0


def cut(records: list[Record], more: bool) -> RangeResult:
    """Return as many of the records as a message may have, and at least one."""
    size = 0
    for at, one in enumerate(records):
        size += record_bytes(one)
        if at and size > RANGE_BYTES_MAX:
            return RangeResult(tuple(records[:at]), True)
    return RangeResult(tuple(records), more)


def record(keys: Keys, found: KeyValue) -> Record:
    created, modified = found.created + keys.base, found.modified + keys.base
    return Record(found.key[len(keys.data) :].decode(), found.value, created, modified, found.version, found.lease)


def event(keys: Keys, change: Change) -> Event:
    """Raises LookupError if what was deleted has been compacted meanwhile."""
    if not change.deleted:
        return Event("put", change.now.modified + keys.base, record(keys, change.now))
    if change.before is None:
        raise LookupError(change.now.key)
    return Event("delete", change.now.modified + keys.base, record(keys, change.before))


def revisions(changes: tuple[Change, ...]) -> Iterator[tuple[int, list[Change]]]:
    """Group changes by the revision that they are of."""
    number, same = 0, list[Change]()
    for change in changes:
        if change.now.modified != number and same:
            yield number, same
            same = []
        number = change.now.modified
        same.append(change)
    if same:
        yield number, same
