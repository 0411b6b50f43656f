"""The house: who may import whom, what each file says of itself, and what must not be in the repository."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "unios"
EVERYONE = {"errors", "ids", "limits", ""}
MAY = {
    "core": {"core"},
    "wire": {"wire"},
    "store": {"store", "wire", "core"},
    "kernel": {"kernel", "store", "core", "wire"},
    "client": {"client", "wire"},
    "services": {"services", "client", "store", "core", "wire"},
    "shell": {"shell", "client", "wire"},
}
IMPURE = {"asyncio", "os", "socket", "time", "random", "threading", "subprocess", "select", "signal", "pathlib", "datetime", "secrets", "uuid"}
FILES = sorted(SOURCE.rglob("*.py"))


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
            if mine == "services" and module.startswith("unios.services.") and path.name in ("placement.py", "recovery.py"):
                name = module.split(".")[2]
                if name in ("placement", "recovery"):
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
def test_files_are_small_and_say_what_they_are(path: Path) -> None:
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert text.count("\n") <= 520, f"{path} is too long for one noun"


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
