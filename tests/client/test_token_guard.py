"""The guard of tokens whose file is damaged, replaced, removed or cannot be written: it forgets nothing in silence."""

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from unios.client.synchronisation import token_guard
from unios.client.synchronisation.token_guard import TokenGuard
from unios.errors import DataLost, LeaseLost

WHOLE = b"00000000000000000005 00000000000000000009\n"
DAMAGED = [
    b"",
    b"\n",
    WHOLE[:-1],
    WHOLE[:20],
    WHOLE[:30],
    WHOLE + b"x",
    b"5 9\n",
    b"\xff" * 42,
    bytes(42),
    b"-0000000000000000005 00000000000000000009\n",
    WHOLE * 3,
]


@pytest.mark.parametrize("data", DAMAGED)
def test_a_damaged_file_is_not_taken_for_one_that_has_seen_nothing(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "greatest"
    path.write_bytes(data)
    guard = TokenGuard(path)
    for use in (lambda: guard.admit((9, 9)), lambda: guard.greatest):
        with pytest.raises(DataLost, match="Whoever keeps this resource must") as told:
            use()
        assert str(path) in str(told.value)
    assert path.read_bytes() == data


def test_what_the_sentence_advises_makes_the_guard_whole(tmp_path: Path) -> None:
    path = tmp_path / "greatest"
    path.write_bytes(b"")
    with pytest.raises(DataLost) as told:
        TokenGuard(path).admit((5, 9))
    command = str(told.value).split("(")[1].split(")")[0].replace("EPOCH", "5").replace("NUMBER", "9")
    subprocess.run(["sh", "-c", command], check=True)
    guard = TokenGuard(path)
    assert guard.greatest == (5, 9) and guard.admit((5, 9)) == (5, 9)
    with pytest.raises(LeaseLost):
        guard.admit((5, 8))


def test_a_file_that_goes_back_behind_what_this_guard_let_pass_was_replaced(tmp_path: Path) -> None:
    path = tmp_path / "greatest"
    guard = TokenGuard(path)
    guard.admit((5, 10))
    for spoil in (lambda: path.write_bytes(WHOLE), path.unlink):
        spoil()
        for use in (lambda: guard.admit((6, 1)), lambda: guard.greatest):
            with pytest.raises(DataLost, match="replaced or removed"):
                use()


def test_it_is_whole_from_the_first_moment_and_many_may_make_it_at_once(tmp_path: Path) -> None:
    path = tmp_path / "greatest"
    guards = [TokenGuard(path) for _ in range(8)]
    refused: list[int] = []

    def admit(number: int) -> None:
        try:
            guards[number].admit((1, number + 1))
        except LeaseLost:
            refused.append(number)

    threads = [threading.Thread(target=admit, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert TokenGuard(path).greatest == (1, 8) and 7 not in refused and os.listdir(tmp_path) == ["greatest"]


def test_a_file_that_another_process_makes_at_the_same_time_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "greatest"

    def other(_size: int) -> str:
        path.write_bytes(WHOLE)
        return "made"

    monkeypatch.setattr(token_guard.secrets, "token_hex", other)
    with pytest.raises(LeaseLost):
        TokenGuard(path).admit((1, 1))
    assert path.read_bytes() == WHOLE


def test_what_is_no_token_does_not_spoil_the_file(tmp_path: Path) -> None:
    path = tmp_path / "greatest"
    for guard in (TokenGuard(path), TokenGuard()):
        guard.admit((1, 1))
        for wrong in ((10**30, 1), (2, 2**63), (2.5, 1), (True, 1), ("3", "4")):
            with pytest.raises(ValueError, match="is no token"):
                guard.admit(wrong)  # type: ignore[arg-type]
        with pytest.raises(LeaseLost):
            guard.admit((-1, 5))
        assert guard.greatest == (1, 1)


def test_where_the_token_cannot_be_kept_it_does_not_pass(tmp_path: Path) -> None:
    code = """
import resource, signal, sys
from unios.client.synchronisation.token_guard import TokenGuard
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
try:
    TokenGuard(sys.argv[1]).admit((1, 1))
except OSError as error:
    print("refused", error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "greatest")], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("refused") and os.listdir(tmp_path) == []


def test_a_token_is_looked_at_and_written_under_one_lock_of_the_file_and_is_on_the_disk_before_it_passes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guard = TokenGuard(tmp_path / "greatest")
    guard.admit((1, 1))
    done: list[str] = []

    def noting(module: object, name: str) -> None:
        real = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *words: (done.append(f"{name} {words[1]}" if name == "flock" else name), real(*words))[1])

    for module, name in ((fcntl, "flock"), (os, "pread"), (os, "pwrite"), (os, "fdatasync"), (os, "close")):
        noting(module, name)
    guard.admit((1, 2))
    assert done == [f"flock {fcntl.LOCK_EX}", "pread", "pwrite", "fdatasync", "close"]
