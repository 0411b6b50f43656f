"""The service that serves the mounts of a node."""
