"""Every bound and every period, in one place. Units last in the name."""

# leases and failure detection (design: loss noticed <= 1.5 s)
LEASE_TTL_MS = 1_200
"""The store ends a lease this long after it last received a renewal."""
LEASE_HOLD_MS = 900
"""A holder trusts its lease this long after it *sent* the last acknowledged renewal; must stay below the TTL."""
LEASE_RENEW_MS = 200
"""A holder renews at its first tick after so long; it ticks every LEASE_TICK_MS."""
LEASE_TICK_MS = 250
LEASE_TTL_MS_MIN = 100
LEASE_TTL_MS_MAX = 31 * 86_400_000
LEASES_MAX = 10_000

# supervision (design: a dead or hung service is replaced within 1 s)
BEAT_MS = 250
HUNG_MS = 750
"""A process of ours whose beat is older than this is killed and replaced."""
RESTART_DELAY_MS_MAX = 10_000
RESTART_DELAY_MS_FIRST = 50
RESTART_WINDOW_MS = 10_000
"""What has run for longer than this before it died begins anew in the count of its deaths."""

# wire
FRAME_BYTES_MAX = 8 * 1024 * 1024
"""Largest message; streams and buffers are cut into smaller ones."""
FDS_MAX = 16
REQUESTS_PER_PEER_MAX = 1_024
STREAM_WINDOW_BYTES = 1024 * 1024
SEND_QUEUE_BYTES_MAX = 4 * 1024 * 1024
SEND_AHEAD_BYTES = 128 * 1024
"""So much of a connection's queue is handed on ahead: to the transport, and by it to Linux. What is handed on cannot be overtaken by a signal."""
SEQUENCE_TURNS_MAX = 32
"""Each so many turns one goes to the sequence that has waited longest, however unimportant."""
HELLO_TIMEOUT_MS = 5_000
CONNECT_TIMEOUT_MS = 3_000
LINK_RETRY_MS_MAX = 2_000
CLIENTS_MAX = 1_024
CLIENTS_PER_USER_MAX = 512
"""Of one user who is not privileged: nobody locks others out with connections that do nothing."""
CLIENTS_KEPT = 128
"""Of CLIENTS_MAX, places that only the privileged get."""
CLIENTS_REFUSED_MAX = 256
"""Over the bounds so many at a time are told why; more are just closed."""
STRANGERS_MAX = 128
"""Connections to a node's address that have shown no certificate yet, or have none; over it the oldest goes."""
DESCRIPTORS_MAX = 65_536
"""The parts of a node raise their bound of open descriptors to what Linux allows, but no further: some Linux allows a billion, and all are closed in a
loop where there is no close_range."""
ACCEPT_REST_MS = 100
"""So long a listener rests when no descriptor is to be had for the next connection."""
LINK_PING_MS = 1_000
LINK_PING_LATE_MS = 650
"""A link whose ping has no answer by then is closed and made again."""
LINK_WAIT_MS = 1_500
"""So long a request waits for a link that is being made."""
RELAYS_MAX = 256

# store
KEY_BYTES_MAX = 1_024
VALUE_BYTES_MAX = 4 * 1024 * 1024
TRANSACTION_OPERATIONS_MAX = 512
RANGE_RECORDS_MAX = 10_000
"""A range answers at most this many; the rest is asked for by key."""
WATCH_QUEUE_EVENTS_MAX = 50_000
"""A watcher this far behind is cut off and has to resynchronise by range."""
WATCH_QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""The same in bytes: few events may be large ones."""
WATCH_CALM_MS_MAX = 1_000
"""A watcher may have its events gathered for at most so long."""
HISTORY_REVISIONS_KEPT = 20_000
"""Older revisions are compacted away on their own."""
HISTORY_BYTES_KEPT = 64 * 1024 * 1024
"""The same in bytes; whichever bound is reached first."""
STORE_TIMEOUT_MS = 5_000
"""A client that has no answer from the store for so long breaks off: Unavailable or OutcomeUnknown."""
STORE_RETRY_MS = 25
RECORD_RETRY_MS_MAX = 1_000
"""Between two attempts to write a record into a store that is away."""
LIST_BYTES_MAX = 4 * 1024 * 1024
"""Of the arguments that a list of processes shows, all together."""

# the store's gate for members that do not speak for root
GATE_VALUE_BYTES_MAX = 256 * 1024
"""Of what such a member writes, but for specifications: everybody reads all records of a kind at once."""
GATE_LEASES_MAX = 8
"""Of one member at a time; a node needs one."""
GATE_CONNECTIONS_MAX = 32
"""Of one member at a time; a node needs three."""
GATE_ATTEMPTS_MAX = 10
"""So often a transaction is judged again because a record that decides about it has changed."""

# processes
PID_MIN = 300
PID_MAX = 32_767
"""Linux's smallest default pid_max, so that every node can give every global pid."""
ARGUMENT_BYTES_MAX = 131_071
"""Linux's MAX_ARG_STRLEN, less the closing zero: one argument or one environment string."""
SPEC_BYTES_MAX = 2_000_000
"""Arguments and environment together; below what Linux grants under the default stack limit (2 MiB)."""
ARGV_SHOWN_BYTES_MAX = 1_024
"""How much of argv the process record itself carries."""
TREES_PER_NODE_MAX = 4_096
RECORDS_ENDED_KEPT = 1_000
EVENTS_KEPT = 2_000
TOKEN_TTL_S = 3_600
TOKEN_TTL_S_MAX = 30 * 86_400
RESTARTS_MAX = 1_000

# streams
STREAM_SEGMENT_BYTES = 1024 * 1024
STREAM_KEPT_BYTES = 16 * 1024 * 1024
"""Of each of a process's two output streams; the oldest segment goes first."""
STREAM_HOLD_S = 10
"""How long an init waits for an attached reader that vanished before it lets old output go again."""
STDIN_BUFFER_BYTES = 256 * 1024

# guard and inits
TREE_FRAME_BYTES_MAX = 16 * 1024 * 1024
"""A spec of SPEC_BYTES_MAX as JSON, every byte escaped."""
TREE_PEER_QUEUE_BYTES_MAX = 4 * 1024 * 1024
"""What a guard or an init keeps for a client that does not read, before it closes it."""
TREE_CLIENTS_MAX = 64
SPARES_MAX = 4
"""Inits that wait, already in their namespaces, while spawns arrive faster than they are made; at rest there is one."""
SPARE_TIMEOUT_S = 10
TREE_TIMEOUT_MS = 5_000
"""A guard or init that has not answered a request by then is reported as unavailable."""
CONFIRM_WAIT_MS = 200
"""So long all inits together may take to hear that their claims stand, or do not, before the node's deadline moves; who is later hears it later."""
CONFIRM_TIMEOUT_MS = 60_000
"""After that an init that has not answered is told again."""
SPAWN_TIMEOUT_MS = 10_000
SPAWN_GRACE_MS = 1_500
"""A node starts by itself what was assigned to it and that nobody has asked it to start for so long."""
OUTPUT_KEPT_BYTES = 512 * 1024 * 1024
"""Of all ended processes of a node together; the oldest go first."""
SUPERVISOR_GONE_MS = 300
"""How long the guard waits for a dead supervisor's successor before it starts one."""
DISK_RETRY_S = 1

# ports
PORTS_MAX = 10_000
PORT_NAME_BYTES_MAX = 200
PORTS_PER_USER_MAX = 5_000
"""Of one user who is not privileged, on one node."""
PORT_CONNECTIONS_MAX = 1_024
"""Of one port on one node at a time."""
PORT_CONNECTIONS_PER_USER_MAX = 512
"""The same, made by one user who is not privileged."""
PORT_CONNECTIONS_KEPT = 128
"""Of PORT_CONNECTIONS_MAX, places that only the privileged get."""
USER_CONNECTIONS_MAX = 2_048
"""To all ports of a node together, made by one user who is not privileged; each takes four descriptors of the kernel."""
USER_RELAYS_MAX = 256
"""Connections to ports of other nodes that a node relays for one user who is not privileged; a link carries REQUESTS_PER_PEER_MAX requests."""
PORT_CHANNEL_WINDOW_BYTES = 1024 * 1024

# clients
CALL_TIMEOUT_MS = 30_000
"""A client that asked once and has no answer says OutcomeUnknown."""
CLIENT_RECONNECT_MS = 30_000
"""So long a client looks for a kernel that answers before it gives an idempotent request up."""
CLIENT_RETRY_MS = 50
SUBMIT_WAIT_MS = 5_000
"""So long a submission waits for the placement service to be there."""
SUBMIT_TIMEOUT_MS = 15_000
LEAVE_TIMEOUT_MS = 60_000
BOOT_TIMEOUT_MS = 60_000
"""Starting the nodes of a machine takes far less; beyond this something hangs and is reported."""
CLIENT_LOOK_MS = 2_000
"""A reader of output that hears nothing for so long looks whether the process still runs there."""
CLIENT_OUTPUT_RETRY_MS = 5_000
"""So long the last output of a process that has ended is asked for."""
CLIENT_EVENTS_AGAIN = 200
"""So many past events are asked for again after a break, to miss none; those seen are left out."""

# machines
USER_UNKNOWN_S = 10
"""So long a node that does not know a user is not asked again for a process that waits; one that registers anew is asked at once."""
STRANGERS_KEPT_MAX = 1_024
"""Pairs of node and user that a service remembers for that; the oldest goes."""
# resources
DEVICES_REQUESTED_MAX = 16
"""Requests of one process."""
DEVICES_PER_PROCESS_MAX = 64
"""Of one kind for one request."""

# what a person sees
TOP_PERIOD_MS = 1_000
TOP_HISTORY = 60
"""Samples that `unios top` keeps of each node: a minute; the oldest goes."""
TOP_PATIENCE_MS = 800
"""A node that has not said what it uses by then is shown without."""
TOP_ORDERS_MAX = 16
"""Keys that `unios top` has not carried out yet; over it the person is told to wait."""
TOP_DETAILS_BYTES = 16 * 1024
"""Of the end of each of a process's streams that its details show."""
# terminals and sessions
WINDOW_MAX = 10_000
"""Rows and columns of a terminal; larger ones are taken as that."""
TERMINAL_NUDGE_S = 0.05
"""So long the window is one row off, to make a full-screen program draw again."""
TERMINAL_AGAIN_S = 0.05
"""So long nothing is read from a terminal that no process has open."""
TERMINAL_REPLAY_BYTES = 64 * 1024
"""Of the past output, shown to who attaches."""
DETACH_KEY_S = 1.0
"""A key that may begin the keys for detaching is held back for so long; then it goes to the program."""
SESSIONS_MAX = 32
"""Programs that `exec` has opened in one process at a time."""
SESSION_KILL_S = 5
"""What a session's end leaves of it after SIGHUP is killed after so long."""
FORWARDS_PER_USER_MAX = 256
"""TCP connections to processes of a node that are open for one user who is not privileged."""
FORWARD_CONNECTIONS_MAX = 128
"""Of one `unios forward` at a time; more are not taken in until one has ended."""
FORWARD_BUFFER_BYTES = 256 * 1024
TIME_INDEX_MS = 250
"""When output came is known to so much: one entry at most for each such time in which there was any."""
TIME_INDEX_ENTRIES_MAX = 32_768
"""At the bound every second entry goes."""
TASKS_PER_TREE_MAX = 8_192
"""Linux processes and threads of one tree unless more is asked for; over it fork fails in there with EAGAIN, and nowhere else."""
TASKS_PER_NODE_SHARE = 0.75
"""Of all pids of a machine, what the trees of a node may have together."""
MEMORY_BYTES_MIN = 16 * 1024 * 1024
"""Less is not set as a bound: the launcher alone takes some."""
CPU_PERIOD_US = 100_000
"""In which a cap of processor time is counted."""
"""At the bound entries that are near each other are joined: it becomes coarser."""
DEVICES_LOOK_S = 5.0
"""How often a node looks whether a device has come or gone."""
DEVICES_LOCK_S = 5.0
"""So long a start waits for another one that chooses devices on the same machine; then it is tried again later."""
