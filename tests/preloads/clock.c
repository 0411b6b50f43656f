/* A wall clock that jumps while programs run, for all who have loaded this or for one process: what is added stands in a file.
 *
 * Linux has no namespace for the wall clock. Time since boot stays as it is. What does not ask libc (etcd, which is Go) does not see it. libfaketime would
 * do, but it breaks clock_nanosleep, which Python's sleep uses.
 *
 *     /var/clock.slots    32768 longs: seconds ahead; slot 0 is everybody's, slot N is added for the process N
 */
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
