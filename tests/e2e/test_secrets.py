"""Secrets are in no arguments, environments, logs or answers, and in no file that others may read: a whole life of a system is looked through for its own."""

import base64
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.homes import home_of
from tests.e2e.secrets import Watch, forms_of, forms_of_key, forms_of_token, in_files, in_text, secrets_of
from tests.e2e.system import System
from unios.kernel import certificates, tokens


@pytest.mark.timeout(240)
@pytest.mark.parametrize("engine", ["sqlite", "etcd"])
def test_no_secret_of_a_system_is_where_it_does_not_belong(engine: str) -> None:
    if engine == "etcd" and not (shutil.which("etcd") or shutil.which("etcd", path="/usr/sbin:/usr/local/bin")):
        pytest.skip("needs etcd")
    said: dict[str, bytes] = {}

    def tell(system: System, *words: str, **options: object) -> None:
        done = system.unios(*words, check=False, **options)  # type: ignore[arg-type]
        said[" ".join(words[:2])] = done.stdout + done.stderr

    with System() as first, System() as second, Watch() as watch:
        first.unios("up", "--nodes", "3", *(("--store", "etcd") if engine == "etcd" else ()), timeout=120)
        made = [str(first.json("join", *words)["token"]) for words in (("--root",), (), ("--ttl", "60"))]
        joined = subprocess.run(
            [*second.prefix, sys.executable, "-m", "unios", "join", "-"], input=made[0].encode(), env=second.env, capture_output=True
        )
        assert joined.returncode == 0, joined.stderr
        said["join -"] = joined.stdout + joined.stderr
        pid = first.run_detached("sh", "-c", "echo hello; env; exec sleep 600")
        backup = first.home / "backup"
        for words in (
            ("run", "--", "env"),
            ("logs", str(pid)),
            ("ps", "-a", "--json"),
            ("nodes", "--json"),
            ("status",),
            ("doctor",),
            ("store", "status", "--json"),
            ("store", "backup", str(backup)),
            ("events",),
            ("events", "--audit"),
            ("upgrade", "--check"),
            ("links", "--json"),
        ):
            tell(first, *words)
        tell(second, "run", "--", "env")
        tell(second, "doctor")
        tell(first, "kill", str(pid))
        homes = [home_of(one).path for one in (first, second)]
        secrets = {name: forms for home in homes for name, forms in secrets_of(home).items()}
        assert {"ca/ca.key", "nodes/n1/node.key"} <= set(secrets) and len(secrets) >= 5
        if engine == "etcd":
            assert any(name.endswith("cluster.json") for name in secrets)
        secrets |= {f"token {number}": list(forms_of_token(token)) for number, token in enumerate(made)}
        assert backup.stat().st_mode & 0o077 == 0
        assert [wrong for home in homes for wrong in in_files(secrets, home)] == []
        assert in_text(secrets, backup.read_bytes()) == []
        tell(first, "leave", "--expel", next(name for name in first.nodes() if name not in ("n1", "n2", "n3")))
        tell(first, "events", "--audit", "--json")
        assert {words: found for words, text in said.items() if (found := in_text(secrets, text))} == {}
        first.unios("down", "--all", check=False)
        assert [wrong for home in homes for wrong in in_files(secrets, home)] == []
    assert any(b"unios" in text for text in watch.seen)
    assert watch.wrong(secrets) == []


KEY = certificates.make_key()[0]
TOKEN = tokens.encode(tokens.TokenText(("127.0.0.1:1",), "f" * 64, "5a" * 20))
PLANTS: dict[str, Callable[[], bytes]] = {
    "a line of a key": lambda: KEY.splitlines()[2],
    "a key in JSON": lambda: KEY.replace(b"\n", b"\\n"),
    "a key's DER in hex": lambda: _der().hex().encode(),
    "a key's DER in a longer base64": lambda: base64.b64encode(b"x" + _der() + b"yz"),
    "a token": lambda: TOKEN.encode(),
    "a token's secret": lambda: b"5a" * 20,
    "a token's secret, as bytes": lambda: b"\x5a" * 20,
    "a token's secret in base64": lambda: base64.b64encode(b"ab" + b"5a" * 20 + b"c"),
}


def _der() -> bytes:
    return base64.b64decode(b"".join(line for line in KEY.splitlines() if not line.startswith(b"-")))


MADE = {"key": list(forms_of_key(KEY)), "token": list(forms_of_token(TOKEN))}


@pytest.mark.parametrize("plant", PLANTS)
def test_one_that_is_planted_is_found(tmp_path: Path, plant: str) -> None:
    text = b"before " + PLANTS[plant]() + b" after"
    (tmp_path / "log").mkdir()
    log = tmp_path / "log" / "kernel.log"
    log.write_bytes(b"before after")
    assert in_files(MADE, tmp_path) == []
    log.write_bytes(text)
    log.chmod(0o600)
    assert len(in_files(MADE, tmp_path)) == 1
    assert len(in_text(MADE, text)) == 1


def test_a_key_in_its_own_file_is_found_if_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    assert in_files(MADE, tmp_path) == []
    for mode in (0o640, 0o604):
        path.chmod(mode)
        assert len(in_files(MADE, tmp_path)) == 1


@pytest.mark.parametrize("where", ["arguments", "environment"])
def test_one_in_arguments_or_an_environment_is_found(where: str) -> None:
    secret = next(iter(forms_of(b"not of any system at all")))
    text = secret.hex()
    words = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()", *([text] if where == "arguments" else [])]
    with subprocess.Popen(words, env={"A": text if where == "environment" else ""}, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        running.stdout.readline()
        watch = Watch()
        watch.look()
        running.stdin.close()
    assert watch.wrong({"it": list(forms_of(secret))}) == ["it"]
    assert watch.wrong({"it": list(forms_of(b"something else entirely"))}) == []
