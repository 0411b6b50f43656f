"""Every bound and every period of objects of programs. Units last in the name."""

OBJECTS_MAX = 200_000
"""Kept by one holder; over it nothing more is taken."""
OBJECTS_FILES_KEPT = 256
"""Descriptors that a holder leaves for connections; each large object takes two of the others."""
OBJECTS_MEMORY_SHARE = 3
"""One part in so many of a machine's memory is for one user's objects, unless UNIOS_OBJECTS_MEMORY says how many bytes."""
OBJECTS_DISK_BYTES_MAX = 64 * 1024**3
"""Of objects that are spilled, unless UNIOS_OBJECTS_DISK says otherwise; DISK_FREE_BYTES_MIN stays free."""
OBJECT_SPILL_BYTES_MIN = 4_096
"""Smaller objects stay in memory."""
OBJECT_LOAN_MS = 30_000
"""So long an object is kept for a reference that has been sent, until somebody has received it."""
OBJECT_LOAN_STEP_MS = 250
"""Loans end at multiples of that, so that many of them are ended at a time."""
OBJECT_LOANS_MAX = 10_000
"""Of one object; those over it are one."""
OBJECT_RECEIVED_MS = 2_000
"""And so long after the first has: the same pickle may be read by several."""
OBJECT_AWAY_MS = 3_000
"""So long a process whose connection to its holder broke may take to come back: its kernel may have been restarted."""
OBJECT_AWAY_FAR_MS = 30_000
"""The same for another node's holder: the link may have broken."""
OBJECT_GONE_MS = 3_000
"""A holder of whom nothing is seen for so long is gone with what it kept, if the process table says so too."""
OBJECT_SILENT_MS = 10_000
"""One that should be there is waited for so long; then whoever asked is told that it does not answer."""
OBJECTS_IDLE_MS = 2_000
"""A holder that has had neither objects nor processes for so long ends."""
OBJECTS_CALL_S = 60
"""An answer of a holder that is there comes by then."""
OBJECTS_START_S = 15
"""So long a program waits for its node's holder to start."""
OBJECTS_FETCHES_MAX = 8
"""Connections over which one process waits for objects at a time; further threads wait for one."""
RECIPE_BYTES_MAX = 64 * 1024
"""Of what makes a lost object again; it travels with each reference."""
NEARNESS_BYTES_MS = 150_000
"""What a link between nodes is taken to carry of an object in a millisecond; measured so with two kernels on two cores."""
NEARNESS_GAIN_MS = 1.0
"""A task that is done sooner by less goes wherever there is room."""
