"""A key and its certificate take the place of others together, whenever it is broken off."""

from pathlib import Path

import pytest

from unios.kernel import keys


def pair(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "node.key").read_bytes(), (folder / "node.crt").read_bytes()


@pytest.mark.parametrize("writes", range(4))
def test_an_exchange_that_is_broken_off_is_done_to_its_end_at_the_next_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int) -> None:
    (tmp_path / "node.key").write_bytes(b"old key")
    (tmp_path / "node.crt").write_bytes(b"old crt")
    whole, done = keys.write_secret, 0

    def write(path: Path, data: bytes) -> None:
        nonlocal done
        if done == writes:
            raise OSError("killed")
        done += 1
        whole(path, data)

    monkeypatch.setattr(keys, "write_secret", write)
    try:
        keys.keep_next(tmp_path, b"new key", b"new crt")
        keys.install(tmp_path)
    except OSError:
        pass
    monkeypatch.undo()
    keys.install(tmp_path)
    assert pair(tmp_path) == ((b"old key", b"old crt") if writes == 0 else (b"new key", b"new crt"))
    assert not keys.install(tmp_path)
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.iterdir() if writes > 2)
