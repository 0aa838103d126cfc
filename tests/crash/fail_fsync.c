/* Makes fsync and fdatasync fail with EIO while the file named by FAIL_FSYNC exists: all of them, or those
   of files whose path ends with FAIL_FSYNC_OF. For LD_PRELOAD. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_meant(int fd) {
    const char *end = getenv("FAIL_FSYNC_OF");
    if (end == NULL) {
        return 1;
    }
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path);
    ssize_t wanted = (ssize_t)strlen(end);
    return length >= wanted && memcmp(path + length - wanted, end, wanted) == 0;
}

static int sync_with(const char *name, int fd) {
    const char *file = getenv("FAIL_FSYNC");
    if (file != NULL && access(file, F_OK) == 0 && is_meant(fd)) {
        errno = EIO;
        return -1;
    }
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    return real(fd);
}

int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
