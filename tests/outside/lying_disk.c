/* A disk that lies, for the controls of power_check.py: loaded before the C library, it makes fdatasync and fsync
 * of files whose path contains $LYING_DISK do nothing and say that all is well. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int lies_about(int fd) {
    const char *part = getenv("LYING_DISK");
    char link[64], path[4096];
    if (part == NULL) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return strstr(path, part) != NULL;
}

static int pass_on(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fdatasync(int fd) { return lies_about(fd) ? 0 : pass_on("fdatasync", fd); }

int fsync(int fd) { return lies_about(fd) ? 0 : pass_on("fsync", fd); }
