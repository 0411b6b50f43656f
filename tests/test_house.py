"""The house: who may import whom, what each file says of itself, and what must not be in the repository."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "unios"
EVERYONE = {"errors", "ids", "limits", "object_limits", ""}
MAY = {
    "core": {"core"},
    "wire": {"wire", "core"},
    "store": {"store", "wire", "core"},
    "kernel": {"kernel", "store", "core", "wire", "fuse"},
    "fuse": {"fuse"},
    "client": {"client", "wire", "core"},
    "services": {"services", "client", "store", "core", "wire", "fuse"},
    "shell": {"shell", "client", "wire"},
}
TYPES = {
    "keeping",
    "operations",
    "home",
    "peer",
    "ticks",
    "terminals",
    "queueing",
    "synchronising",
    "archives",
    "segments",
    "mounts",
    "filing",
    "carries",
}
"""Of wire, what services and shell may import: they open, frame and send nothing themselves. `segments` is how files are called and read."""
IMPURE = {"asyncio", "os", "socket", "time", "random", "threading", "subprocess", "select", "signal", "pathlib", "datetime", "secrets", "uuid"}
FILES = sorted(SOURCE.rglob("*.py"))
EVERY_FILE = sorted(path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py"))
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 70
NO_NOUNS = {"utils", "helpers", "manager", "common", "misc", "util", "helper", "managers"}


def imports(path: Path) -> set[str]:
    """Return the full names of the modules that a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{name.name}" for name in node.names)
    return found


def layer(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "unios" else ""


def check(path: Path, modules: set[str]) -> list[str]:
    """Return what is wrong with a file's imports."""
    mine = path.relative_to(SOURCE).parts[0]
    if mine not in MAY:
        return []
    wrong = []
    for module in modules:
        if module.split(".")[0] == "unios":
            other = layer(module)
            if (SOURCE / other).is_dir() and other not in MAY[mine]:
                wrong.append(f"{mine} imports {module}")
            if mine in ("services", "shell") and module.startswith("unios.wire.") and module.split(".")[2] not in TYPES:
                wrong.append(f"{mine} imports {module}: of wire it takes the data types of operations only (decision 0009)")
            if mine == "services" and module.startswith("unios.services.") and path.name in ("placement.py", "recovery.py", "locks.py", "archive.py"):
                name = module.split(".")[2]
                if name in ("placement", "recovery", "locks", "archive", "files"):
                    wrong.append(f"a service imports another: {module}")
        elif mine == "core" and module.split(".")[0] in IMPURE:
            wrong.append(f"core imports {module}: it decides and does nothing else")
    return wrong


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_one_way(path: Path) -> None:
    assert check(path, imports(path)) == []


def test_the_check_of_imports_bites() -> None:
    assert check(SOURCE / "core" / "claims.py", {"unios.kernel.node.Node"})
    assert check(SOURCE / "core" / "claims.py", {"time.monotonic"})
    assert check(SOURCE / "client" / "boot.py", {"unios.kernel.node"})
    assert check(SOURCE / "services" / "recovery.py", {"unios.services.placement.Placement"})


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_say_what_they_are(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


def too_much(name: str, text: str) -> list[str]:
    """Return what is too long in a file, and whether its name says nothing."""
    wrong = []
    if len(text.splitlines()) > FILE_LINES_MAX:
        wrong.append(f"{name} has {len(text.splitlines())} lines: it holds a second noun")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                wrong.append(f"{name}: {node.name} has {lines} lines")
    if any(part.removesuffix(".py").strip("_") in NO_NOUNS for part in Path(name).parts):
        wrong.append(f"{name} is not called after what is in it")
    return wrong


def test_files_and_functions_are_small_and_named_after_a_noun() -> None:
    assert [wrong for path in EVERY_FILE for wrong in too_much(str(path.relative_to(ROOT)), path.read_text())] == []


def test_the_check_of_sizes_bites() -> None:
    function = "def f():\n" + "    pass\n" * (FUNCTION_LINES_MAX - 1)
    assert too_much("tests/noun.py", "x = 1\n" * FILE_LINES_MAX) == [] == too_much("tests/noun.py", function)
    assert too_much("tests/noun.py", "x = 1\n" * (FILE_LINES_MAX + 1))
    assert too_much("tests/noun.py", function + "    pass\n") and too_much(
        "tests/noun.py", "class A:\n    async " + function.replace("\n", "\n    ") + "    pass"
    )
    assert too_much("src/unios/utils.py", "") and too_much("src/unios/common/noun.py", "")


def test_files_that_others_look_at_are_never_seen_in_part() -> None:
    """What a process of the kernel writes another reads at any moment: `runfiles.place` or what keeps it safe from a power cut."""
    assert [str(path) for path in (SOURCE / "kernel").glob("*.py") if re.search(r"\.write_(text|bytes)\(", path.read_text())] == []


def test_what_decoding_raises_has_one_name() -> None:
    spelled = re.compile(r"msgspec\.MsgspecError, (UnicodeDecodeError|RecursionError)\b")
    assert [path.name for path in FILES if spelled.search(path.read_text())] == ["undecodable.py"]


def test_guard_and_inits_stay_light() -> None:
    """Each spawn forks a guard's child: what they import is paid for every time."""
    code = "import sys, unios.kernel.guard; print([m for m in ('asyncio', 'msgspec', 'cryptography', 'click', 'ssl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def tracked() -> list[Path]:
    done = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    return [ROOT / name for name in done.stdout.decode().split("\0") if name]


def test_nothing_of_this_machine_is_in_the_repository() -> None:
    folders = {str(ROOT), sys.base_prefix, os.path.expanduser("~/")} - {"/", "/usr"}
    registries = [".".join(parts) for parts in (("pypi", "org"), ("files", "pythonhosted"), ("registry", "npmjs"))]
    bad = re.compile("|".join(map(re.escape, (*folders, *registries))).encode())
    for path in tracked():
        if path.is_file():
            assert not bad.search(path.read_bytes()), path


def test_limits_are_ordered_as_the_promises_need() -> None:
    from unios import limits

    assert limits.LEASE_RENEW_MS * 3 <= limits.LEASE_HOLD_MS < limits.LEASE_TTL_MS < 1_500
    assert limits.BEAT_MS * 3 <= limits.HUNG_MS < 1_000
    assert limits.PID_MAX < 32_768


def test_the_shell_knows_the_shapes_that_the_kernel_takes() -> None:
    """The shell may not import the kernel, and says of bad usage before anything is started that it is bad usage."""
    from unios.core.addresses import split_address
    from unios.errors import CallerError
    from unios.kernel.tokens import TokenText, check_name, decode, encode
    from unios.shell import boot
    from unios.shell.words import Given

    def takes(check: Callable[[str], object], text: str) -> bool:
        try:
            check(text)
        except CallerError:
            return False
        return True

    for name in ("n1", "a", "A.b_c-9", "x" * 32, "x" * 33, "", "a/b", "-a", "a-", "..", "a b", "ä", "n1\n"):
        assert takes(check_name, name) == takes(lambda text: boot.check_new_node(Given({"name": text})), name), name
    hosts = ("h", "1.2.3.4", "a-b.c_d", "[::1]", "[fe80::1%eth0]", "::1", "fe80::1", "[::1", "a b", "", ":", ":1", "a/b", "x" * 254)
    for address in [host + port for host in hosts for port in ("", ":", ":0", ":65535", ":65536", ":99999", ":x", ":-1", ":123456", "\n")]:
        assert takes(split_address, address) == takes(lambda text: boot.check_new_node(Given({"listen": text})), address), address
    whole = encode(TokenText(("127.0.0.1:7",), "f" * 64, "s" * 40))
    for token in (whole, whole[:-9], whole[9:], whole.replace(".", ""), "", "abc", "unios1.", "unios1.abc", "unios1.ä", "unios1.gA"):
        assert takes(decode, token) == takes(boot.check_token, token), token
