"""Placement policies that are none, as a package that pip could have installed: for the tests that have them asked."""

from pathlib import Path

MODULE = """
import os, sys, time

def last(nodes):
    print("a policy may print what it likes")
    return sorted((node.name for node in nodes), reverse=True)

def hangs(nodes):
    time.sleep(3600)

def raises(nodes):
    raise ValueError("oh")

def nonsense(nodes):
    return ["n9"]

def number(nodes):
    return 7

def nothing(nodes):
    pass

def dies(nodes):
    os._exit(3)

def kills(nodes):
    os.kill(os.getppid(), 9)
    time.sleep(3600)

def floods(nodes):
    os.write(int(os.environ.get("NOWHERE", "1")), b"x" * 100)
    return [name for name in ("n1",) * 100000]
"""
NAMES = ("last", "hangs", "raises", "nonsense", "number", "nothing", "dies", "kills", "floods")


def install(folder: Path) -> None:
    """Lay the package down in a folder, which has to be on the path of whoever looks for policies."""
    (folder / "bad_policies.py").write_text(MODULE)
    info = folder / "bad_policies-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad-policies\nVersion: 1\n")
    points = "\n".join(f"{name} = bad_policies:{name}" for name in NAMES)
    (info / "entry_points.txt").write_text(f"[unios.placement]\n{points}\nabsent = bad_policies:absent\n")
