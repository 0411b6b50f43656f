"""Bounds of what the store is asked: rates. Units last in the name."""

ASKED_RATE_MAX, ASKED_BURST_MAX = 4_000, 8_000
RENEWED_RATE_MAX, RENEWED_BURST_MAX = 100, 200
ASKED_WAIT_MS_MAX = 1_000
"""Requests to the store over one connection a second, and at once; renewals apart. What is more waits; what would wait for longer is refused."""
SHARED_IN_FLIGHT_MAX = 128
GATE_RATE_MAX, GATE_BURST_MAX = 500, 2_000
"""Of one member over all of its connections, requests a second and at once: each takes several of the store."""
