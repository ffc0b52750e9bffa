/* Lets each sync of a program take longer: LD_PRELOAD of PostgreSQL's processes.
 *
 * SLOW_SYNC_US has the microseconds that are added. The disk's own sync comes afterwards.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <time.h>

static void wait_as_told(void) {
    const char *text = getenv("SLOW_SYNC_US");
    long us = text == NULL ? 0 : atol(text);
    struct timespec rest = {us / 1000000, us % 1000000 * 1000};
    while (nanosleep(&rest, &rest) != 0) {
    }
}

int fsync(int fd) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fsync"))(fd);
}

int fdatasync(int fd) {
    wait_as_told();
    return ((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"))(fd);
}
