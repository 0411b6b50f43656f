"""Scripts that run in the peers' rooms, by the Python of PEERS_VENV: they import the lab, nothing of unios."""
