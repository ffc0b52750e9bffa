/* The clients of a server with several processes, or of several: many rooms, one process.
 *
 *   crowd rooms PORT,PORT,... CPU CLIENTS MEMBERS WINDOW WARMUP_MS MEASURE_MS PID,PID,...
 *   crowd hop   PORT,PORT,... CPU CLIENTS MEMBERS MESSAGES
 *   crowd join  PORT,PORT,... CPU CLIENTS MEMBERS
 *   crowd idle  PORT,PORT,... CPU CLIENTS MEMBERS MISSED
 *
 * CLIENTS are spread over rooms of MEMBERS, and connect to the ports in turn. "rooms" keeps WINDOW messages in flight in
 * all rooms together, and prints one line of JSON with the CPU time of each PID.
 *
 * "hop" connects, prints the ports of the clients, and reads a line with the numbers of
 * the MEMBERS clients that join. The first of them sends. Then it prints, for each
 * message, the time until all members had it, with one message in flight.
 *
 * "join" connects, lets one client after the other join, and prints for each the time until
 * it had the answer.
 *
 * "idle" joins, has MISSED messages published in each room, reports that, and obeys the
 * commands on its standard input until the input ends. After "storm" it expects to lose
 * its connections, and reports how they came back. Each client comes back like a page
 * that has seen none of the MISSED messages. If there are several ports, all clients connect
 * to the first, and come back to the others.
 *
 * As in drain.c, the offsets of each client must rise by one. Linux only. Loopback only.
 */
#define _GNU_SOURCE
#include "load.h"

#include <dirent.h>
#include <signal.h>
#include <sys/prctl.h>

enum {
    TALLIES = 256,          /* a power of two above any window */
    LIFETIME_S = 600,       /* SIGALRM ends the program after this time */
    SOURCES = 8,            /* addresses from 127.0.0.1 on: each has its own ports */
    BACKOFF_FIRST_MS = 250,
    BACKOFF_LIMIT_MS = 15000,
    ATTEMPT_MS = 10000,     /* a page gives up an attempt after this time */
    STORM_MS = 60000,
    SCAN_MS = 5,
    SETTLE_MS = 200,
    JOIN_PAUSE_MS = 2,      /* until all members have heard of a join */
    WARM_UP = 50,
    PIDS = 64,
    PORTS = 16,
};

struct room {
    int64_t first_offset; /* the first that a member has seen, -1 before */
    uint64_t completed;   /* the number of messages that all members have */
    uint64_t sent_bytes, due_bytes;
    struct client *sender;
    uint32_t tally[TALLIES];
    char epoch[64];
};

enum phase { NEW, JOINED, WAITING, CONNECTING, UPGRADING, JOINING };

struct client {
    struct link link;
    struct room *room;
    enum phase phase;
    uint64_t received;  /* messages */
    int64_t offset;     /* of the newest message, -1 before the first */
    uint64_t due_ns;    /* WAITING: time of the next attempt; later: its deadline */
    uint64_t joined_ns;
    int attempts;       /* failed attempts in a row */
    char session[72];
};

static struct client *clients;
static struct room *rooms;
static int client_count, member_count, room_count;
static int ports[PORTS], port_count, first_port;
static int joined_count;
static uint64_t deliveries, completed, completed_ns;

/* Counts of a storm. */
static int in_storm, cut_count, attempt_count, failure_count, recovered_count, missed_count;
static char first_failure[160];

/* ---- received messages ------------------------------------------------- */

static void take_message(struct client *client, const unsigned char *text, size_t bytes)
{
    struct room *room = client->room;
    int64_t offset = read_offset(text, bytes);
    if (room->first_offset < 0)
        room->first_offset = offset;
    int64_t expected = client->offset < 0 ? room->first_offset : client->offset + 1;
    if (offset != expected)
        fail("client %d received offset %lld instead of %lld",
             (int)(client - clients), (long long)offset, (long long)expected);
    client->offset = offset;
    deliveries++;
    uint64_t number = ++client->received;
    uint32_t *count = &room->tally[number % TALLIES];
    if (++*count == (uint32_t)member_count) {
        *count = 0;
        room->completed = number;
        completed++;
        completed_ns = now_ns();
    }
}

static void copy_string(char *target, size_t room, const unsigned char *text, size_t bytes,
                        const char *key)
{
    const unsigned char *found = memmem(text, bytes, key, strlen(key));
    const unsigned char *start = found ? found + strlen(key) : NULL;
    const unsigned char *end = found ? memchr(start, '"', bytes - (size_t)(start - text)) : NULL;
    if (!end || (size_t)(end - start) >= room)
        fail("no %s in %.*s", key, (int)bytes, text);
    memcpy(target, start, (size_t)(end - start));
    target[end - start] = 0;
}

static void take_joined(struct client *client, const unsigned char *text, size_t bytes)
{
    static const char message[] = "{\"type\":\"message\"";
    if (in_storm) {
        recovered_count += memmem(text, bytes, "\"recovered\":true", 16) != NULL;
        const unsigned char *at = text, *end = text + bytes;
        while ((at = memmem(at, (size_t)(end - at), message, sizeof message - 1))) {
            missed_count++;
            at++;
        }
    } else {
        copy_string(client->session, sizeof client->session, text, bytes, "\"session\":\"");
        copy_string(client->room->epoch, sizeof client->room->epoch, text, bytes, "\"epoch\":\"");
    }
    client->phase = JOINED;
    client->joined_ns = now_ns();
    client->attempts = 0;
    joined_count++;
}

static void take_frame(struct link *link, int opcode, const unsigned char *payload, size_t bytes)
{
    struct client *client = (struct client *)link;
    char why[128];
    if (opcode == 9) {
        answer_ping(link, payload, bytes);
    } else if (opcode == 8) {
        snprintf(why, sizeof why, "closed with %d %.*s",
                 bytes > 1 ? payload[0] << 8 | payload[1] : 1005,
                 bytes > 2 ? (int)bytes - 2 : 0, (const char *)payload + 2);
        lost(link, why);
    } else if (starts_with(payload, bytes, "{\"type\":\"message\"")) {
        take_message(client, payload, bytes);
    } else if (starts_with(payload, bytes, "{\"type\":\"joined\"")) {
        take_joined(client, payload, bytes);
    } else if (starts_with(payload, bytes, "{\"type\":\"error\"")) {
        snprintf(why, sizeof why, "%.*s", (int)bytes, payload);
        lost(link, why);
    }
}

/* ---- connections ------------------------------------------------------- */

static int open_socket(struct client *client, int flags)
{
    struct sockaddr_in source = {.sin_family = AF_INET};
    int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
    if (fd < 0)
        fail("client %d has no socket: %s", (int)(client - clients), strerror(errno));
    source.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)((client - clients) % SOURCES));
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (bind(fd, (void *)&source, sizeof source) < 0)
        fail("client %d has no address: %s", (int)(client - clients), strerror(errno));
    return fd;
}

/* The clients share the ports from first_port on. */
static int port_of(const struct client *client)
{
    return ports[first_port + (int)(client - clients) % (port_count - first_port)];
}

static int connect_socket(int fd, int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return connect(fd, (void *)&address, sizeof address);
}

static void connect_client(struct client *client, const char *path)
{
    int port = port_of(client), fd = client->link.fd = open_socket(client, 0);
    if (connect_socket(fd, port) < 0 || !ask_for_upgrade(fd, port, path))
        fail("client %d could not connect: %s", (int)(client - clients), strerror(errno));
    watch(fd, EPOLLIN, client);
}

static void disconnect(struct client *client)
{
    close(client->link.fd);
    client->link.fd = -1;
    client->link.upgraded = 0;
    client->link.rest_bytes = 0;
}

static void send_join(struct client *client, int64_t since)
{
    unsigned char frame[400];
    char payload[384], place[224] = "";
    if (since >= 0)
        snprintf(place, sizeof place,
                 ",\"session\":\"%s\",\"since\":{\"epoch\":\"%s\",\"offset\":%lld}",
                 client->session, client->room->epoch, (long long)since);
    int bytes = snprintf(payload, sizeof payload,
                         "{\"type\":\"join\",\"room\":\"r%d\",\"username\":\"u%d\",\"history\":0%s}",
                         (int)(client->room - rooms), (int)(client - clients), place);
    size_t length = mask_text(frame, payload, (size_t)bytes);
    if (send(client->link.fd, frame, length, MSG_NOSIGNAL) != (ssize_t)length)
        lost(&client->link, "a join could not be sent");
}

static void finish_connecting(struct client *client)
{
    int error = 0;
    socklen_t size = sizeof error;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
    getsockopt(client->link.fd, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error || !ask_for_upgrade(client->link.fd, port_of(client), "/ws")) {
        lost(&client->link, strerror(error ? error : errno));
        return;
    }
    epoll_ctl(epoll_fd, EPOLL_CTL_MOD, client->link.fd, &event);
    client->phase = UPGRADING;
}

static void on_event(struct client *client)
{
    if (client->phase == CONNECTING) {
        finish_connecting(client);
        return;
    }
    read_link(&client->link);
    if (client->phase == UPGRADING && client->link.upgraded) {
        client->phase = JOINING;
        send_join(client, client->room->first_offset - 1);
    }
}

/* Wait at most timeout_ms, and read what has arrived; false if nothing has. */
static int turn(int timeout_ms)
{
    static struct epoll_event events[EVENTS];
    int count = epoll_wait(epoll_fd, events, EVENTS, timeout_ms);
    for (int i = 0; i < count; i++)
        on_event(events[i].data.ptr);
    return count > 0;
}

/* Clients join at once, by the address, or later, by a command. */
static void connect_all(int join)
{
    for (int i = 0; i < client_count; i++) {
        char path[128] = "/ws";
        struct client *client = &clients[i];
        if (join)
            snprintf(path, sizeof path, "/ws?username=u%d&room=r%d&history=0", i,
                     (int)(client->room - rooms));
        connect_client(client, path);
        int *done = join ? &joined_count : &upgraded_count;
        while (*done < i + 1 - CONNECT_AT_ONCE || (i + 1 == client_count && *done < client_count))
            if (!turn(STALL_MS))
                fail("only %d of %d clients are connected", *done, client_count);
    }
}

/* ---- messages ---------------------------------------------------------- */

static int send_due(void)
{
    int all = 1;
    for (int i = 0; i < room_count; i++)
        all &= send_frames(rooms[i].sender->link.fd, &rooms[i].sent_bytes, rooms[i].due_bytes);
    return all;
}

static void keep_under_way(uint64_t window, uint64_t until_ns)
{
    uint64_t idle_since = now_ns();
    for (;;) {
        for (int i = 0; i < room_count; i++)
            rooms[i].due_bytes = (rooms[i].completed + window) * frame_bytes;
        int all_sent = send_due();
        if (turn(all_sent ? 100 : 1))
            idle_since = now_ns();
        uint64_t now = now_ns();
        if (now >= until_ns)
            return;
        if (now - idle_since > STALL_MS * 1000000ull)
            fail("nothing arrived for %d ms with %llu messages complete", STALL_MS,
                 (unsigned long long)completed);
    }
}

static int is_complete(void)
{
    for (int i = 0; i < room_count; i++)
        if (rooms[i].completed * frame_bytes < rooms[i].due_bytes)
            return 0;
    return 1;
}

static void await_sent(void)
{
    while (!is_complete()) {
        int all_sent = send_due();
        if (!turn(all_sent ? STALL_MS : 1) && all_sent)
            fail("the last messages did not arrive: %llu complete", (unsigned long long)completed);
    }
}

static void publish(int messages)
{
    for (int i = 0; i < room_count; i++)
        rooms[i].due_bytes += (uint64_t)messages * frame_bytes;
    await_sent();
}

/* Wait until the events of the last joins have arrived. */
static void settle(int for_ms)
{
    uint64_t until = now_ns() + (uint64_t)for_ms * 1000000;
    while (now_ns() < until)
        turn(SCAN_MS);
}

/* CPU time of all threads of a process; 0 if it cannot be read. */
static uint64_t process_cpu_ns(int pid)
{
    char path[320];
    uint64_t sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        unsigned long long spent;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = task->d_name[0] == '.' ? NULL : fopen(path, "r");
        if (file && fscanf(file, "%llu", &spent) == 1)
            sum += spent;
        if (file)
            fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

static void measure_rooms(int window, int warmup_ms, int measure_ms, char *pids)
{
    uint64_t share = (uint64_t)(window / room_count > 0 ? window / room_count : 1);
    int pid[PIDS], count = 0;
    uint64_t spent[PIDS];
    for (char *one = strtok(pids, ","); one && count < PIDS; one = strtok(NULL, ","))
        pid[count++] = atoi(one);
    settle(SETTLE_MS);
    keep_under_way(share, now_ns() + (uint64_t)warmup_ms * 1000000);

    for (int i = 0; i < count; i++)
        spent[i] = process_cpu_ns(pid[i]);
    uint64_t delivered = deliveries, messages = completed, reads = read_count;
    uint64_t own = clock_ns(CLOCK_PROCESS_CPUTIME_ID), started = now_ns();
    keep_under_way(share, started + (uint64_t)measure_ms * 1000000);
    uint64_t elapsed = now_ns() - started;
    own = clock_ns(CLOCK_PROCESS_CPUTIME_ID) - own;
    delivered = deliveries - delivered;
    messages = completed - messages;
    reads = read_count - reads;
    for (int i = 0; i < count; i++)
        spent[i] = process_cpu_ns(pid[i]) - spent[i];
    await_sent();

    printf("{\"elapsed_ns\":%llu,\"deliveries\":%llu,\"messages\":%llu,\"reads\":%llu,"
           "\"load_cpu_ns\":%llu,\"cpu_ns\":[", (unsigned long long)elapsed,
           (unsigned long long)delivered, (unsigned long long)messages,
           (unsigned long long)reads, (unsigned long long)own);
    for (int i = 0; i < count; i++)
        printf("%s%llu", i ? "," : "", (unsigned long long)spent[i]);
    printf("]}\n");
}

static void measure_hop(int messages)
{
    char line[4096];
    printf("{\"ports\":[");
    for (int i = 0; i < client_count; i++) {
        struct sockaddr_in own;
        socklen_t size = sizeof own;
        getsockname(clients[i].link.fd, (void *)&own, &size);
        printf("%s%d", i ? "," : "", ntohs(own.sin_port));
    }
    printf("]}\n");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        fail("standard input names no clients that join");
    rooms[0].sender = NULL;
    for (char *one = strtok(line, " \n"); one; one = strtok(NULL, " \n")) {
        struct client *client = &clients[atoi(one)];
        int before = joined_count;
        if (!rooms[0].sender)
            rooms[0].sender = client;
        send_join(client, -1);
        while (joined_count == before)
            if (!turn(STALL_MS))
                fail("a client could not join");
    }
    for (int i = 0; i < client_count; i++)
        if (clients[i].phase != JOINED)
            disconnect(&clients[i]);
    settle(SETTLE_MS);
    for (int i = 0; i < WARM_UP; i++)
        publish(1);
    printf("{\"latencies_ns\":[");
    for (int i = 0; i < messages; i++) {
        uint64_t started = now_ns();
        publish(1);
        printf("%s%llu", i ? "," : "", (unsigned long long)(completed_ns - started));
    }
    printf("]}\n");
}

static void measure_join(void)
{
    settle(SETTLE_MS);
    printf("{\"latencies_ns\":[");
    for (int i = 0; i < client_count; i++) {
        uint64_t started = now_ns();
        send_join(&clients[i], -1);
        while (clients[i].phase != JOINED)
            if (!turn(STALL_MS))
                fail("client %d could not join", i);
        printf("%s%llu", i ? "," : "", (unsigned long long)(clients[i].joined_ns - started));
        settle(JOIN_PAUSE_MS);
    }
    printf("]}\n");
}

/* ---- idle, and storms -------------------------------------------------- */

static void lost(struct link *link, const char *why)
{
    struct client *client = (struct client *)link;
    if (!in_storm)
        fail("client %d lost its connection: %s", (int)(client - clients), why);
    if (client->phase == JOINED) {
        joined_count--;
        cut_count++;
    } else {
        if (!failure_count++)
            snprintf(first_failure, sizeof first_failure, "%s", why);
        client->attempts++;
    }
    disconnect(client);
    int limit_ms = BACKOFF_FIRST_MS << (client->attempts < 10 ? client->attempts : 10);
    if (limit_ms > BACKOFF_LIMIT_MS)
        limit_ms = BACKOFF_LIMIT_MS;
    client->phase = WAITING;
    client->due_ns = now_ns() + (uint64_t)(limit_ms * 1e6 * (0.5 + drand48() / 2));
}

static void try_again(struct client *client)
{
    attempt_count++;
    client->link.fd = open_socket(client, SOCK_NONBLOCK);
    client->phase = CONNECTING;
    client->due_ns = now_ns() + ATTEMPT_MS * 1000000ull;
    if (connect_socket(client->link.fd, port_of(client)) < 0 && errno != EINPROGRESS)
        lost(&client->link, strerror(errno));
    else
        watch(client->link.fd, EPOLLOUT, client);
}

static void look_at_clocks(void)
{
    uint64_t now = now_ns();
    for (struct client *client = clients; client < clients + client_count; client++) {
        if (client->phase == JOINED || client->due_ns > now)
            continue;
        if (client->phase == WAITING)
            try_again(client);
        else
            lost(&client->link, "an attempt took too long");
    }
}

static int by_time(const void *one, const void *other)
{
    uint64_t a = *(const uint64_t *)one, b = *(const uint64_t *)other;
    return (a > b) - (a < b);
}

static void print_storm(void)
{
    uint64_t *times = calloc((size_t)client_count, sizeof *times);
    for (int i = 0; i < client_count; i++)
        times[i] = clients[i].joined_ns;
    qsort(times, (size_t)client_count, sizeof *times, by_time);
    for (char *at = first_failure; *at; at++)
        if (*at == '"' || *at == '\\' || *at < ' ')
            *at = '\'';
    printf("{\"joined\":%d,\"half_ns\":%llu,\"most_ns\":%llu,\"all_ns\":%llu,\"attempts\":%d,"
           "\"failures\":%d,\"recovered\":%d,\"missed\":%d,\"first_failure\":\"%s\"}\n",
           joined_count, (unsigned long long)times[(client_count - 1) / 2],
           (unsigned long long)times[(client_count * 99 - 1) / 100],
           (unsigned long long)times[client_count - 1], attempt_count, failure_count,
           recovered_count, missed_count, first_failure);
    fflush(stdout);
    free(times);
}

/* Wait until all clients are back. The benchmark cuts the connections. */
static void storm(void)
{
    in_storm = 1;
    first_port = port_count > 1;
    cut_count = attempt_count = failure_count = recovered_count = missed_count = 0;
    first_failure[0] = 0;
    printf("{\"watching\":true}\n");
    fflush(stdout);
    uint64_t until = now_ns() + STORM_MS * 1000000ull, scan_ns = 0;
    while (now_ns() < until && (cut_count < client_count || joined_count < client_count)) {
        turn(SCAN_MS);
        if (now_ns() - scan_ns > SCAN_MS * 1000000ull) {
            look_at_clocks();
            scan_ns = now_ns();
        }
    }
    in_storm = 0;
    print_storm();
}

static void idle(int missed)
{
    prepare_frames(missed);
    settle(SETTLE_MS);
    publish(missed);
    printf("{\"joined\":%d}\n", joined_count);
    fflush(stdout);
    watch(STDIN_FILENO, EPOLLIN, NULL);
    for (;;) {
        static struct epoll_event events[EVENTS];
        int asked = 0, count = epoll_wait(epoll_fd, events, EVENTS, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                on_event(events[i].data.ptr);
            else
                asked = 1;
        }
        char line[64];
        if (asked && read(STDIN_FILENO, line, sizeof line) <= 0)
            exit(0);
        if (asked) {
            epoll_ctl(epoll_fd, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
            storm();
            watch(STDIN_FILENO, EPOLLIN, NULL);
        }
    }
}

/* ------------------------------------------------------------------------ */

static void prepare_clients(void)
{
    room_count = (client_count + member_count - 1) / member_count;
    clients = calloc((size_t)client_count, sizeof *clients);
    rooms = calloc((size_t)room_count, sizeof *rooms);
    for (int i = 0; i < client_count; i++) {
        clients[i] = (struct client){.link.fd = -1, .room = &rooms[i / member_count], .offset = -1};
        if (i % member_count == 0) {
            clients[i].room->first_offset = -1;
            clients[i].room->sender = &clients[i];
        }
    }
}

int main(int count, char **arguments)
{
    const char *mode = count > 1 ? arguments[1] : "";
    int numbers[9] = {0};
    for (int i = 2; i < count && i < 9; i++)
        numbers[i] = atoi(arguments[i]);
    int is_rooms = count == 10 && strcmp(mode, "rooms") == 0;
    int is_hop = count == 7 && strcmp(mode, "hop") == 0;
    int is_join = count == 6 && strcmp(mode, "join") == 0;
    int is_idle = count == 7 && strcmp(mode, "idle") == 0;
    if (!is_rooms && !is_hop && !is_join && !is_idle)
        fail("this program is run by bench/workers.py and bench/machines.py");
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    alarm(LIFETIME_S);
    for (char *one = strtok(arguments[2], ","); one && port_count < PORTS; one = strtok(NULL, ","))
        ports[port_count++] = atoi(one);
    pin(numbers[3]);
    client_count = numbers[4];
    member_count = numbers[5];
    srand48(client_count);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    prepare_clients();
    if (is_hop) {
        room_count = 1; /* any clients can be members, so there is one room */
        for (int i = 0; i < client_count; i++)
            clients[i].room = &rooms[0];
        prepare_frames(1);
        connect_all(0);
        measure_hop(numbers[6]);
    } else if (is_rooms) {
        prepare_frames(numbers[6]);
        connect_all(1);
        measure_rooms(numbers[6], numbers[7], numbers[8], arguments[9]);
    } else if (is_join) {
        connect_all(0);
        measure_join();
    } else {
        int all = port_count;
        port_count = 1;
        connect_all(1);
        port_count = all;
        idle(numbers[6]);
    }
    return 0;
}
