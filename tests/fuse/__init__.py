"""Tests of the FUSE protocol: as pure layouts, and with Linux."""
