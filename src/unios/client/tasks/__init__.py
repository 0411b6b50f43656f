"""Tasks: calls of Python functions, carried out by worker processes on the nodes of the system. `Executor` is what a program uses."""
