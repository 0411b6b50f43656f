/* Syncs that lie, fail or are the last thing that a process does, and a list of them.
 *
 *     SYNCS          a file that is read before each sync:  MODE KIND TIMES TEXT
 *                    MODE   through: as ever.  pretend: say 0 and do nothing.  fail: do nothing and say EIO.  die: do nothing and end by SIGKILL.
 *                           sync-and-die: do it, whatever comes of it, and end by SIGKILL
 *                    KIND   any, file or folder: what the descriptor is.  A syncfs is of a folder
 *                    TIMES  a process does that so often; 0: always.  What is after that goes through
 *                    TEXT   is in the path; - is in every one
 *     SYNCS_TRACE    a file to which is added, for each name that is made (open, mkdir, rename, link): "made PATH", and for each sync that was true:
 *                    "synced PATH", or "synced *" for a whole file system
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int raw_open(const char *path, int flags) { return syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600); }

static void tell(const char *what, const char *path) {
    const char *trace = getenv("SYNCS_TRACE");
    if (!trace) return;
    int kept = errno, file = raw_open(trace, O_WRONLY | O_APPEND | O_CREAT);
    char line[PATH_MAX + 16];
    int size = snprintf(line, sizeof line, "%s %s\n", what, path);
    if (file >= 0 && write(file, line, size) != size) abort();
    if (file >= 0) close(file);
    errno = kept;
}

/* 0: through, 1: say that it is done, 2: do it and end, -1: say EIO */
static int rule(int descriptor, int whole, char *path) {
    static int times_done;
    char at[64], text[1024], mode[16] = "through", kind[16] = "any", part[512] = "-";
    int times = 0;
    snprintf(at, sizeof at, "/proc/self/fd/%d", descriptor);
    ssize_t size = readlink(at, path, PATH_MAX - 1);
    path[size < 0 ? 0 : size] = 0;
    const char *control = getenv("SYNCS");
    int file = control ? raw_open(control, O_RDONLY) : -1;
    if (file < 0) return 0;
    size = read(file, text, sizeof text - 1);
    close(file);
    text[size < 0 ? 0 : size] = 0;
    sscanf(text, "%15s %15s %d %511s", mode, kind, &times, part);
    struct stat status;
    int folder = whole || (fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode));
    if (!strcmp(mode, "through")) {
        times_done = 0;
        return 0;
    }
    if ((strcmp(kind, "any") && strcmp(kind, folder ? "folder" : "file")) || (strcmp(part, "-") && !strstr(path, part))) return 0;
    if (times && times_done >= times) return 0;
    times_done++;
    if (!strcmp(mode, "die")) kill(getpid(), SIGKILL);
    if (!strcmp(mode, "sync-and-die")) return 2;
    return strcmp(mode, "fail") ? 1 : -1;
}

static int sync_by(long number, int descriptor) {
    char path[PATH_MAX];
    int said = rule(descriptor, number == SYS_syncfs, path);
    if (said < 0) {
        errno = EIO;
        return -1;
    }
    int done = said == 1 ? 0 : syscall(number, descriptor);
    if (said == 2) kill(getpid(), SIGKILL);
    if (!said && !done) tell("synced", number == SYS_syncfs ? "*" : path);
    return done;
}

int fsync(int descriptor) { return sync_by(SYS_fsync, descriptor); }
int fdatasync(int descriptor) { return sync_by(SYS_fdatasync, descriptor); }
int syncfs(int descriptor) { return sync_by(SYS_syncfs, descriptor); }

static int open_and_tell(const char *path, int flags, mode_t mode) {
    struct stat status;
    int there = !(flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE || lstat(path, &status) == 0;
    int file = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (file >= 0 && !there) tell("made", path);
    return file;
}

#define MODE_OF(flags)                                           \
    mode_t mode = 0;                                             \
    if ((flags) & (O_CREAT | (O_TMPFILE & ~O_DIRECTORY))) {      \
        va_list rest;                                            \
        va_start(rest, flags);                                   \
        mode = va_arg(rest, mode_t);                             \
        va_end(rest);                                            \
    }

int open(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_and_tell(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    MODE_OF(flags)
    return open_and_tell(path, flags | O_LARGEFILE, mode);
}

int mkdir(const char *path, mode_t mode) {
    int done = syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (!done) tell("made", path);
    return done;
}

int rename(const char *from, const char *to) {
    int done = syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) tell("made", to);
    return done;
}

int link(const char *from, const char *to) {
    int done = syscall(SYS_linkat, AT_FDCWD, from, AT_FDCWD, to, 0);
    if (!done) tell("made", to);
    return done;
}
