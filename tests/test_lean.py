"""What a short command does without."""

import subprocess
import sys

HEAVY = ("pathlib", "typing_extensions", "platform", "threading", "click", "asyncio", "unios.client.feed")


def said(code: str) -> str:
    return subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.strip()


def test_a_short_command_imports_nothing_heavy() -> None:
    words = "import unios.shell.main as m; m.import_msgspec(); import sys; from unios.shell import words; words.find('WORD')"
    for word in ("ps", "run"):
        code = f"{words.replace('WORD', word)}; import unios.shell.session; print([one for one in {HEAVY!r} if one in sys.modules])"
        assert said(code) == "[]", word


def test_what_msgspec_was_kept_from_is_the_real_one_afterwards() -> None:
    code = (
        "from unios.lean import import_msgspec as go; go(); go(); import platform, uuid, msgspec; "
        "print(platform.python_version(), msgspec.json.encode(uuid.UUID(int=1)))"
    )
    version = ".".join(map(str, sys.version_info[:3]))
    assert said(code) == version + " b'\"00000000-0000-0000-0000-000000000001\"'"
