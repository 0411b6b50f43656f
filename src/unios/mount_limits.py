"""Bounds of the mounts that a kernel keeps. As in limits.py, each with its unit, and what happens at the bound."""

MOUNTS_MAX = 64
"""Of one node; over it nothing more is mounted."""
MOUNT_GIVE_S = 3.0
"""So long a kernel that begins anew waits for whoever has the descriptor of a mount of before; then that is mounted anew."""
MOUNTS_WAIT_MS_MAX = 30_000
"""So long at most a request for the list waits for a change."""
MOUNT_AGREED_BYTES_MAX = 4_096
"""Of what is kept beside a mount for its service; more is refused."""
MOUNT_FOLDER_BYTES_MAX = 4_095
"""PATH_MAX, without the zero."""
UNMOUNT_S = 4.0
"""So long the end of a node waits for its mounts to be away."""
