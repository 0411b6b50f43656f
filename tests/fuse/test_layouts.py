"""The layouts are those of Linux's own header, as a C compiler understands it."""

import shutil
import struct
import subprocess
from pathlib import Path
from typing import Final

import pytest

from unios.fuse import abi

HEADER: Final = Path("/usr/include/linux/fuse.h")
STRUCTS: Final = {
    "fuse_in_header": (abi.IN_HEADER, "len opcode unique nodeid uid gid pid total_extlen padding"),
    "fuse_out_header": (abi.OUT_HEADER, "len error unique"),
    "fuse_attr": (abi.ATTRIBUTES, "ino size blocks atime mtime ctime atimensec mtimensec ctimensec mode nlink uid gid rdev blksize flags"),
    "fuse_open_out": (abi.OPENED, "fh open_flags padding"),
    "fuse_write_out": (abi.WRITTEN, "size padding"),
    "fuse_kstatfs": (abi.STATFS, "blocks bfree bavail files ffree bsize namelen frsize padding"),
    "fuse_getxattr_out": (abi.XATTR_SIZE, "size padding"),
    "fuse_file_lock": (abi.LOCK, "start end type pid"),
    "fuse_lseek_out": (abi.SOUGHT, "offset"),
    "fuse_init_out": (
        abi.INIT_OUT,
        "major minor max_readahead flags max_background congestion_threshold max_write time_gran max_pages map_alignment flags2 unused",
    ),
    "fuse_notify_inval_inode_out": (abi.INVALIDATE_INODE, "ino off len"),
    "fuse_notify_inval_entry_out": (abi.INVALIDATE_ENTRY, "parent namelen flags"),
    "fuse_notify_delete_out": (abi.DELETED, "parent child namelen padding"),
    "fuse_notify_store_out": (abi.STORED, "nodeid offset size padding"),
    "fuse_getattr_in": (abi.GETATTR_IN, "getattr_flags dummy fh"),
    "fuse_setattr_in": (
        abi.SETATTR_IN,
        "valid padding fh size lock_owner atime mtime ctime atimensec mtimensec ctimensec mode unused4 uid gid unused5",
    ),
    "fuse_mknod_in": (abi.MKNOD_IN, "mode rdev umask padding"),
    "fuse_mkdir_in": (abi.MKDIR_IN, "mode umask"),
    "fuse_rename_in": (abi.RENAME_IN, "newdir"),
    "fuse_rename2_in": (abi.RENAME2_IN, "newdir flags padding"),
    "fuse_link_in": (abi.LINK_IN, "oldnodeid"),
    "fuse_open_in": (abi.OPEN_IN, "flags open_flags"),
    "fuse_create_in": (abi.CREATE_IN, "flags mode umask open_flags"),
    "fuse_read_in": (abi.READ_IN, "fh offset size read_flags lock_owner flags padding"),
    "fuse_write_in": (abi.WRITE_IN, "fh offset size write_flags lock_owner flags padding"),
    "fuse_release_in": (abi.RELEASE_IN, "fh flags release_flags lock_owner"),
    "fuse_flush_in": (abi.FLUSH_IN, "fh unused padding lock_owner"),
    "fuse_fsync_in": (abi.FSYNC_IN, "fh fsync_flags padding"),
    "fuse_setxattr_in": (abi.SETXATTR_IN, "size flags setxattr_flags padding"),
    "fuse_getxattr_in": (abi.GETXATTR_IN, "size padding"),
    "fuse_access_in": (abi.ACCESS_IN, "mask padding"),
    "fuse_interrupt_in": (abi.INTERRUPT_IN, "unique"),
    "fuse_forget_in": (abi.FORGET_IN, "nlookup"),
    "fuse_batch_forget_in": (abi.BATCH_FORGET_IN, "count dummy"),
    "fuse_forget_one": (abi.FORGET_ONE, "nodeid nlookup"),
    "fuse_fallocate_in": (abi.FALLOCATE_IN, "fh offset length mode padding"),
    "fuse_lseek_in": (abi.LSEEK_IN, "fh offset whence padding"),
    "fuse_copy_file_range_in": (abi.COPY_FILE_RANGE_IN, "fh_in off_in nodeid_out fh_out off_out len flags"),
    "fuse_ioctl_in": (abi.IOCTL_IN, "fh flags cmd arg in_size out_size"),
}
"""The layouts of which all fields are laid out as the header's, by its names."""
BEFORE_A_NAME: Final = {"fuse_dirent": (abi.DIRENT, "ino off namelen type")}
WITHIN: Final = {  # what has another layout in it: sizes only
    "fuse_entry_out": abi.ENTRY.size + abi.ATTRIBUTES.size,
    "fuse_attr_out": abi.ATTRIBUTES_KEPT.size + abi.ATTRIBUTES.size,
    "fuse_statfs_out": abi.STATFS.size,
    "fuse_lk_in": abi.LK_IN.size,
    "fuse_init_in": abi.INIT_IN.size + abi.INIT_IN_MORE.size,
    "fuse_direntplus": abi.ENTRY.size + abi.ATTRIBUTES.size + abi.DIRENT.size,
}


def offsets(layout: struct.Struct) -> list[int]:
    """Return where each field begins."""
    found, at = [], 0
    for letter in layout.format.removeprefix("<"):
        if not letter.isdigit() and letter != "x":
            found.append(at)
            at += struct.calcsize(f"<{letter}")
    return found


def compiled(folder: Path, lines: list[str]) -> list[str]:
    """Return what a program says that prints these numbers."""
    source = folder / "layouts.c"
    prints = "\n".join(f'printf("%lld\\n", (long long)({line}));' for line in lines)
    source.write_text(f"#include <linux/fuse.h>\n#include <stddef.h>\n#include <stdio.h>\nint main(void) {{\n{prints}\nreturn 0;\n}}\n")
    compiler = shutil.which("cc") or shutil.which("gcc")
    assert compiler is not None
    subprocess.run([compiler, "-o", folder / "layouts", source], check=True, capture_output=True)
    return subprocess.run([folder / "layouts"], check=True, capture_output=True, text=True).stdout.split()


@pytest.mark.skipif(not HEADER.exists() or not (shutil.which("cc") or shutil.which("gcc")), reason="no C compiler, or no linux/fuse.h, here")
def test_every_layout_and_number_is_that_of_the_header(tmp_path: Path) -> None:
    lines, ours = [], []
    for name, (layout, fields) in {**STRUCTS, **BEFORE_A_NAME}.items():
        for field, offset in zip(fields.split(), offsets(layout), strict=True):
            lines.append(f"offsetof(struct {name}, {field})")
            ours.append(offset)
        if name not in BEFORE_A_NAME:
            lines.append(f"sizeof(struct {name})")
            ours.append(layout.size)
    for name, size in WITHIN.items():
        lines.append(f"sizeof(struct {name})")
        ours.append(size)
    for op in abi.Op:
        if op is not abi.Op.STATX:  # newer than the headers of Debian 12
            lines.append(f"FUSE_{op.name}")
            ours.append(op)
    for feature in abi.Feature:
        if feature < abi.Feature.DIRECT_IO_ALLOW_MMAP:
            lines.append(f"FUSE_{feature.name}")
            ours.append(feature)
    for valid in abi.Valid:
        lines.append(f"FATTR_{valid.name}")
        ours.append(valid)
    for opened in abi.Opened:
        lines.append(f"FOPEN_{opened.name}")
        ours.append(opened)
    names = {"INVALIDATE_INODE": "INVAL_INODE", "INVALIDATE_ENTRY": "INVAL_ENTRY", "STORE": "STORE", "DELETE": "DELETE"}
    for notice, theirs in names.items():
        lines.append(f"FUSE_NOTIFY_{theirs}")
        ours.append(abi.Notice[notice])
    for line, value in {
        "FUSE_WRITE_CACHE": abi.WRITE_CACHE,
        "FUSE_WRITE_KILL_SUIDGID": abi.WRITE_KILL_SUIDGID,
        "FUSE_GETATTR_FH": abi.GETATTR_FH,
        "FUSE_RELEASE_FLOCK_UNLOCK": abi.RELEASE_FLOCK_UNLOCK,
        "FUSE_LK_FLOCK": abi.LK_FLOCK,
        "FUSE_FSYNC_FDATASYNC": abi.FSYNC_FDATASYNC,
        "FUSE_EXPIRE_ONLY": abi.EXPIRE_ONLY,
        "FUSE_ROOT_ID": abi.ROOT,
    }.items():
        lines.append(line)
        ours.append(value)
    theirs = compiled(tmp_path, lines)
    assert [(line, int(found)) for line, found in zip(lines, theirs, strict=True)] == list(zip(lines, map(int, ours), strict=True))
