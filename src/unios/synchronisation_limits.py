"""Every bound and every period of the manager of locks and its sessions. Units last in the name."""

SYNC_TTL_MS = 5_000
"""A session that has not renewed for so long has ended: what it held goes to the next. A new manager grants nothing before that time is over."""
SYNC_HOLD_MS = 4_000
"""A session trusts its lease so long after it *sent* the last renewal that was acknowledged; must stay below the TTL."""
SYNC_RENEW_MS = 800
SYNC_LOOK_MS = 200
"""How often the manager looks which sessions have ended."""
SYNC_IDLE_S = 60
"""A manager whom nobody has used for so long ends; the next use starts another."""
SYNC_SESSIONS_MAX = 4_096
SYNC_USER_SESSIONS_MAX = 1_024
"""Of one user who is not privileged, as with each SYNC_USER_*: the others have the rest."""
SYNC_THINGS_MAX = 100_000
"""Locks, events, queues and so on that are in use at a time; over it a new one is refused."""
SYNC_USER_THINGS_MAX = 25_000
SYNC_PLACES_MAX = 131_072
"""Who holds, waits, or is told of changes, at all things together; over it whoever would be one more is refused."""
SYNC_USER_PLACES_MAX = 32_768
SYNC_WAITING_MAX = 4_096
"""Of one session at a time; its further questions are refused."""
SYNC_ANSWERS_KEPT = 4_096
"""Of one session, in case its connection breaks before it has heard them; the oldest go."""
SYNC_ANSWER_BYTES = 128
"""What an answer that is kept counts for beside its data."""
SYNC_ANSWERS_BYTES_MAX = 64 * 1024 * 1024
"""Kept of all living sessions together; over it the oldest of whichever session is answered next go."""
SYNC_USER_ANSWERS_BYTES_MAX = 16 * 1024 * 1024
SYNC_GONE_MAX = 1_024
"""Sessions whose lease has ended that the manager remembers, with up to SYNC_GONE_BYTES_MAX of answers; over it the oldest of the user who has most of it
goes, and if that comes back it hears OutcomeUnknown."""
SYNC_GONE_BYTES_MAX = 16 * 1024 * 1024
SYNC_NAME_BYTES_MAX = 200
SYNC_ACTOR_BYTES_MAX = 400
"""What a session may call itself or one of its threads."""
SYNC_QUEUE_ITEMS_MAX = 100_000
SYNC_QUEUE_BYTES_MAX = 16 * 1024 * 1024
"""In one queue at a time; who puts more waits. A single item may have a quarter of it."""
SYNC_ITEM_BYTES = 64
"""What an item counts for beside its data."""
SYNC_BYTES_MAX = 128 * 1024 * 1024
"""In all queues together: over it what is put is refused as Unavailable."""
SYNC_USER_BYTES_MAX = 32 * 1024 * 1024
