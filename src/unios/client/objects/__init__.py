"""Objects of programs: put in shared memory, read in place, counted across nodes. docs/objects.md."""
