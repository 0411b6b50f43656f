"""A wall clock that jumps while programs run, for a whole machine or one process of it: a preloaded library that adds what a file says.

Linux has no namespace for the wall clock. The library stands before libc's `clock_gettime`, `time` and `gettimeofday`; time since boot stays as it is. What
does not ask libc (etcd, which is Go) does not see it.
"""

import struct
from typing import Final

from tests.live.machines import Machine, sh

_FILE: Final = "/var/clock.slots"
_SLOTS: Final = 32768
_LIBRARY: Final = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#define SLOTS 32768
static int (*real)(clockid_t, struct timespec *);
static volatile long *slots;
__attribute__((constructor)) static void begin(void) {
    real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int file = open("/var/clock.slots", O_RDONLY | O_CLOEXEC);
    if (file < 0) return;
    void *at = mmap(0, SLOTS * sizeof(long), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) slots = at;
    close(file);
}
int clock_gettime(clockid_t id, struct timespec *now) {
    int done = real ? real(id, now) : syscall(SYS_clock_gettime, id, now);
    if (done || !slots || (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE)) return done;
    int pid = getpid();
    now->tv_sec += slots[0] + (pid > 1 && pid < SLOTS ? slots[pid] : 0);
    return done;
}
time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
int gettimeofday(struct timeval *out, void *zone) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    out->tv_sec = now.tv_sec;
    out->tv_usec = now.tv_nsec / 1000;
    return 0;
}
"""


def give(machine: Machine) -> None:
    """Let the machine have such a clock; what is started in it from now on looks at it."""
    library = machine.lab.folder / "jumping.so"
    if not library.exists():
        sh("cc", "-shared", "-fPIC", "-O1", "-o", library, "-x", "c", "-", input=_LIBRARY)
    machine.run("sh", "-c", "cat > /var/jumping.so", input=library.read_bytes())
    machine.run("truncate", "-s", str(_SLOTS * 8), _FILE)
    machine.clock = ("LD_PRELOAD=/var/jumping.so",)


def jump(machine: Machine, seconds: int, pid: int = 0) -> None:
    """Put the wall clock ahead (below 0: back) for the whole machine, or for one process by the number that the machine has for it."""
    machine.run("dd", f"of={_FILE}", "bs=8", f"seek={pid}", "conv=notrunc", "status=none", input=struct.pack("<q", seconds))
