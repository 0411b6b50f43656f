"""Manifests: what they may say, whoever made them, and what their changes mean."""

import string

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from unios.errors import CallerError
from unios.limits import BLOCK_BYTES, BUNDLE_BLOCKS_MAX, BUNDLE_BYTES, CARRY_DEPTH_MAX
from unios.wire import manifests
from unios.wire.manifests import NAME_BYTES, Entry

PART = st.binary(min_size=1, max_size=12).filter(lambda part: part not in (b".", b"..") and b"/" not in part and b"\0" not in part)
CONTENT = st.binary(max_size=40)


def file(path: bytes, content: bytes = b"x", mode: int = 0o644) -> Entry:
    return Entry(path, "f", mode, 1, len(content), manifests.name_of(content) if content else b"")


@st.composite
def trees(draw: st.DrawFn) -> list[Entry]:
    """A folder as it may be, in any order."""
    found = {b"": Entry(b"", "d")}
    for part, kind, content in draw(st.lists(st.tuples(PART, st.sampled_from("fdl"), CONTENT), max_size=12)):
        parent = draw(st.sampled_from([path for path, entry in found.items() if entry.kind == "d"]))
        path = parent + b"/" + part if parent else part
        if path not in found:
            found[path] = file(path, content) if kind == "f" else Entry(path, kind, 0o755, target=b"t" if kind == "l" else b"")  # type: ignore[arg-type]
    del found[b""]
    return list(found.values())


@given(trees())
def test_a_folder_is_read_as_it_was_written_and_parents_come_first(entries: list[Entry]) -> None:
    read = manifests.decode(manifests.encode(entries))
    assert sorted(read, key=lambda entry: entry.path) == sorted(entries, key=lambda entry: entry.path)
    seen = {b""}
    for entry in read:
        assert entry.path.rpartition(b"/")[0] in seen
        seen.add(entry.path)
    assert manifests.encode(reversed(entries)) == manifests.encode(entries)


def raw(*entries: Entry) -> bytes:
    return msgspec.msgpack.encode([1, list(entries)])


@pytest.mark.parametrize(
    "entries",
    [
        (file(b"../a"),),
        (file(b"/etc/passwd"),),
        (file(b"a/../../b"),),
        (file(b""),),
        (file(b"."),),
        (file(b"a//b"),),
        (file(b"a\0b"),),
        (file(b"x" * 256),),
        (file(b"a"), file(b"a")),
        (file(b"b"), file(b"a")),
        (file(b"no-folder/a"),),
        (Entry(b"l", "l", target=b"/root"), file(b"l/authorized_keys")),
        (file(b"f"), file(b"f/a")),
        (Entry(b"l", "l"),),
        (Entry(b"l", "l", target=b"a\0"),),
        (Entry(b"d", "d", size=1),),
        (Entry(b"s", "f", mode=0o4755),),
        (Entry(b"f", "f", size=BLOCK_BYTES + 1, blocks=b"x" * NAME_BYTES),),
        (Entry(b"f", "f", size=-1),),
        (Entry(b"f", "f", size=1, blocks=b"x" * (NAME_BYTES - 1)),),
    ],
    ids=lambda entries: repr(entries[-1].path[:20]),
)
def test_what_leaves_the_folder_or_makes_no_sense_is_refused(entries: tuple[Entry, ...]) -> None:
    with pytest.raises(CallerError):
        manifests.decode(raw(*entries))


@given(st.binary(max_size=300))
def test_garbage_is_refused_in_a_sentence(data: bytes) -> None:
    with pytest.raises(CallerError):
        manifests.decode(data)


@given(trees(), st.data())
def test_a_damaged_manifest_is_refused_or_stays_inside(entries: list[Entry], data: st.DataObject) -> None:
    whole = bytearray(manifests.encode(entries))
    for _ in range(3):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = manifests.decode(bytes(whole))
    except CallerError:
        return
    assert all(not entry.path.startswith(b"/") and b".." not in entry.path.split(b"/") for entry in read)
    assert len({entry.path for entry in read}) == len(read)


def test_more_of_a_newer_version_is_passed_over_and_another_version_is_named() -> None:
    entry = [b"a", "f", 0o600, 1, 0, b"", b"", "something newer"]
    assert manifests.decode(msgspec.msgpack.encode([1, [entry], "more"])) == [Entry(b"a", "f", 0o600, 1)]
    with pytest.raises(CallerError, match="version 2"):
        manifests.decode(msgspec.msgpack.encode([2, []]))


NOW = [None, file(b"a", b"1"), file(b"a", b"2"), file(b"a", b"3"), file(b"a", b"1", 0o755), Entry(b"a", "d"), Entry(b"a", "l", target=b"1")]


@pytest.mark.parametrize("here", NOW, ids=repr)
@pytest.mark.parametrize("carried", NOW, ids=repr)
def test_a_result_overwrites_only_what_was_carried(carried: Entry | None, here: Entry | None) -> None:
    result = file(b"a", b"2")
    verdict = manifests.verdict(result, carried, here)
    if here == result:
        assert verdict == "same"
    elif here is None or here == carried:
        assert verdict == "write"
    else:
        assert verdict == "beside"


def test_patterns_match_names_paths_and_what_is_below() -> None:
    assert manifests.matches(b"deep/er/x.csv", [b"*.csv"]) and manifests.matches(b"out/a/b", [b"out"]) and manifests.matches(b"out/a", [b"out/"])
    assert manifests.matches(b"out/a.csv", [b"./out/*.csv"]) and not manifests.matches(b"in/a.csv", [b"out/*.csv"])
    assert not manifests.matches(b"a.csvx", [b"*.csv"]) and not manifests.matches(b"a", [])
    assert manifests.matches(b"\xff/\xfe", [b"\xff"])


@given(st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=3), min_size=1, max_size=5))
def test_parents_are_all_the_folders_above(parts: list[str]) -> None:
    path = "/".join(parts).encode()
    assert manifests.with_parents([path]) == {"/".join(parts[:count]).encode() for count in range(1, len(parts))}


def test_a_change_in_place_changes_one_block() -> None:
    data = bytearray(5 * BLOCK_BYTES + 7)
    before = list(map(manifests.name_of, manifests.cut(bytes(data))))
    data[2 * BLOCK_BYTES + 5] = 1
    after = list(map(manifests.name_of, manifests.cut(bytes(data))))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, True, False, True, True, True]


@given(st.lists(st.integers(1, 5), max_size=30), st.integers(1, 4))
def test_bundles_hold_all_blocks_in_order_within_their_bounds(sizes: list[int], scale: int) -> None:
    blocks = [b"x" * size * scale * 40_000 for size in sizes]
    bundles = list(manifests.bundles(iter(blocks)))
    assert [block for bundle in bundles for block in bundle] == blocks
    assert all(bundle and (len(bundle) == 1 or sum(map(len, bundle)) <= BUNDLE_BYTES) for bundle in bundles)
    assert max(map(len, manifests.bundles([b"x"] * 1_000))) == BUNDLE_BLOCKS_MAX


def folders(depth: int, name: bytes = b"d") -> list[Entry]:
    return [Entry(b"/".join([name] * level), "d", mode=0o700) for level in range(1, depth + 1)]


def test_paths_are_no_deeper_and_no_longer_than_may_be() -> None:
    assert len(manifests.decode(raw(*folders(CARRY_DEPTH_MAX + 1)))) == CARRY_DEPTH_MAX + 1
    with pytest.raises(CallerError):
        manifests.decode(raw(*folders(CARRY_DEPTH_MAX + 2)))
    manifests.decode(raw(*folders(15, b"x" * 255)))
    with pytest.raises(CallerError):
        manifests.decode(raw(*folders(16, b"x" * 255)))


def test_manifests_are_bounded_by_who_writes_and_by_who_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [file(b"%03d" % number) for number in range(10)]
    monkeypatch.setattr(manifests, "CARRY_FILES_MAX", 9)
    with pytest.raises(CallerError, match="limit"):
        manifests.decode(manifests.encode(entries))
    monkeypatch.setattr(manifests, "MANIFEST_BYTES_MAX", 100)
    with pytest.raises(CallerError, match="limit"):
        manifests.encode(entries)


def test_names_of_blocks_are_whole() -> None:
    assert manifests.split(b"x" * 64) == [b"x" * 32] * 2
    with pytest.raises(CallerError):
        manifests.split(b"x" * 63)
