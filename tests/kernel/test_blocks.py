"""Blocks on disk: verified, apart for each user, bounded, whole after a crash."""

import os
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from unios.errors import CallerError, NoRoom, Unavailable
from unios.kernel import blocks
from unios.kernel.blocks import BlockStore
from unios.limits import BLOCK_BYTES, DISK_FREE_BYTES_MIN, FILES_USER
from unios.wire.manifests import name_of


def nothing() -> frozenset[tuple[str, bytes]]:
    return frozenset()


def put(store: BlockStore, *data: bytes, user: str = "ann") -> list[bytes]:
    with store.batch(user, nothing) as batch:
        names = [batch.add(one) for one in data]
        batch.commit()
    return names


def file_of(folder: Path, name: bytes, user: str = "ann") -> Path:
    return folder / blocks.folder_of(user) / name.hex()[:2] / name.hex()[2:]


def test_what_was_put_is_there_after_a_restart(tmp_path: Path) -> None:
    names = put(BlockStore(str(tmp_path)), b"one", b"two", b"x" * BLOCK_BYTES)
    store = BlockStore(str(tmp_path))
    store.count()
    assert store.missing("ann", names) == [] and store.get("ann", names[2]) == b"x" * BLOCK_BYTES
    assert store.list("ann", b"", 10) == sorted(zip(names, (3, 3, BLOCK_BYTES), strict=True))
    assert store.used_bytes == 6 + BLOCK_BYTES


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "longer"])
def test_a_damaged_block_is_found_out_on_reading_and_counts_as_missing(tmp_path: Path, damage: str) -> None:
    store = BlockStore(str(tmp_path))
    (name,) = put(store, b"precious" * 100)
    path = file_of(tmp_path, name)
    data = path.read_bytes()
    path.write_bytes({"flip": b"q" + data[1:], "cut": data[:-1], "empty": b"", "longer": data + b"!"}[damage])
    assert store.get("ann", name) is None
    assert store.missing("ann", [name]) == [name]
    assert put(store, data) == [name] and store.get("ann", name) == data


def test_without_verification_the_damage_would_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutant: that the test above sees the damage is due to the check of the name."""
    store = BlockStore(str(tmp_path))
    (name,) = put(store, b"precious")
    file_of(tmp_path, name).write_bytes(b"prEcious")
    monkeypatch.setattr(blocks, "is_whole", lambda _name, _data: True)
    assert store.get("ann", name) == b"prEcious"


def test_a_users_blocks_are_not_found_by_another_who_knows_the_name(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    (name,) = put(store, b"secret")
    for other in ("bob", "ANN", "ann/", "../u-ann", "u-ann", "", "."):
        assert store.get(other, name) is None and store.missing(other, [name]) == [name] and store.list(other, b"", 9) == []
    assert store.drop("bob", [name], nothing) == 0 and store.get("ann", name) == b"secret"


def test_names_of_users_are_no_paths() -> None:
    names = ["a", "../x", "..", "/", "#1000", "a/b", "ä", "", "a%2fb"]
    assert all("/" not in blocks.folder_of(name) and blocks.folder_of(name).startswith("u-") for name in names)
    assert len(set(map(blocks.folder_of, names))) == len(names)


def test_what_was_not_committed_is_gone(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    with store.batch("ann", nothing) as batch:
        name = batch.add(b"half")
    assert store.missing("ann", [name]) == [name] and store.used_bytes == 0 and not os.listdir(tmp_path / "incoming")
    (tmp_path / "incoming" / "7").write_bytes(b"left by a kernel that was killed")
    BlockStore(str(tmp_path))
    assert not os.listdir(tmp_path / "incoming")


def test_blocks_are_synced_before_they_have_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for count in (3, blocks.SYNC_EACH_MAX + 5):
        store, seen = BlockStore(str(tmp_path / str(count))), []

        def watch(paths: list[str], anywhere: str, store: BlockStore = store, seen: list[tuple[int, int]] = seen) -> None:
            seen.append((len(paths), len(store.list("ann", b"", 99))))

        monkeypatch.setattr(blocks, "sync", watch)
        put(store, *(b"%d" % number for number in range(count)))
        assert seen[0] == (count, 0) and seen[1][1] == count
        monkeypatch.undo()
        blocks.sync([str(tmp_path)] * count, str(tmp_path))


def test_at_the_bound_the_longest_unused_go_and_never_what_is_pinned(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path), bytes_max=10_000, young_s=100, owner="ann")
    names = put(store, *(bytes([number]) * 1_000 for number in range(1, 10)))
    for age, name in enumerate(names):
        os.utime(file_of(tmp_path, name), (1_000 + age, 1_000 + age))
    pinned = {("ann", names[0])}
    with store.batch("ann", lambda: pinned) as batch:
        new = [batch.add(bytes([number]) * 1_000) for number in (20, 21, 22)]
        batch.commit()
    assert store.missing("ann", [names[0], *new]) == []
    gone = store.missing("ann", names)
    assert gone and gone == names[1 : 1 + len(gone)] and store.used_bytes <= 10_000


def test_what_is_young_is_kept_and_then_nothing_more_is_taken(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path), bytes_max=2_000, owner="ann")
    put(store, b"a" * 1_500)
    with pytest.raises(Unavailable, match="bound"):
        put(store, b"b" * 1_500)
    assert store.used_bytes == 1_500


@pytest.mark.parametrize("data", [b"", b"x" * (BLOCK_BYTES + 1)])
def test_a_block_has_a_size(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(CallerError):
        put(BlockStore(str(tmp_path)), data)


def test_drop_keeps_what_is_pinned(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    one, two = put(store, b"one", b"two")
    assert store.drop("ann", [one, two, name_of(b"none")], lambda: {("ann", one)}) == 1
    assert store.missing("ann", [one, two]) == [two] and store.used_bytes == 3


def test_a_disk_that_is_nearly_full_is_said_and_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(str(tmp_path))
    monkeypatch.setattr(blocks, "free_bytes", lambda _folder: DISK_FREE_BYTES_MIN - 1)
    with pytest.raises(NoRoom, match=f"4 bytes are needed, {DISK_FREE_BYTES_MIN - 1} are free"):
        put(store, b"data")
    assert store.used_bytes == 0 and not os.listdir(tmp_path / "incoming")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert os.system(f"mount -t tmpfs -o size=64k unios-test {tmp_path}") == 0
    monkeypatch.setattr(blocks, "free_bytes", lambda _folder: 1 << 40)  # another has taken it meanwhile
    try:
        store = BlockStore(str(tmp_path))
        with pytest.raises(Unavailable, match="No space left"):
            put(store, b"x" * 100_000)
        assert store.used_bytes == 0 and not os.listdir(tmp_path / "incoming")
    finally:
        os.system(f"umount {tmp_path}")


def test_what_is_there_already_is_counted_once_whatever_comes_and_goes_while_it_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = put(BlockStore(str(tmp_path)), b"a" * 10, b"b" * 20, b"c" * 40)
    store = BlockStore(str(tmp_path))
    store.drop("ann", old[:1], nothing)
    put(store, b"d" * 80)
    everything = store._all

    def meanwhile() -> object:
        seen = list(everything())
        store.drop("ann", old[1:2], nothing)
        put(store, b"e" * 160)
        return seen

    monkeypatch.setattr(store, "_all", meanwhile)
    store.count()
    assert store.used_bytes == 40 + 80 + 160 == store._used[blocks.folder_of("ann")]
    store.drop("ann", old[2:], nothing)
    assert store.used_bytes == 80 + 160


def test_of_two_that_bring_the_same_block_one_counts(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    with store.batch("ann", nothing) as one, store.batch("ann", nothing) as other:
        for batch in (one, other):
            batch.add(b"same")
        for batch in (one, other):
            batch.commit()
    assert store.used_bytes == 4 and not os.listdir(tmp_path / "incoming")


def test_two_that_bring_the_same_block_at_once_do_not_both_find_it_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks while another is about to name it waits for that."""
    store = BlockStore(str(tmp_path))
    rename = os.rename
    with store.batch("ann", nothing) as one, store.batch("ann", nothing) as other, ThreadPoolExecutor(1) as pool:
        one.add(b"same")
        other.add(b"same")
        later: list[Future[None]] = []

        def slowly(path: str, place: str) -> None:
            if not later:
                later.append(pool.submit(other.commit))
                assert not wait(later, timeout=0.2).done
            rename(path, place)

        monkeypatch.setattr(os, "rename", slowly)
        one.commit()
        later[0].result()
    assert store.used_bytes == 4


def test_what_has_its_name_stays_counted_when_the_disk_refuses_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(str(tmp_path))
    rename, done = os.rename, []

    def once(path: str, place: str) -> None:
        if done:
            raise OSError(5, "Input/output error")
        done.append(place)
        rename(path, place)

    put(store, b"there")
    with store.batch("ann", nothing) as batch, store.batch("ann", nothing) as other:
        other.add(b"twice")
        for data in (b"twice", b"x" * 10, b"y" * 100):
            batch.add(data)
        other.commit()
        monkeypatch.setattr(os, "rename", once)
        with pytest.raises(Unavailable):
            batch.commit()
    assert store.used_bytes == sum(size for _name, size in store.list("ann", b"", 9)) == 5 + 5 + 10


def fill(store: BlockStore, user: str, most: int = 100) -> int:
    """Put blocks of 1,000 bytes until no more are taken; return how many were."""
    for number in range(most):
        try:
            put(store, b"%s %d" % (user.encode(), number) + bytes(1_000 - len(b"%s %d" % (user.encode(), number))), user=user)
        except NoRoom as error:
            return number if user in str(error) and "share" in str(error) else -1
    return most


def test_no_user_keeps_another_from_having_blocks(tmp_path: Path) -> None:
    """However many take all they get, there is room for one more."""
    store = BlockStore(str(tmp_path), bytes_max=40_000)
    assert [fill(store, user) for user in ("ann", "bob", "eve")] == [30, 7, 2]
    assert store.used_bytes == 39_000


def test_the_nodes_own_user_is_bounded_by_the_node_alone(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path), bytes_max=40_000, owner="ann")
    for number in range(40):
        put(store, b"%02d" % number * 500)
    with pytest.raises(NoRoom, match="bound"):
        put(store, b"more")
    assert store.used_bytes == 40_000


def test_over_his_share_a_user_makes_room_among_his_own(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path), bytes_max=40_000, young_s=100)
    bobs = put(store, b"b" * 1_000, user="bob")
    assert fill(store, "ann", 29) == 29
    for user in ("ann", "bob"):
        for age, (name, _size) in enumerate(store.list(user, b"", 99)):
            os.utime(file_of(tmp_path, name, user), (1_000 + age, 1_000 + age))
    os.utime(file_of(tmp_path, bobs[0], "bob"), (1, 1))
    put(store, b"n" * 1_000)
    assert store.missing("bob", bobs) == [] and len(store.list("ann", b"", 99)) < 29
    pins = {("ann", name) for name, _size in store.list("ann", b"", 99)}
    with store.batch("ann", lambda: pins) as batch, pytest.raises(NoRoom, match="ann"):
        [batch.add(b"%02d" % number * 500) for number in range(20)]
    assert {("ann", name) for name, _size in store.list("ann", b"", 99)} == pins


def test_blocks_of_files_count_for_no_bound_and_never_make_room(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path), bytes_max=10_000, young_s=100, owner="ann")
    anns = put(store, *(b"a%d" % number * 500 for number in range(9)))
    files = put(store, *(b"f%d" % number * 500 for number in range(30)), user=FILES_USER)
    assert store.used_bytes == 9_000 and len(store.list(FILES_USER, b"", 99)) == 30
    for user, names in (("ann", anns), (FILES_USER, files)):
        for name in names:
            os.utime(file_of(tmp_path, name, user), (1_000, 1_000) if user == "ann" else (1, 1))
    put(store, *(b"n%d" % number * 500 for number in range(3)))
    assert store.used_bytes <= 10_000 and len(store.list(FILES_USER, b"", 99)) == 30, "among all the oldest, and there"
    again = BlockStore(str(tmp_path), bytes_max=10_000, young_s=100, owner="ann")
    again.count()
    assert again.used_bytes == store.used_bytes
    assert again.drop(FILES_USER, files[:10], nothing) == 10 and again.used_bytes == store.used_bytes


def test_a_node_that_is_full_of_other_blocks_takes_those_of_files_and_makes_no_room_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = BlockStore(str(tmp_path), bytes_max=2_000, owner="ann", young_s=100)
    names = put(store, b"a" * 1_000, b"b" * 1_000)
    for name in names:
        os.utime(file_of(tmp_path, name), (1, 1))
    store.used_bytes += 1  # as another that is just being taken in makes it
    assert put(store, b"f" * 3_000, user=FILES_USER)
    assert store.missing("ann", names) == []
    monkeypatch.setattr(blocks, "free_bytes", lambda _folder: DISK_FREE_BYTES_MIN + 2_999)
    with pytest.raises(NoRoom, match="3000 bytes are needed"):
        put(store, b"g" * 3_000, user=FILES_USER)


def test_what_is_no_name_of_a_block_leads_to_no_file(tmp_path: Path) -> None:
    store = BlockStore(str(tmp_path))
    for name in (b"", b"x" * 31, b"x" * 33):
        for work in (lambda name=name: store.get("ann", name), lambda name=name: store.missing("ann", [name]), lambda name=name: drop(store, name)):
            with pytest.raises(CallerError):
                work()


def drop(store: BlockStore, name: bytes) -> int:
    return store.drop("ann", [name], nothing)
