"""Synchronisation across nodes for Python programs: a file for each noun, with the methods that `threading` and `queue` have."""
