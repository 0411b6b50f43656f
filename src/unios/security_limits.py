"""Bounds of what guards a system: expulsion, certificates, audit, knocks at the door. As in limits.py, each with its unit, and what happens at the bound."""

EXPEL_WAIT_MS = 8_000
"""So long the other nodes have to confirm that they have cut off an expelled one; then those that have not are named."""
EXPEL_ASK_MS = 1_500
"""So long one of them has for one answer; then it is asked again, while its lease stands."""
EXPELLED_MAX = 1_024
"""Certificates of expelled nodes that a kernel remembers by itself; over it the oldest is refused by its node's record only."""

AUDIT_KEPT = 10_000
"""Entries of the audit log; over it the oldest go, and the log says from which number on it is kept."""
AUDIT_WAITING_MAX = 1_000
"""Entries that one kernel has not written yet, since the store is away or others write too; over it the newest are counted and not kept, and that is written."""
AUDIT_TEXT_MAX = 300
"""Characters of what was done, and of why not."""
AUDIT_DROP_AT_A_TIME = 64
AUDIT_AGAIN_S = 1.0
"""So long after a write that failed it is tried again."""
AUDIT_REPEAT_MS = 60_000
"""So long after a refusal was written down the same one is only counted, and then written once with how often."""
AUDIT_LOOK_S = 5.0
"""So often is looked whether such a count is due."""

CERTIFICATE_LIFE_S = 90 * 86_400
"""Of a node's certificate; it has another one made at half of it."""
AUTHORITY_LIFE_S = 3_650 * 86_400
AUTHORITY_WARN_S = 365 * 86_400
"""So long before the authority's own certificate ends a person is told."""
RENEW_AGAIN_MS = 3_600_000
"""So long after an attempt that failed the next is made, or a fortieth of the certificate's life, whichever is less."""
RENEW_WARN_SHARE = 4
"""When less than this part of its life is left, and no other certificate could be had, a person is told."""
LINK_REMAKE_MS = 3_000
"""So long after a link could not be made again with a new certificate it is tried again."""
LINK_SUPERSEDED_MS = 2_000
"""So long at least a link stays after a better one has come, for what is on its way; then until nothing goes on over it, or a certificate of it ends."""
RELAY_SUPERSEDED_MS = 10_000
"""The same of one through a third node, whatever goes on over it."""

KNOCKS_MAX = 20
"""Failed attempts (a handshake that comes to nothing, a token that is none) of one address that are free; over it strangers from there are turned away."""
KNOCK_MS = 3_000
"""One of them is forgotten after so long."""
KNOCKERS_MAX = 4_096
"""Addresses of which failed attempts are remembered; over it the one that has been quiet for longest is forgotten."""
KNOCKS_OPEN_MAX = 4
"""Connections of an address that has had too many, of which it is not known yet who they are; a further one is closed unheard."""
CAPABILITIES_MAX = 10_000
"""Of one port; over it none is made until some are revoked or over."""
CAPABILITY_DEPTH_MAX = 32
"""So many steps a capability may be from the first one that it comes from: each call looks at all of them."""
