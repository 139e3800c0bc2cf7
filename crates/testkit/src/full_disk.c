/* Loaded before the C library into a program whose disk a test fills: while the file that
 * TESTKIT_FULL_DISK names exists, no regular file below the directory written in it can grow. A call
 * that would make one grow fails with ENOSPC, as on a full disk; overwriting and reading go on. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

/* Whether a write that ends at `end` finds no room. Keeps errno. */
static int is_full(int fd, off_t end) {
    int kept = errno, full = 0;
    const char *mark = getenv("TESTKIT_FULL_DISK");
    int file = mark ? open(mark, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        char directory[4096], link[64], path[4096];
        ssize_t length = read(file, directory, sizeof directory);
        close(file);
        struct stat found;
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t known = readlink(link, path, sizeof path);
        full = length > 0 && known > length && memcmp(directory, path, length) == 0
            && fstat(fd, &found) == 0 && S_ISREG(found.st_mode) && end > found.st_size;
    }
    errno = kept;
    return full;
}

static off_t sum(const struct iovec *parts, int count) {
    off_t bytes = 0;
    for (int nth = 0; nth < count; nth++) bytes += parts[nth].iov_len;
    return bytes;
}

#define REFUSE_IF_FULL(end) \
    if (is_full(fd, (end))) { errno = ENOSPC; return -1; }

ssize_t write(int fd, const void *data, size_t bytes) {
    if (fd > 2) REFUSE_IF_FULL(lseek(fd, 0, SEEK_CUR) + (off_t)bytes)
    return NEXT(write)(fd, data, bytes);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t at) {
    REFUSE_IF_FULL(at + (off_t)bytes)
    return NEXT(pwrite)(fd, data, bytes, at);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t at) {
    REFUSE_IF_FULL(at + (off_t)bytes)
    return NEXT(pwrite64)(fd, data, bytes, at);
}

ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t at) {
    REFUSE_IF_FULL(at + sum(parts, count))
    return NEXT(pwritev)(fd, parts, count, at);
}

ssize_t pwritev64(int fd, const struct iovec *parts, int count, off64_t at) {
    REFUSE_IF_FULL(at + sum(parts, count))
    return NEXT(pwritev64)(fd, parts, count, at);
}

/* These two answer the number of the error. */
int posix_fallocate(int fd, off_t at, off_t bytes) {
    if (is_full(fd, at + bytes)) return ENOSPC;
    return NEXT(posix_fallocate)(fd, at, bytes);
}

int posix_fallocate64(int fd, off64_t at, off64_t bytes) {
    if (is_full(fd, at + bytes)) return ENOSPC;
    return NEXT(posix_fallocate64)(fd, at, bytes);
}
