"""Replicas: long-lived objects of an unmodified class, in one or several processes of the system. docs/long-lived-objects.md."""
