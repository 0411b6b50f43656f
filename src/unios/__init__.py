"""unios: a handful of Linux machines behave as one computer."""

__version__ = "0.1.0"
