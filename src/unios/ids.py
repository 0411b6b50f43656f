"""Names and numbers that identify things. Types only: no behaviour, no imports from the rest."""

from typing import NewType

SystemId = NewType("SystemId", str)
"""One unios system; random, made by the first `up`."""

MachineId = NewType("MachineId", str)
"""A failure domain; random, made once per UNIOS_HOME."""

NodeName = NewType("NodeName", str)
"""A node's name in the system: n1, n2, ... unless the user chose one."""

UserName = NewType("UserName", str)
"""A user of the system, mapped to a uid on every node."""

PortName = NewType("PortName", str)

Pid = NewType("Pid", int)
"""Global process id; what the program's own getpid() returns."""

Incarnation = NewType("Incarnation", int)
"""The n-th start, from 1, of a process, service or node."""

LeaseId = NewType("LeaseId", int)
"""Of a store lease; 0 means none."""

Generation = NewType("Generation", str)
"""Of a store's history: another generation means that revisions of the old one say nothing."""
