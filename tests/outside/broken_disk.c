/* A disk with errors, for broken_disk_check.py: loaded before the C library, it makes calls about files whose path contains
 * $BROKEN_DISK fail with the error number $BROKEN_DISK_ERROR, as long as the file $BROKEN_DISK_SWITCH exists. Which calls says
 * $BROKEN_DISK_CALLS: `sync` (fdatasync and fsync, which do nothing then), `write` (nothing is written), or `torn` (the first half is
 * written, and then it fails). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fails(int fd, const char *calls) {
    const char *part = getenv("BROKEN_DISK"), *on = getenv("BROKEN_DISK_SWITCH"), *which = getenv("BROKEN_DISK_CALLS");
    const char *number = getenv("BROKEN_DISK_ERROR");
    char link[64], path[4096];
    int before = errno;
    if (part == NULL || on == NULL || which == NULL || number == NULL || strcmp(which, calls) != 0) return 0;
    if (access(on, F_OK) != 0) {
        errno = before;
        return 0;
    }
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    errno = before;
    if (strstr(path, part) == NULL) return 0;
    errno = atoi(number);
    return 1;
}

static int sync_it(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return fails(fd, "sync") ? -1 : real(fd);
}

int fdatasync(int fd) { return sync_it("fdatasync", fd); }

int fsync(int fd) { return sync_it("fsync", fd); }

ssize_t write(int fd, const void *buffer, size_t length) {
    ssize_t (*real)(int, const void *, size_t) = (ssize_t (*)(int, const void *, size_t))dlsym(RTLD_NEXT, "write");
    if (fails(fd, "write")) return -1;
    if (!fails(fd, "torn")) return real(fd, buffer, length);
    int error = errno;
    (void)!real(fd, buffer, length / 2);
    errno = error;
    return -1;
}

ssize_t pwrite64(int fd, const void *buffer, size_t length, off64_t offset) {
    ssize_t (*real)(int, const void *, size_t, off64_t) =
        (ssize_t (*)(int, const void *, size_t, off64_t))dlsym(RTLD_NEXT, "pwrite64");
    if (fails(fd, "write")) return -1;
    if (!fails(fd, "torn")) return real(fd, buffer, length, offset);
    int error = errno;
    (void)!real(fd, buffer, length / 2, offset);
    errno = error;
    return -1;
}
