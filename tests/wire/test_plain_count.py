"""How many objects a document makes, as its decoder counts them, and whatever it is given."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unios.errors import CallerError, ProtocolError
from unios.limits import FRAME_BYTES_MAX
from unios.wire import values
from unios.wire.plain_count import is_over

LEAVES = st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.floats() | st.text(max_size=300) | st.binary(max_size=300)
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=40) | st.dictionaries(st.text(max_size=40), inner, max_size=40), max_leaves=60)


def objects(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + sum(1 + objects(inner) for inner in value.values())
    return 1 + sum(map(objects, value)) if isinstance(value, list) else 1


@given(VALUES)
@example(msgspec.msgpack.Ext(1, b"x" * 300))
@example([b"x" * 70_000, "x" * 70_000, [0] * 70_000, msgspec.msgpack.Ext(1, b"1234"), msgspec.msgpack.Ext(1, b"123")])
def test_it_counts_what_the_decoder_makes(value: Any) -> None:
    document = memoryview(msgspec.msgpack.encode(value))
    count = objects(value)
    assert not is_over(document, count)
    assert is_over(document, count - 1)


@given(st.binary(max_size=200))
def test_it_comes_to_an_end_with_anything(document: bytes) -> None:
    is_over(memoryview(document), 100)


def test_a_value_that_would_take_the_memory_is_refused_on_both_sides() -> None:
    small = b"\x90" * (FRAME_BYTES_MAX // 2)
    document = b"\x92\xa1v\xdd" + len(small).to_bytes(4, "big") + small
    with pytest.raises(ProtocolError, match="more than 1000000 objects"):
        values.decode(values.Value(msgspec.Raw(b"\xa0"), [memoryview(document)]), trusted=False)
    with pytest.raises(CallerError, match="more than 1000000 objects"):
        values.encode([[]] * 1_100_000, trusted=False)
    large = values.encode([b"\x90" * 8_000_000, 1], trusted=False)
    assert values.decode(large, trusted=False)[1] == 1
