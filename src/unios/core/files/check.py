"""Check: whether a tree fits together. Decides only: what is wrong is told, one sentence each; nothing is mended."""

import stat
from collections import Counter
from collections.abc import Iterator

from unios.core.files.inode import BLOCK_BYTES, NAME_BYTES_MAX, ROOT
from unios.core.files.state import State


def faults(state: State) -> Iterator[str]:
    """Yield what cannot be so in a tree whose changes were all planned by tree.py and data.py. Orphans are no fault: somebody may have them open."""
    if ROOT not in state.inodes:
        if state.inodes or state._entries:
            yield "there is no root"
        return
    if not state.inodes[ROOT].is_directory or state.inodes[ROOT].parent != ROOT:
        yield "the root is no directory, or in another one"
    names, directories = Counter[int](), Counter[int]()
    for directory, entries in state._entries.items():
        here = state.inodes.get(directory)
        if here is None or not here.is_directory:
            yield f"names are in {directory}, which is no directory"
            continue
        for name, ino in entries.items():
            found = state.inodes.get(ino)
            if found is None:
                yield f"{name!r} in {directory} is of {ino}, which is not there"
                continue
            if not 0 < len(name) <= NAME_BYTES_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
                yield f"{name[:80]!r} in {directory} is no name"
            if here.nlink == 0:
                yield f"{name!r} is in {directory}, which has been removed"
            if ino == ROOT:
                yield f"{name!r} in {directory} is of the root"
            names[ino] += 1
            if found.is_directory:
                directories[directory] += 1
                if found.parent != directory:
                    yield f"the directory {ino} is in {directory}, and says that it is in {found.parent}"
    yield from _inodes(state, names, directories)
    yield from _reached(state)
    for held in (state._extents, state._xattrs):
        for ino in held.keys() - state.inodes.keys():
            yield f"something is kept of {ino}, which is not there"


def _inodes(state: State, names: Counter[int], directories: Counter[int]) -> Iterator[str]:
    for ino, inode in state.inodes.items():
        if inode.ino != ino:
            yield f"the inode {ino} says that it is {inode.ino}"
        if inode.size < 0 or (inode.is_link and inode.size != len(inode.target)) or not stat.S_IFMT(inode.mode):
            yield f"the inode {ino} of mode {inode.mode:o} has {inode.size} bytes"
        if ino >= state.next_ino:
            yield f"the inode {ino} has a number that has not been given away"
        if inode.is_directory:
            expected = 2 + directories[ino] if names[ino] or ino == ROOT else 0
            if inode.nlink != expected:
                yield f"the directory {ino} counts {inode.nlink} links, and has {expected}"
            if names[ino] > 1:
                yield f"the directory {ino} has {names[ino]} names"
        elif inode.nlink != names[ino]:
            yield f"the inode {ino} counts {inode.nlink} links, and has {names[ino]} names"
        yield from _extents(state, ino)


def _extents(state: State, ino: int) -> Iterator[str]:
    inode = state.inodes[ino]
    for index, extent in state.extents(ino).items():
        if not inode.is_regular:
            yield f"the inode {ino} has blocks, and is no file"
        if index < 0 or not extent.block:
            yield f"the file {ino} has a block {index} that is none"
        if not 0 < extent.length <= BLOCK_BYTES or index * BLOCK_BYTES + extent.length > inode.size:
            yield f"block {index} of the file {ino} has {extent.length} bytes, and the file {inode.size}"


def _reached(state: State) -> Iterator[str]:
    """Directories that are in each other are in no other."""
    reached, left = {ROOT}, [ROOT]
    while left:
        for ino in state.entries(left.pop()).values():
            if ino not in reached and (inode := state.inodes.get(ino)) is not None and inode.is_directory:
                reached.add(ino)
                left.append(ino)
    for ino, inode in state.inodes.items():
        if inode.is_directory and inode.nlink and ino not in reached:
            yield f"the directory {ino} cannot be reached from the root"
