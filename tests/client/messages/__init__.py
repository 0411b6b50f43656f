"""Ports for programs, over socket pairs instead of a kernel."""
