"""Every bound and every period, but for those in log_limits.py, mount_limits.py, object_limits.py and synchronisation_limits.py. Units last in the name."""

# leases and failure detection (design: loss noticed <= 1.5 s)
LEASE_TTL_MS = 1_300
"""The store ends a lease this long after it last received a renewal."""
LEASE_HOLD_MS = 1_000
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
HEALTHY_MS = 3_000
"""What had beaten for so long before it died begins anew in the count of its deaths."""

# wire
FRAME_BYTES_MAX = 8 * 1024 * 1024
"""Largest message; streams and buffers are cut into smaller ones."""
FDS_MAX = 16
REQUESTS_PER_PEER_MAX = 1_024
STREAM_WINDOW_BYTES = 2 * 1024 * 1024
SEND_QUEUE_BYTES_MAX = 4 * 1024 * 1024
SEND_AHEAD_BYTES = 128 * 1024
"""So much of a connection's queue is handed on ahead: to the transport, and by it to Linux. What is handed on cannot be overtaken by a signal."""
SEND_AHEAD_SWIFT_BYTES = 256 * 1024
"""To Linux, on a link that carries PACE_BYTES_S."""
SEND_AHEAD_RACING_BYTES = 1024 * 1024
"""To Linux, on a link that carries PACE_RACING_BYTES_S: gone within 4 ms. With less, two of three frames do not fit and cost a second turn each."""
CHUNK_BYTES = 128 * 1024
"""In such pieces output is sent."""
WIDE_CHUNK_BYTES = 384 * 1024
"""On a link that carries PACE_BYTES_S. A Unix socket holds one."""
PACE_BYTES = 1024 * 1024
"""So much is looked at to tell whether a link is swift: more than Linux and a transport hold."""
PACE_BYTES_S = 75_000_000
"""Then WIDE_CHUNK_BYTES are gone within 5 ms. Gigabit Ethernet carries it."""
PACE_RACING_BYTES_S = 300_000_000
PACE_ROUNDS = 4
"""So often in a row PACE_BYTES have to go out that fast: together they are more than SEND_AHEAD_RACING_BYTES and what the buffers hold besides."""
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
CLIENT_FRAMES_BYTES_MAX = 64 * 1024 * 1024
"""Of messages of one user who is not privileged that have begun and are not whole, over all his connections to a kernel."""
HELD_USER_BYTES_MAX = 640 * 1024 * 1024
"""Of what one user who is not privileged has sent through a kernel and nobody has taken: USER_RELAYS_MAX relays with all that their windows allow."""
HELD_BYTES_MAX = 2 * 1024**3
"""The same of all such users together. Over either a request is refused, and one that more is sent to ends: Unavailable."""
CLIENTS_REFUSED_MAX = 256
"""Over the bounds so many at a time are told why; more are just closed."""
STRANGERS_MAX = 128
"""Connections to a node's address that have shown no certificate yet, or have none; over it the oldest goes."""
DESCRIPTORS_MAX = 65_536
"""The parts of a node raise their bound of open descriptors to what Linux allows, but no further: some Linux allows a billion, and all are closed in a
loop where there is no close_range."""
DESCRIPTORS_KEPT = 256
"""Of a kernel's descriptors, or a quarter of them if that is less, ports and connections of programs leave so many: for its door, links, store, services."""
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
STORE_BACK_MS = 1_000
"""So long a connection to the store of this machine is waited for while another node starts it again."""
STORE_COMES_MS = 400
"""So long a kernel that has just started looks for a store of its machine, every STORE_COMES_LOOK_S; then it asks at each tick of its lease."""
STORE_COMES_LOOK_S = 0.005
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
GATE_CLOCK_MS_MAX = 60_000
"""So far the time at which such a member says that a process was submitted may be from that of the gate: the queue goes by age."""
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
STREAM_SEGMENT_BYTES = 4 * 1024 * 1024
STREAM_KEPT_BYTES = 16 * 1024 * 1024
"""Of each of a process's two output streams; the oldest segment goes first."""
STREAM_FLIGHT_BYTES = 6 * 1024 * 1024
"""The most that is under way between a tree and a reader of it on another node: a window for each of the two connections, what the kernels queue, a chunk."""
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
"""Inits that wait, already in their namespaces, while spawns arrive faster than they are made; at rest there are two."""
SPARE_TIMEOUT_S = 10
REAPED_MAX = 64
"""Ends of children that a guard keeps while it does not know yet whether they were spares; the oldest go."""
TREES_PER_INIT_MAX = 200
"""An init that has had so many trees, one after the other, gives way to a new one: whatever grows in it is bounded."""
RECYCLED_MAX = 8
"""Inits that have had a tree and wait for another of the same user while many programs begin; a second later there are no more than at rest."""
TREE_TIMEOUT_MS = 5_000
"""A guard or init that has not answered a request by then is reported as unavailable."""
CONFIRM_WAIT_MS = 200
"""So long all inits together may take to hear that their claims stand, or do not, before the node's deadline moves; who is later hears it later."""
CONFIRM_TIMEOUT_MS = 60_000
"""After that an init that has not answered is told again."""
SPAWN_TIMEOUT_MS = 10_000
START_LEASE_WAIT_MS = 1_000
"""A node that is asked to start something waits so long for its own lease: others see a moment earlier than itself that it is back."""
SPAWN_GRACE_MS = 1_500
"""A node starts by itself what was assigned to it and that nobody has asked it to start for so long."""
OUTPUT_KEPT_BYTES = 512 * 1024 * 1024
"""Of all ended processes of a node together; the oldest go first."""
SUPERVISOR_GONE_MS = 300
"""How long the guard waits for a dead supervisor's successor before it starts one."""
DISK_RETRY_S = 1

# ports
PORTS_MAX = 10_000
"""Of one node. Those of the system's services come on top."""
PORTS_PUBLISHED_AT_ONCE = 256
"""So many in one transaction."""
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
LINK_REQUESTS_KEPT = 128
"""Of the requests that a link carries, those that connections to ports leave: kernels ask each other over it too, and a link whose pings are refused ends.
Those of ordinary users leave as many again, for the privileged."""
PORT_CHANNEL_WINDOW_BYTES = 1024 * 1024

# clients
CALL_TIMEOUT_MS = 30_000
"""A client that asked once and has no answer says OutcomeUnknown."""
CLIENT_RECONNECT_MS = 30_000
"""So long a client looks for a kernel that answers before it gives an idempotent request up."""
CLIENT_RETRY_MS = 50
CLIENT_TOLD_MS = 500
"""A command that waits so long for room on a disk says so, once."""
SUBMIT_WAIT_MS = 5_000
"""So long a submission waits for the placement service to be there."""
SUBMIT_TIMEOUT_MS = 15_000
LEAVE_TIMEOUT_MS = 60_000
PROGRESS_PER_S = 10
"""A progress line is drawn at most so often: faster is only work for a terminal."""
EMBEDDED_SAY_S = 1.0
"""A program whose embedded system takes longer to start says so on stderr."""
EMBEDDED_END_S = 15.0
"""So long a program that ends waits until its embedded system is gone; then that goes by itself."""
BOOT_TIMEOUT_MS = 60_000
"""Starting the nodes of a machine takes far less; beyond this something hangs and is reported."""
CLIENT_LOOK_MS = 2_000
"""A reader of output that hears nothing for so long looks whether the process still runs there."""
CLIENT_OUTPUT_RETRY_MS = 5_000
"""So long the last output of a process that has ended is asked for."""
CLIENT_EVENTS_AGAIN = 200
"""So many past events are asked for again after a break, to miss none; those seen are left out."""

# machines
UPGRADE_NODE_MS = 120_000
"""So long an upgrade may take for each node, its way back included."""
NODES_PER_MACHINE_MAX = 16
"""Of `unios up --nodes`: several on one machine are for trying out."""
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
TASKS_PER_TREE_MAX = 1_024
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
LINK_PORT = 7117
"""Where a node takes links that other machines reach, unless --listen says otherwise: one TCP port to open in a firewall."""
LINK_PORTS = 16
"""So many from LINK_PORT on are tried, for several nodes of one machine."""
ADDRESSES_MAX = 8
"""Of one node, told to the others; the best are kept."""
ADDRESS_SETTLE_MS = 500
"""After a change of an interface's addresses so long is waited for the next: an address that goes and comes with a lease of DHCP is no news."""
PROBE_TIMEOUT_MS = 2_000
"""So long a node of the system tries to reach one that joins."""
CLOCK_OFFSET_MS_MAX = 2_000
"""Wall clocks of two machines that differ by more are worth a warning: people compare times."""
CLOCK_OFFSET_MS_JOIN_MAX = 20 * 3_600_000
"""By more, nobody joins: certificates are valid from one day before they are made."""
SETTLE_MS = 3_000
"""So long after a node came, or a link to it broke, a missing link is nothing that a person need know of: it is tried for LINK_RETRY_MS_MAX at most."""
FLAP_LOSSES = 3
"""A node that was lost so often within FLAP_WINDOW_MS gets nothing new until it was not lost for FLAP_CALM_MS."""
FLAP_WINDOW_MS = 60_000
FLAP_CALM_MS = 30_000

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
STATUS_LOOK_MS = 1_500
"""So long `unios status` waits for all its answers together; who has not answered by then is said."""
STATUS_EVENTS = 300
"""So many past events it looks at, to say since when."""
STORY_GROUPS_MAX = 500
"""Lines of a story of events to which more may be added; over it the oldest is told as it stands."""
STORY_QUIET_MS = 2_000
"""A line of a story that is followed is told when nothing was added to it for so long."""
# carried folders and blocks
BLOCK_BYTES = 1024 * 1024
"""A file is cut into blocks of this size; the last is shorter."""
BLOCK_NAMES_MAX = 65_536
"""Named in one request; more are asked for in turn."""
BUNDLE_BYTES = 256 * 1024
"""Small blocks travel together, so many bytes and blocks at a time; a larger block travels alone."""
BUNDLE_BLOCKS_MAX = 256
BLOCKS_COMMIT_MAX = 4_096
"""So many blocks are brought to the disk at a time: what was sent before an upload broke off is not sent again."""
BLOCKS_COMMIT_BYTES_MAX = 256 * 1024 * 1024
BLOCKS_BYTES_MAX = 32 * 1024**3
"""Kept by one node; over it the longest unused go that no live process needs, and if that is not enough nothing more is taken."""
BLOCKS_USER_SHARE = 3
"""One user may keep so many times what is left free of BLOCKS_BYTES_MAX: alone three quarters of it, of two each three sevenths. Over it his own longest
unused go, and if that is not enough nothing more of his is taken. The node's own user is not bounded so."""
DISK_FREE_BYTES_MIN = 128 * 1024 * 1024
"""What is left free of a node's disk by blocks and by working folders as they are laid out: the node itself has to go on."""
FILES_USER = "files."  # whose the blocks of files are: not bounded, never let go of, and for the privileged alone
BLOCKS_YOUNG_S = 3_600
"""What was used since is not dropped: its process may not have been submitted yet."""
BLOCKS_COPIES = 2
"""An upload is acknowledged when so many nodes have it on disk, of different machines where there are several; fewer where there are fewer."""
COPY_TIMEOUT_MS = 20_000
"""So long the second node may take for one batch; then one copy has to do."""
MANIFEST_BYTES_MAX = 64 * 1024 * 1024
CARRY_FILES_MAX = 200_000
"""Of one carried folder, whatever is asked for."""
CARRY_BYTES_DEFAULT = 2 * 1024**3
"""More than that has to be asked for (`--carry-max`)."""
CARRY_DEPTH_MAX = 256
"""Folders in folders; deeper ones are refused."""
RESULTS_BYTES_MAX = 16 * 1024**3
"""What is collected of one process; a program that left more has the rest left out, and is told."""
RESULTS_FILES_MAX = 100_000
RESULTS_MANIFEST_BYTES_MAX = 8 * 1024 * 1024
PORTER_TIMEOUT_S = 900
"""Laying out a folder, or collecting results, takes at most so long; then it is given up and said."""
PORTERS_MAX = 4
"""Working at the same time on one node; the others wait."""
PORTERS_PER_USER_MAX = 2
"""Of those, for one user, whatever else of his waits."""
WORK_KEPT = 8
"""Working folders of a node whose process was started again elsewhere, or whose results could not be collected; the oldest go."""
NAMED_PATHS_MAX = 16
"""Local files named by a program's arguments and cwd that are looked for again where it is started anew."""
# the queue
QUEUE_AGING_MS = 300_000
"""Waiting so long counts as one priority more; at PRIORITY_MAX + 1 it is overdue and goes before all that came later, so after at most
(PRIORITY_MAX + 1) * QUEUE_AGING_MS, 2 h 40 min, nothing that is submitted later can overtake it."""
SHARE_HALF_LIFE_MS = 4 * 3_600_000
"""After so long half of what a user has used counts for nothing any more."""
SHARE_AHEAD_MS = 60_000
"""What is set aside for a user counts as if it had been used so long already."""
QUEUE_LOOK_MAX = 128
"""So many kinds of waiting processes that find no room are passed by in one look over the queue: back-fill looks no deeper."""
QUEUE_STARTS_MAX = 64
"""Starts that one queue runner has under way; the rest waits for one to be done."""
QUEUE_REST_MS = 200
"""So long a node that refused for lack of room is left alone."""
REFUSALS_KEPT = 1_000
"""Of processes that wait for another node, since one has said that it cannot run them; what is forgotten is tried there once more."""
TIME_LIMIT_MS_MAX = 36_500 * 86_400_000
"""Of `run --time`: a hundred years. More is refused, since what shall never be ended needs no limit."""
WAITING_MAX = 20_000
"""Processes without a node; over it a submission is refused. Their pids are taken, and there are PID_MAX - PID_MIN."""
SUBMIT_BATCH_MAX = 50
"""Processes in one submission of many: with all that is compared for them, at the gate too, within TRANSACTION_OPERATIONS_MAX."""
SUBMIT_BATCH_BYTES_MAX = 2 * 1024 * 1024
"""Of the arguments of one batch, cut so by the client; a single one may be larger."""
TIME_LIMIT_GRACE_MS = 5_000
"""Between SIGTERM and SIGKILL for what has run for longer than its time limit."""
POLICY_DEADLINE_MS = 200
"""A foreign placement policy that has not answered by then is replaced by the default."""
POLICY_START_MS = 5_000
"""The same for being loaded."""
POLICY_DEATHS_MAX = 3
"""So many deaths of a placement service while it asks or runs a foreign policy, within POLICY_DEATHS_WINDOW_MS, and the policy is replaced by the default."""
POLICY_DEATHS_WINDOW_MS = 600_000
COMPLETE_MS = 250
"""So long completion looks for pids and nodes; then it offers none."""
COMPLETE_PIDS_MAX = 500
"""Offered at a time; the newest."""
FOREIGN_MAX = 8
"""Placement policies that are no part of unios and have a process of their own, of one service; over it the default stands in."""
FAILED_MAX = 64
"""Policies that a service remembers to have failed; the oldest is tried again."""

# messages between programs
MESSAGE_BYTES_MAX = 16 * 1024 * 1024 * 1024
"""Of one message between processes of one user; it has to fit in memory on both sides."""
MESSAGE_BYTES_STRANGER_MAX = 64 * 1024 * 1024
"""Of one message from another user's process."""
STRANGER_BYTES_MAX = 256 * 1024 * 1024
"""Of all that another user has sent to one port over all his connections, and that is not answered: the parts that have come, and what is under way."""
STRANGER_FRAME_BYTES_MAX = 512 * 1024
"""Of one frame from another user's process: what is larger travels in parts."""
STRANGER_AHEAD_BYTES = 64 * 1024
"""So much of one stranger's connection is read ahead of the request that is being answered; what is begun is counted, what waits is not."""
PART_BYTES = 384 * 1024
"""Buffers that cannot be handed over as memory travel in such pieces, which fit in a buffer that is used again (wire/frames.py)."""
SESSION_KEPT_S = 30
"""So long a port knows what a caller whose connection broke had asked, and answers it once when he comes back."""
PORT_SESSIONS_MAX = 4_096
"""Of one port; over it, the one that has been without a connection for longest goes."""
SESSIONS_PER_USER_MAX = 1_024
"""The same, of one user, so that nobody drives out others' sessions."""
KEPT_REPLIES_BYTES = 256 * 1024 * 1024
"""Answers that a session keeps until they are acknowledged; over it the oldest go, and whoever asks again for one is told so."""
# tasks
TASK_BYTES_MAX = 4 * 1024**3
"""Of one call's pickled arguments, or of its result; more is refused and said."""
TASK_PARTS_MAX = 4_096
"""Buffers of one call or result that travel beside its pickle; where there are more they travel in it."""
TASK_BUFFER_BYTES_MIN = 16 * 1024
"""A buffer of so much travels beside the pickle, and is read in place."""
TASKS_UNFINISHED_MAX = 1_000_000
"""Of one executor; over it `submit` waits until one has ended."""
TASKS_WAITING_BYTES_MAX = 2 * 1024**3
"""Of the pickled arguments of an executor's unfinished tasks; over it `submit` waits too."""
MAP_AHEAD_MAX = 100_000
"""Results of one `map` that nobody has read yet, and tasks for them; over it no more are submitted until one is read."""
WORKERS_MAX = 256
"""Of one executor, with those whose tasks wait for tasks of their own. A user has PORT_CONNECTIONS_PER_USER_MAX connections to a port."""
FUNCTIONS_KEPT = 128
"""Pickled functions that a worker keeps; the oldest goes, and is sent again when it is called."""
HOSTAGE_MS = 20
"""So long a task lies ahead of one that goes on while another worker has nothing to do; then it is taken back."""
TASK_CANCEL_MS = 2_000
"""So long `cancel` waits to hear whether a task that lies ahead of another has begun; then it counts as begun."""
CREW_INQUEST_MS = 6_000
"""So long after a crew was lost it is asked why; a node counts as lost after LEASE_TTL_MS."""
CREW_END_MS = 5_000
"""So long `shutdown` waits for the processes of an executor to end by themselves."""
TASK_QUEUE_BYTES = 1024 * 1024
"""So much is read at a time from one worker, so that one with a large result does not hold up the others."""
KEPT_REPLIES_STRANGER_BYTES = 1024 * 1024
"""The same for another user's session."""
KEPT_REPLIES_MAX = 16_384
"""So many answers may be unacknowledged; a peer that acknowledges nothing is cut off."""
STREAMS_PER_SESSION_MAX = 64
"""Streams that one caller reads at a time; each takes a thread of the one who answers, unless he is asyncio's."""

# long-lived objects
OBJECT_COPIES_MAX = 7
OBJECT_SESSIONS_MAX = 4_096
"""Callers whose last outcomes an object remembers; over it the longest silent one goes, and what it asks again has an unknown outcome."""
OBJECT_OUTCOMES_BYTES_MAX = 16 * 1024 * 1024
"""Outcomes that an object remembers; over it the oldest are forgotten, and who asks again for one is told that it is unknown."""
OBJECT_HOLDERS_MAX = 256
"""Caches of an object at a time; over it a read is answered without one."""
OBJECT_LEASE_MS = 2_000
"""Of a cache, unless another one is asked for: a write waits at most so long for a caller that is gone."""
OBJECT_LOOK_MS = 1_000
"""A copy or an object that does not answer for so long is looked up among the processes, and asked again."""
OBJECT_CALL_MS = 5_000
"""The same for a call of an object: it may take longer, and is asked for again under the same number."""
OBJECT_READ_MS = 300
"""So long a copy waits until it may show what it has; then the sequencer is asked."""
OBJECT_RETRY_MS = 50
OBJECT_POLL_MS = 10_000
"""So long a cache waits for an invalidation before it asks again."""
OBJECT_START_MS = 30_000
"""So long the copies of a new object may take to begin."""
OBJECT_ENDS_MAX = 5
"""So often the process of an object may end while one call of it is under way, and the call is asked for again; then it may be the call that ends it."""
OBJECT_WRITES_OPEN_MAX = 128
"""Of one caller's session at a time; over it another session is begun."""
