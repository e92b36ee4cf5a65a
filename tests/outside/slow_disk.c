/* A disk that is slow or does not come back, for disk_check.py: loaded before the C library, it makes fdatasync and fsync of
 * files whose path contains $SLOW_DISK, and reads at a place of files whose path contains $SLOW_DISK_READS, take
 * $SLOW_DISK_MILLISECONDS longer, or ten minutes, as long as the file $SLOW_DISK_SWITCH exists. The first that is held leaves
 * $SLOW_DISK_SWITCH.held. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void wait_if_slow(int fd, const char *which) {
    const char *part = getenv(which), *on = getenv("SLOW_DISK_SWITCH");
    char link[64], path[4096];
    if (part == NULL || on == NULL || access(on, F_OK) != 0) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return;
    path[length] = 0;
    if (strstr(path, part) == NULL) return;
    snprintf(path, sizeof path, "%s.held", on);
    int held = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    if (held >= 0) close(held);
    const char *milliseconds = getenv("SLOW_DISK_MILLISECONDS");
    if (milliseconds == NULL) sleep(600);
    else usleep(1000 * atoi(milliseconds));
}

static int pass_on(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fdatasync(int fd) {
    wait_if_slow(fd, "SLOW_DISK");
    return pass_on("fdatasync", fd);
}

int fsync(int fd) {
    wait_if_slow(fd, "SLOW_DISK");
    return pass_on("fsync", fd);
}

ssize_t pread64(int fd, void *buffer, size_t length, off64_t offset) {
    ssize_t (*real)(int, void *, size_t, off64_t) = (ssize_t (*)(int, void *, size_t, off64_t))dlsym(RTLD_NEXT, "pread64");
    wait_if_slow(fd, "SLOW_DISK_READS");
    return real(fd, buffer, length, offset);
}
