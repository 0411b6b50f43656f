"""Bounds and periods of replicated logs. Units last in the name."""

LOG_NAME_BYTES_MAX = 120
"""Of a log's name, which becomes part of a file's name in each replica."""
LOG_COPIES = 2
"""Replicas of a log, unless its owner wants another number."""
LOG_COPIES_MAX = 5
LOG_ENTRY_BYTES_MAX = 1024 * 1024
LOG_BATCH_BYTES = 1024 * 1024
"""Sent to a replica in one request; one larger entry travels alone."""
LOG_BATCH_ENTRIES_MAX = 8_192
LOG_AHEAD_BYTES = 16 * 1024 * 1024
"""Of entries that a writer has taken and not acknowledged; over it, who appends waits."""
LOG_AHEAD_ENTRIES_MAX = 65_536
LOG_COMMIT_BYTES = 4 * 1024 * 1024
"""Of appends that a replica brings to its disk together; the rest waits for the next time."""
LOG_WAITING_MAX = 1_024
"""Requests that wait for a log's disk in one replica; more are refused as Unavailable."""
LOG_FILE_BYTES = 16 * 1024 * 1024
"""A file of a replica that has reached so much is followed by another one: what is trimmed goes by whole files."""
LOG_ZEROS_BYTES = 64 * 1024
"""Ahead of small writes a replica's file is lengthened by so much at a time."""
LOG_SPANS_MAX = 1_000
"""In a log's record; over it nothing is appended until the log is trimmed. Each loss of a writer or a replica makes one."""
LOG_REPLICA_MS = 2_000
"""A replica that does not answer its writer for so long is replaced."""
LOG_SEAL_MS = 1_000
"""So long who takes over waits for more than one replica to answer."""
LOG_TICK_MS = 20
"""After so long at most replicas are told what has been acknowledged, if no batch does so before."""
LOG_CALM_TICKS = 500
"""So many ticks after a span was begun a replica that had failed before is as good as any other."""
LOG_QUIET_TICKS = 50
"""After so many ticks without anything to tell a writer sleeps until it has something."""
LOG_RETRY_MS = 50
LOG_NODES_S = 1.0
"""How often a writer asks its kernel which nodes are there."""
LOG_READ_BYTES = 1024 * 1024
"""Answered to one read, and a frame more at most."""
LOGS_PER_USER_MAX = 1_000
"""Of which one node keeps replicas for one user who is not privileged."""
ARCHIVE_KEPT_BYTES = 128 * 1024 * 1024
"""Of the log in which a node's outputs survive it; the oldest go first."""
ARCHIVE_STREAM_BYTES = 4 * 1024 * 1024
"""Of each of a process's two output streams that much, the last, survives its node; less where there are many."""
ARCHIVE_PIECE_BYTES = 256 * 1024
ARCHIVE_TICK_MS = 500
"""So long after it was said at the latest output is on its way to another node."""
ARCHIVE_TURN_BYTES = 8 * 1024 * 1024
"""Sent away in one turn at most: over it a flood is not followed, only its last bytes."""
ARCHIVE_BYTES_S = 4 * 1024 * 1024
"""Of one node, on average: after more than a tick's worth the next turn comes later, so that a flood costs a node little. It is 2 s behind then at most."""
ARCHIVE_WAIT_MS = 5_000
"""So long a reader waits for the service that reads what is kept of a node that is away."""
