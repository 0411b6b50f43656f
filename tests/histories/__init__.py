"""Histories: what clients on every node asked of a running system and were told, and whether one machine could have answered so."""
