"""Keys that detach: found however they are typed, and nothing else that is typed is lost or reordered."""

import random

import pytest

from unios.shell import keys
from unios.shell.keys import DetachKeys
from unios.shell.words import Misused


def test_the_default_is_ctrl_backslash_twice() -> None:
    assert keys.parse(keys.DEFAULT) == b"\x1c\x1c"


@pytest.mark.parametrize(
    ("text", "typed"), [("ctrl-p,ctrl-q", b"\x10\x11"), ("ctrl-a,d", b"\x01d"), ("CTRL-],ctrl-@,~", b"\x1d\x00~"), ("none", b"")]
)
def test_keys_are_written_as_docker_has_them(text: str, typed: bytes) -> None:
    assert keys.parse(text) == typed


@pytest.mark.parametrize("text", ["", ",", "ctrl-", "ctrl-pp", "ctrl-1", "ab", "ä", "ctrl-p,", "\n"])
def test_what_is_no_key_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Misused, match="detach-keys"):
        keys.parse(text)


def test_one_of_them_alone_is_held_back_and_given_when_asked() -> None:
    found = DetachKeys(b"\x1c\x1c")
    assert found.feed(b"ab\x1c") == b"ab" and found.holding
    assert found.release() == b"\x1c" and not found.holding
    assert found.feed(b"\x1c") == b"" and found.feed(b"x") == b"\x1cx" and not found.found


def test_after_the_keys_nothing_goes_to_the_program() -> None:
    found = DetachKeys(b"\x10\x11")
    assert found.feed(b"a\x10\x10\x11rest") == b"a\x10" and found.found
    assert found.feed(b"more") == b""


def test_without_keys_everything_passes() -> None:
    assert DetachKeys(b"").feed(b"\x1c\x1c") == b"\x1c\x1c"


def test_whatever_is_typed_in_whatever_pieces_nothing_is_lost_before_the_keys() -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    for _ in range(2_000):
        sequence = bytes(chance.choice(b"ab") for _ in range(chance.randrange(1, 5)))
        typed = bytes(chance.choice(b"abc") for _ in range(chance.randrange(30)))
        found, passed, at = DetachKeys(sequence), b"", 0
        while at < len(typed):
            size = chance.randrange(1, 6)
            passed += found.feed(typed[at : at + size])
            at += size
        where = typed.find(sequence)
        assert found.found == (where >= 0), f"seed {seed}"
        assert passed + (b"" if found.found else found.release()) == (typed[:where] if where >= 0 else typed), f"seed {seed}"
