/* The floor: the cost of a bare loop of send() over the same sockets.
 *
 * The time is measured here, so that it excludes the call from Python into C.
 */
#include <stdint.h>
#include <sys/socket.h>
#include <time.h>

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Send `bytes` of data to each socket; return nanoseconds, or -1 if a socket is full. */
int64_t send_to_all(const int *sockets, int count, const char *data, int64_t bytes)
{
    int64_t started = now_ns();
    for (int i = 0; i < count; i++)
        if (send(sockets[i], data, (size_t)bytes, MSG_DONTWAIT | MSG_NOSIGNAL) != bytes)
            return -1;
    return now_ns() - started;
}
