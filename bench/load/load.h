/* Shared by the loads: connections, and the frames that they receive.
 *
 * A program defines take_frame() and lost(), which are called from read_link().
 */
#ifndef LOAD_H
#define LOAD_H

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    READ_BYTES = 1 << 18,  /* one recv reads all that 64 messages can queue */
    REST_BYTES = 1 << 16,  /* the longest unfinished frame or response head */
    EVENTS = 1024,
    CONNECT_AT_ONCE = 64,  /* below every server's listen backlog */
    STALL_MS = 5000,       /* without a byte for this long, the other side hangs */
};

/* The first member of the struct that a program has for a connection. */
struct link {
    int fd; /* -1: there is none */
    int upgraded;
    unsigned char *rest;
    size_t rest_bytes;
};

static int epoll_fd, upgraded_count;
static uint64_t read_count;
static unsigned char buffer[REST_BYTES + READ_BYTES];

static void take_frame(struct link *link, int opcode, const unsigned char *payload, size_t bytes);

/* The connection has ended. A program that goes on must close it and set fd to -1. */
static void lost(struct link *link, const char *why);

__attribute__((noreturn, format(printf, 1, 2)))
static void fail(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1);
}

static uint64_t clock_ns(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t now_ns(void) { return clock_ns(CLOCK_MONOTONIC); }

static void pin(int cpu)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0) {
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
}

static int starts_with(const unsigned char *text, size_t bytes, const char *start)
{
    size_t length = strlen(start);
    return bytes >= length && memcmp(text, start, length) == 0;
}

/* The number after "offset":, which is first looked for at its last place. */
static int64_t read_offset(const unsigned char *text, size_t bytes)
{
    static const char key[] = "\"offset\":";
    static size_t place;
    const size_t length = sizeof key - 1;
    if (place + length > bytes || memcmp(text + place, key, length) != 0) {
        const unsigned char *found = memmem(text, bytes, key, length);
        if (!found)
            fail("a message without an offset: %.*s", (int)bytes, text);
        place = (size_t)(found - text);
    }
    int64_t value = 0;
    for (size_t at = place + length; at < bytes && text[at] >= '0' && text[at] <= '9'; at++)
        value = value * 10 + (text[at] - '0');
    return value;
}

static void answer_ping(struct link *link, const unsigned char *payload, size_t bytes)
{
    unsigned char frame[6 + 125] = {0x8a, (unsigned char)(0x80 | bytes)};
    memcpy(frame + 6, payload, bytes); /* the masking key is four zeros */
    if (send(link->fd, frame, 6 + bytes, MSG_NOSIGNAL) < 0)
        lost(link, "a pong could not be sent");
}

/* Handle every complete frame (RFC 6455 section 5.2); return the bytes used. */
static size_t take_frames(struct link *link, const unsigned char *data, size_t bytes)
{
    size_t at = 0;
    while (bytes - at >= 2 && link->fd >= 0) {
        const unsigned char *frame = data + at;
        size_t length = frame[1] & 127, head = 2, left = bytes - at;
        if ((frame[0] & 0xf0) != 0x80 || frame[1] & 0x80)
            fail("a frame that is fragmented, masked or has reserved bits: %02x %02x",
                 frame[0], frame[1]);
        if (length == 126) {
            if (left < 4)
                break;
            length = (size_t)frame[2] << 8 | frame[3];
            head = 4;
        } else if (length == 127) {
            if (left < 10)
                break;
            length = 0;
            for (head = 2; head < 10; head++)
                length = length << 8 | frame[head];
        }
        if (left - head < length)
            break;
        take_frame(link, frame[0] & 15, frame + head, length);
        at += head + length;
    }
    return at;
}

static size_t take_head(struct link *link, const unsigned char *data, size_t bytes)
{
    const unsigned char *end = memmem(data, bytes, "\r\n\r\n", 4);
    if (!end)
        return 0;
    if (!starts_with(data, bytes, "HTTP/1.1 101")) {
        lost(link, "the server refused the upgrade");
        return 0;
    }
    link->upgraded = 1;
    upgraded_count++;
    return (size_t)(end - data) + 4;
}

/* One recv a turn: epoll is level-triggered, so it reports the rest again. */
static void read_link(struct link *link)
{
    unsigned char *start = buffer + REST_BYTES - link->rest_bytes;
    ssize_t got = recv(link->fd, buffer + REST_BYTES, READ_BYTES, MSG_DONTWAIT);
    if (got < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (got <= 0) {
        lost(link, got ? strerror(errno) : "end of stream");
        return;
    }
    read_count++;
    if (link->rest_bytes)
        memcpy(start, link->rest, link->rest_bytes);
    size_t bytes = link->rest_bytes + (size_t)got, used = 0;
    if (!link->upgraded)
        used = take_head(link, start, bytes);
    if (link->upgraded)
        used += take_frames(link, start + used, bytes - used);
    if (link->fd < 0)
        return;
    link->rest_bytes = bytes - used;
    if (link->rest_bytes > REST_BYTES)
        fail("a frame of more than %d bytes", REST_BYTES);
    if (link->rest_bytes) {
        link->rest = realloc(link->rest, link->rest_bytes);
        memcpy(link->rest, start + used, link->rest_bytes);
    }
}

static void watch(int fd, uint32_t events, void *data)
{
    struct epoll_event event = {.events = events, .data.ptr = data};
    if (epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
        fail("epoll: %s", strerror(errno));
}

/* Send an upgrade request; false if it could not be sent. */
static int ask_for_upgrade(int fd, int port, const char *path)
{
    char request[512];
    int bytes = snprintf(request, sizeof request,
                         "GET %s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\n"
                         "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
                         "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", path, port);
    return send(fd, request, (size_t)bytes, MSG_NOSIGNAL) == bytes;
}

/* Write a text frame of a client to `frame`; return its length. */
static size_t mask_text(unsigned char *frame, const char *payload, size_t bytes)
{
    static const unsigned char mask[4] = {0x37, 0xfa, 0x21, 0x3d};
    size_t head = bytes < 126 ? 2 : 4;
    frame[0] = 0x81;
    frame[1] = (unsigned char)(0x80 | (bytes < 126 ? bytes : 126));
    if (head == 4) {
        frame[2] = (unsigned char)(bytes >> 8);
        frame[3] = (unsigned char)bytes;
    }
    memcpy(frame + head, mask, 4);
    for (size_t at = 0; at < bytes; at++)
        frame[head + 4 + at] = (unsigned char)payload[at] ^ mask[at & 3];
    return head + 4 + bytes;
}

/* A window of equal messages of 100 bytes of text, and one more. Therefore a stream of
 * them can continue from any byte of a message. */
static unsigned char *outgoing;
static size_t frame_bytes;

static void prepare_frames(int window)
{
    char payload[160];
    int bytes = snprintf(payload, sizeof payload, "{\"type\":\"message\",\"text\":\"%.*s\"}", 100,
                         "One hundred bytes of text, as long as a chat message commonly is: "
                         "not a greeting, and not a novel either.....");
    frame_bytes = 8 + (size_t)bytes;
    outgoing = malloc(frame_bytes * (size_t)(window + 1));
    for (int i = 0; i <= window; i++)
        mask_text(outgoing + (size_t)i * frame_bytes, payload, (size_t)bytes);
}

/* Send the next bytes of the stream. The frames are equal, so the only position is that
 * inside a frame. Bytes that the socket does not take are sent in the next turn. */
static int send_frames(int fd, uint64_t *sent_bytes, uint64_t due_bytes)
{
    while (*sent_bytes < due_bytes) {
        ssize_t got = send(fd, outgoing + *sent_bytes % frame_bytes, due_bytes - *sent_bytes,
                           MSG_DONTWAIT | MSG_NOSIGNAL);
        if (got < 0 && errno == EAGAIN)
            return 0;
        if (got < 0)
            fail("the sender lost its connection: %s", strerror(errno));
        *sent_bytes += (uint64_t)got;
    }
    return 1;
}

#endif
