/* The other end of the benchmark: many WebSocket clients in one process.
 *
 *   drain receive PORT CLIENTS CPU HANDSHAKE MODULUS PAGE_FD EVENT_FD
 *   drain chat    PORT CLIENTS CPU WINDOW WARMUP_MS MEASURE_MS LATENCIES SERVER_PID RATE
 *
 * "receive" only reads. Through a shared page, it reports how many messages ALL
 * clients have received and when the last of them arrived. It signals an eventfd
 * when that number changes. It ends when its standard input ends. "chat" joins a
 * room of a fastchat server, keeps WINDOW messages in flight, and prints one line
 * of JSON. If RATE is not 0, it sends so many messages a second, as long as not more
 * than WINDOW of them are in flight.
 *
 * Both block in epoll, as a real reader does: a spinning reader would make the
 * sender look faster than it is. Both walk every frame header of every client
 * and check that the number after "offset": rises by one. Therefore a lost,
 * doubled or reordered message ends the run, instead of improving the figures.
 *
 * Linux only (epoll, eventfd). Loopback only.
 */
#define _GNU_SOURCE
#include "load.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum {
    TALLIES = 4096,    /* a power of two above any window */
    LIFETIME_S = 240,  /* SIGALRM ends the program after this time */
};

/* The page shared with the benchmark; bench/load/drain.py reads these slots. */
struct page {
    _Atomic uint64_t ready;      /* clients connected (and upgraded) */
    _Atomic uint64_t completed;  /* the number of messages that all clients have */
    _Atomic uint64_t last_ns;    /* the time when the newest of them was complete */
    _Atomic uint64_t signalling; /* 1: write to the eventfd when it changes */
};

struct client {
    struct link link;
    uint64_t received; /* messages */
    int64_t offset;    /* of the newest message, -1 before the first */
};

static struct client *clients;
static int client_count, joined_count;
static int is_chat;
static int64_t modulus, first_offset = -1;
static uint64_t deliveries, completed, completed_ns;
static uint32_t tally[TALLIES];

/* ---- frames ------------------------------------------------------------ */

static void take_message(struct client *client, const unsigned char *text, size_t bytes)
{
    int64_t offset = read_offset(text, bytes), expected = client->offset + 1;
    if (modulus && expected == modulus)
        expected = 0;
    if (client->offset < 0) {
        if (first_offset < 0)
            first_offset = offset;
        expected = first_offset;
    }
    if (offset != expected)
        fail("client %d received offset %lld instead of %lld",
             (int)(client - clients), (long long)offset, (long long)expected);
    client->offset = offset;
    deliveries++;
    uint64_t number = ++client->received;
    uint32_t *count = &tally[number % TALLIES];
    if (++*count == (uint32_t)client_count) {
        *count = 0;
        completed = number;
        completed_ns = now_ns();
    }
}

static void take_frame(struct link *link, int opcode, const unsigned char *payload, size_t bytes)
{
    struct client *client = (struct client *)link;
    if (opcode == 9)
        answer_ping(link, payload, bytes);
    else if (opcode == 8)
        fail("the server closed client %d with %d %.*s", (int)(client - clients),
             bytes > 1 ? payload[0] << 8 | payload[1] : 1005,
             bytes > 2 ? (int)bytes - 2 : 0, (const char *)payload + 2);
    else if (starts_with(payload, bytes, "{\"type\":\"message\""))
        take_message(client, payload, bytes);
    else if (starts_with(payload, bytes, "{\"type\":\"joined\""))
        joined_count++;
    else if (!is_chat || starts_with(payload, bytes, "{\"type\":\"error\""))
        fail("client %d received %.*s", (int)(client - clients), (int)bytes, payload);
}

static void lost(struct link *link, const char *why)
{
    fail("client %d lost its connection: %s", (int)((struct client *)link - clients), why);
}

/* Wait at most timeout_ms, and read what has arrived; false if nothing has. */
static int turn(int timeout_ms)
{
    static struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++) {
        if (!events[i].data.ptr)
            exit(0); /* standard input has ended: the benchmark is over */
        read_link(events[i].data.ptr);
    }
    return count > 0;
}

/* ---- connections ------------------------------------------------------- */

static void connect_client(struct client *client, int port, const char *path)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int one = 1;
    client->offset = -1;
    int fd = client->link.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (void *)&address, sizeof address) < 0)
        fail("client %d could not connect: %s", (int)(client - clients), strerror(errno));
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    watch(fd, EPOLLIN, client);
    if (!path) {
        client->link.upgraded = 1;
        upgraded_count++;
        return;
    }
    if (!ask_for_upgrade(fd, port, path))
        fail("an upgrade request could not be sent: %s", strerror(errno));
}

static void connect_all(int port, int handshake)
{
    clients = calloc((size_t)client_count, sizeof *clients);
    for (int i = 0; i < client_count; i++) {
        char path[128];
        if (is_chat)
            snprintf(path, sizeof path, "/ws?username=u%d&room=bench&history=0", i);
        else
            strcpy(path, "/");
        connect_client(&clients[i], port, handshake ? path : NULL);
        while (upgraded_count < i + 1 - CONNECT_AT_ONCE || (i + 1 == client_count
               && upgraded_count < client_count))
            if (!turn(STALL_MS))
                fail("only %d of %d upgrades were answered", upgraded_count, client_count);
    }
}

/* ---- receive ----------------------------------------------------------- */

static void receive(struct page *page, int event_fd)
{
    const uint64_t one = 1;
    watch(STDIN_FILENO, EPOLLIN, NULL);
    atomic_store(&page->ready, (uint64_t)client_count);
    if (write(event_fd, &one, sizeof one) < 0)
        fail("eventfd: %s", strerror(errno));
    for (uint64_t told = 0;;) {
        turn(-1);
        if (completed == told)
            continue;
        told = completed;
        atomic_store(&page->last_ns, completed_ns);
        atomic_store(&page->completed, told);
        if (atomic_load(&page->signalling) && write(event_fd, &one, sizeof one) < 0)
            fail("eventfd: %s", strerror(errno));
    }
}

/* ---- chat -------------------------------------------------------------- */

static uint64_t sent_bytes, due_bytes;

static int send_due(void)
{
    return send_frames(clients[0].link.fd, &sent_bytes, due_bytes);
}

/* Keep `window` messages in flight until a time. With a rate, send those that are due. */
static void keep_under_way(uint64_t window, uint64_t rate, uint64_t until_ns)
{
    uint64_t started = now_ns(), idle_since = started, begun = due_bytes / frame_bytes;
    for (;;) {
        uint64_t due = completed + window;
        if (rate) {
            uint64_t paced = begun + (now_ns() - started) * rate / 1000000000u;
            due = paced < due ? paced : due;
        }
        due_bytes = due * frame_bytes;
        int all_sent = send_due();
        if (turn(all_sent && !rate ? 100 : 1))
            idle_since = now_ns();
        uint64_t now = now_ns();
        if (now >= until_ns)
            return;
        if (now - idle_since > STALL_MS * 1000000ull)
            fail("nothing arrived for %d ms with %llu messages complete", STALL_MS,
                 (unsigned long long)completed);
    }
}

static void await_sent(void)
{
    while (completed * frame_bytes < due_bytes) {
        int all_sent = send_due();
        if (!turn(all_sent ? STALL_MS : 1) && all_sent)
            fail("the last messages did not arrive: %llu complete, %llu sent",
                 (unsigned long long)completed, (unsigned long long)(due_bytes / frame_bytes));
    }
}

/* CPU time of the server's main thread; 0 if it cannot be read. */
static uint64_t server_cpu_ns(int pid)
{
    char path[64];
    unsigned long long spent = 0;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "r");
    if (file) {
        if (fscanf(file, "%llu", &spent) != 1)
            spent = 0;
        fclose(file);
    }
    return spent;
}

static void print_latencies(int count)
{
    printf("\"latencies_ns\":[");
    for (int i = 0; i < count; i++) {
        uint64_t started = now_ns();
        due_bytes += frame_bytes;
        await_sent();
        printf("%s%llu", i ? "," : "", (unsigned long long)(completed_ns - started));
    }
    printf("]");
}

static void check_all_received(void)
{
    for (int i = 0; i < client_count; i++)
        if (clients[i].received != completed || clients[i].link.rest_bytes)
            fail("client %d received %llu messages of %llu", i,
                 (unsigned long long)clients[i].received, (unsigned long long)completed);
}

static void chat(int window, int warmup_ms, int measure_ms, int latencies, int server_pid,
                 uint64_t rate)
{
    while (joined_count < client_count)
        if (!turn(STALL_MS))
            fail("only %d of %d clients joined", joined_count, client_count);
    prepare_frames(window);
    keep_under_way((uint64_t)window, rate, now_ns() + (uint64_t)warmup_ms * 1000000);

    uint64_t delivered = deliveries, messages = completed, reads = read_count;
    uint64_t own = clock_ns(CLOCK_PROCESS_CPUTIME_ID), server = server_cpu_ns(server_pid);
    uint64_t started = now_ns();
    keep_under_way((uint64_t)window, rate, started + (uint64_t)measure_ms * 1000000);
    uint64_t elapsed = now_ns() - started;
    delivered = deliveries - delivered;
    messages = completed - messages;
    reads = read_count - reads;
    own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    server = server_cpu_ns(server_pid) - server;
    await_sent();

    printf("{\"elapsed_ns\":%llu,\"deliveries\":%llu,\"messages\":%llu,\"reads\":%llu,"
           "\"load_cpu_ns\":%llu,\"server_cpu_ns\":%llu,", (unsigned long long)elapsed,
           (unsigned long long)delivered, (unsigned long long)messages,
           (unsigned long long)reads, (unsigned long long)own, (unsigned long long)server);
    print_latencies(latencies);
    check_all_received();
    printf(",\"verified\":%llu}\n", (unsigned long long)deliveries);
}

/* ------------------------------------------------------------------------ */

int main(int count, char **arguments)
{
    int numbers[11] = {0};
    for (int i = 2; i < count && i < 11; i++)
        numbers[i] = atoi(arguments[i]);
    is_chat = count == 11 && strcmp(arguments[1], "chat") == 0;
    if (!is_chat && (count != 9 || strcmp(arguments[1], "receive") != 0))
        fail("this program is run by bench/broadcast.py");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(LIFETIME_S);
    pin(numbers[4]);
    client_count = numbers[3];
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (is_chat) {
        connect_all(numbers[2], 1);
        chat(numbers[5], numbers[6], numbers[7], numbers[8], numbers[9],
             (uint64_t)numbers[10]);
        return 0;
    }
    struct page *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, numbers[7], 0);
    if (page == MAP_FAILED)
        fail("mmap: %s", strerror(errno));
    modulus = numbers[6];
    connect_all(numbers[2], numbers[5]);
    receive(page, numbers[8]);
}
