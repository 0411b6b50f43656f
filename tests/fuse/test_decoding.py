"""Requests of bytes: those that Linux sends are understood whole, and no bytes at all do anything worse than be refused."""

import struct
from collections.abc import Callable
from typing import Any, Final

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from unios.fuse import abi, requests
from unios.fuse.abi import Op
from unios.fuse.decoding import COPY_BYTES_MAX, decode
from unios.fuse.requests import Malformed, Request

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
NAME = st.binary(min_size=1, max_size=255).map(lambda name: name.replace(b"\0", b"x").replace(b"/", b"y"))
TEXT = st.binary(min_size=1, max_size=300).map(lambda name: name.replace(b"\0", b"x"))
DATA = st.binary(max_size=300)


def message(op: int, body: bytes, *, unique: int = 7, node: int = 1, length: int | None = None, extensions: int = 0) -> memoryview:
    size = abi.IN_HEADER.size + len(body) if length is None else length
    return memoryview(abi.IN_HEADER.pack(size, op, unique, node, 1000, 1001, 42, extensions, 0) + body)


Case = tuple[Op, st.SearchStrategy[Any], Callable[..., bytes], Callable[..., Any]]
"""What is asked, its arguments, its bytes, and what is made of them."""


def zero(*names: bytes) -> bytes:
    return b"".join(name + b"\0" for name in names)


CASES: Final[list[Case]] = [
    *((op, st.tuples(NAME), zero, requests.Name) for op in (Op.LOOKUP, Op.UNLINK, Op.RMDIR)),
    (Op.REMOVEXATTR, st.tuples(TEXT), zero, requests.Name),
    *((op, st.just(()), lambda: b"", requests.Nothing) for op in (Op.READLINK, Op.DESTROY)),
    (Op.FORGET, st.tuples(U64), lambda n: struct.pack("<Q", n), lambda n: requests.Forget(((1, n),))),
    (
        Op.BATCH_FORGET,
        st.tuples(st.lists(st.tuples(U64, U64), max_size=5)),
        lambda pairs: struct.pack("<II", len(pairs), 0) + b"".join(struct.pack("<QQ", *pair) for pair in pairs),
        lambda pairs: requests.Forget(tuple(pairs)),
    ),
    (Op.GETATTR, st.tuples(U64), lambda fh: struct.pack("<IIQ", 1, 0, fh), requests.Getattr),
    (Op.GETATTR, st.tuples(U64), lambda fh: struct.pack("<IIQ", 0, 0, fh), lambda _fh: requests.Getattr(None)),
    (Op.SYMLINK, st.tuples(NAME, TEXT), zero, requests.Symlink),
    (Op.MKNOD, st.tuples(NAME, U32, U32, U32), lambda name, *more: struct.pack("<IIII", *more, 0) + zero(name), requests.Mknod),
    (Op.MKDIR, st.tuples(NAME, U32, U32), lambda name, *more: struct.pack("<II", *more) + zero(name), requests.Mkdir),
    (Op.RENAME, st.tuples(NAME, U64, NAME), lambda a, to, b: struct.pack("<Q", to) + zero(a, b), lambda *of: requests.Rename(*of, 0)),
    (Op.RENAME2, st.tuples(NAME, U64, NAME, U32), lambda a, to, b, how: struct.pack("<QII", to, how, 0) + zero(a, b), requests.Rename),
    (Op.LINK, st.tuples(U64, NAME), lambda old, name: struct.pack("<Q", old) + zero(name), requests.Link),
    *((op, st.tuples(U32, U32), lambda *of: struct.pack("<II", *of), requests.Open) for op in (Op.OPEN, Op.OPENDIR)),
    (Op.CREATE, st.tuples(NAME, U32, U32, U32, U32), lambda name, *of: struct.pack("<IIII", *of) + zero(name), requests.Create),
    (Op.TMPFILE, st.tuples(U32, U32, U32, U32), lambda *of: struct.pack("<IIII", *of) + zero(b"/"), lambda *of: requests.Create(b"", *of)),
    *(
        (op, st.tuples(U64, U64, U32, U32), lambda fh, at, n, flags: struct.pack("<QQIIQII", fh, at, n, 0, 9, flags, 0), requests.Read)
        for op in (Op.READ, Op.READDIR, Op.READDIRPLUS)
    ),
    (
        Op.WRITE,
        st.tuples(U64, U64, DATA, U64, U32, st.booleans(), st.booleans()),
        lambda fh, at, data, owner, flags, kept, kill: struct.pack("<QQIIQII", fh, at, len(data), kept | kill << 2, owner, flags, 0) + data,
        requests.Write,
    ),
    *(
        (
            op,
            st.tuples(U64, U32, U64, st.booleans()),
            lambda fh, flags, owner, flock: struct.pack("<QIIQ", fh, flags, flock << 1, owner),
            requests.Release,
        )
        for op in (Op.RELEASE, Op.RELEASEDIR)
    ),
    (Op.FLUSH, st.tuples(U64, U64), lambda fh, owner: struct.pack("<QIIQ", fh, 0, 0, owner), requests.Flush),
    *((op, st.tuples(U64, st.booleans()), lambda fh, only: struct.pack("<QII", fh, only, 0), requests.Fsync) for op in (Op.FSYNC, Op.FSYNCDIR)),
    (
        Op.SETXATTR,
        st.tuples(TEXT, DATA, U32),
        lambda name, value, flags: struct.pack("<IIII", len(value), flags, 0, 0) + zero(name) + value,
        requests.Setxattr,
    ),
    (Op.GETXATTR, st.tuples(TEXT, U32), lambda name, size: struct.pack("<II", size, 0) + zero(name), requests.Getxattr),
    (Op.LISTXATTR, st.tuples(U32), lambda size: struct.pack("<II", size, 0), lambda size: requests.Getxattr(b"", size)),
    *(
        (
            op,
            st.tuples(U64, U64, st.integers(0, 99), st.integers(99, 2**63 - 1), st.integers(0, 2), U32, st.booleans()),
            lambda fh, owner, start, end, kind, pid, flock: struct.pack("<QQQQIIII", fh, owner, start, end, kind, pid, flock, 0),
            requests.Lock,
        )
        for op in (Op.GETLK, Op.SETLK, Op.SETLKW)
    ),
    (Op.ACCESS, st.tuples(U32), lambda mask: struct.pack("<II", mask, 0), requests.Access),
    (Op.INTERRUPT, st.tuples(U64), lambda unique: struct.pack("<Q", unique), lambda unique: requests.Interrupt(unique & ~abi.RESENT)),
    (
        Op.IOCTL,
        st.tuples(U64, U32, U32, U64, DATA, U32),
        lambda fh, flags, command, argument, data, size: struct.pack("<QIIQII", fh, flags, command, argument, len(data), size) + data,
        requests.Ioctl,
    ),
    (Op.FALLOCATE, st.tuples(U64, U64, U64, U32), lambda *of: struct.pack("<QQQII", *of, 0), requests.Fallocate),
    (Op.LSEEK, st.tuples(U64, U64, U32), lambda *of: struct.pack("<QQII", *of, 0), requests.Lseek),
    (
        Op.COPY_FILE_RANGE,
        st.tuples(*(U64,) * 7),
        lambda *of: struct.pack("<QQQQQQQ", *of),
        lambda *of: requests.CopyFileRange(*of)._replace(length=min(of[5], COPY_BYTES_MAX)),
    ),
    (Op.STATX, st.tuples(U64, U32), lambda fh, mask: struct.pack("<IIQII", 1, 0, fh, 0, mask), requests.Statx),
]


@pytest.mark.parametrize("case", CASES, ids=[f"{at}-{case[0].name}" for at, case in enumerate(CASES)])
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_what_linux_asks_is_what_is_understood_and_nothing_short_of_it_is(case: Case, data: st.DataObject) -> None:
    op, arguments, encode, made = case
    asked = data.draw(arguments)
    body = encode(*asked)
    found = decode(message(op, body))
    assert (found.op, found.unique, found.node, found.uid, found.gid, found.pid) == (op, 7, 1, 1000, 1001, 42)
    assert found.body == made(*asked) and type(found.body) is type(made(*asked)) and not found.resent
    if op not in (Op.STATX, Op.LSEEK, Op.TMPFILE):  # of these the end is padding, or says nothing
        for cut in {0, len(body) // 2, len(body) - 1} - {len(body), -1}:
            with_less = decode_or_refuse(message(op, body[:cut]))
            assert isinstance(with_less, Malformed) or with_less.body != found.body or not body[cut:].strip(b"\0")


def decode_or_refuse(given: memoryview) -> Request | Malformed:
    try:
        return decode(given)
    except Malformed as error:
        return error


@settings(max_examples=50, deadline=None)
@given(
    st.tuples(U32, U64, U64, U64),
    st.tuples(*(st.integers(-(2**62), 2**62),) * 3),
    st.tuples(*(st.integers(0, 10**9 - 1),) * 3),
    st.tuples(U32, U32, U32),
)
def test_times_are_signed_and_to_the_nanosecond(
    first: tuple[int, int, int, int], seconds: tuple[int, int, int], nanoseconds: tuple[int, int, int], last: tuple[int, int, int]
) -> None:
    valid, fh, size, owner = first
    body = (
        struct.pack("<IIQQQ", valid, 0, fh, size, owner)
        + struct.pack("<qqq", *seconds)
        + struct.pack("<IIIIIIII", *nanoseconds, last[0], 0, *last[1:], 0)
    )
    times = [second * 10**9 + nanosecond for second, nanosecond in zip(seconds, nanoseconds, strict=True)]
    assert decode(message(Op.SETATTR, body)).body == requests.Setattr(valid, fh, size, owner, *times, *last)
    wrong = bytearray(body)
    wrong[56:60] = struct.pack("<I", 10**9)
    with pytest.raises(Malformed, match="ns"):
        decode(message(Op.SETATTR, bytes(wrong)))


@pytest.mark.parametrize(
    ("given_", "why"),
    [
        (memoryview(b"x" * 39), "39 bytes"),
        (message(Op.LOOKUP, b"name\0", length=99), "says that it has 99"),
        (message(Op.LOOKUP, b"name\0", extensions=2), "extensions"),
        (message(Op.LOOKUP, b"name"), "1 names"),
        (message(Op.LOOKUP, b"\0"), "1 names"),
        (message(Op.LOOKUP, b"a\0b\0"), "1 names"),
        (message(Op.LOOKUP, b"a/b\0"), "slash"),
        (message(Op.RENAME, struct.pack("<Q", 1) + b"a\0b/c\0"), "slash"),
        (message(Op.SYMLINK, b"a/b\0target\0"), "slash"),
        (message(Op.WRITE, struct.pack("<QQIIQII", 1, 0, 5, 0, 0, 0, 0) + b"four"), "4 of 5 bytes"),
        (message(Op.SETXATTR, struct.pack("<IIII", 5, 0, 0, 0) + b"user.a\0four"), "4 of 5 bytes"),
        (message(Op.SETXATTR, struct.pack("<IIII", 0, 0, 0, 0) + b"user.a"), "bytes of a value"),
        (message(Op.BATCH_FORGET, struct.pack("<II", 2**32 - 1, 0)), "nodes are not there"),
        (message(Op.SETLK, struct.pack("<QQQQIIII", 1, 1, 5, 4, 0, 0, 0, 0)), "a lock"),
        (message(Op.SETLK, struct.pack("<QQQQIIII", 1, 1, 0, 4, 3, 0, 0, 0)), "a lock"),
        (message(Op.GETATTR, b"1234"), "too short for GETATTR"),
        (message(Op.IOCTL, struct.pack("<QIIQII", 1, 0, 0, 0, 9, 0)), "0 of 9 bytes"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_bytes_that_make_no_sense_are_refused_with_why_and_whose_they_are(given_: memoryview, why: str) -> None:
    with pytest.raises(Malformed, match=why) as refused:
        decode(given_)
    assert refused.value.unique == (0 if len(given_) < 40 else 7)


def test_what_is_not_known_is_told_apart_and_extensions_are_left_out() -> None:
    found = decode(message(4242, b"whatever"))
    assert found.op == 4242 and found.body == requests.Nothing() and "4242" in repr(found)
    longer = decode(message(Op.MKDIR, struct.pack("<II", 0o755, 0o22) + b"seven77\0" + b"security", extensions=1))
    assert longer.body == requests.Mkdir(b"seven77", 0o755, 0o22)
    again = decode(message(Op.LOOKUP, b"name\0", unique=abi.RESENT | 6))
    assert again.resent and again.number == 6 and again.unique == abi.RESENT | 6


@settings(max_examples=400, deadline=None)
@given(st.integers(0, 60), st.binary(max_size=200), st.integers(0, 3))
@example(43, bytes(31), 0)
def test_no_bytes_do_worse_than_be_refused(op: int, body: bytes, extensions: int) -> None:
    found = decode_or_refuse(message(op, body, extensions=extensions))
    assert isinstance(found, Malformed) or repr(found)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=120))
def test_no_bytes_at_all_do_worse_than_be_refused(given_: bytes) -> None:
    found = decode_or_refuse(memoryview(given_))
    assert isinstance(found, Malformed) or repr(found)
