/* What the machine can do: relays the bytes of one publisher to every subscriber, and knows nothing else.

   `GET` subscribes to a chunked event stream. Any other request publishes: what follows its head goes to everybody as it
   is, chunks included. What is there by one read leaves by one write for each subscriber. Who cannot take it goes on
   when its socket has room, from the ring of the last bytes; who falls out of the ring is cut. */

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define RING (16u << 20)
#define READ (256u << 10)
#define HEAD 4096
#define EVENTS 1024

static const char OK[] = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";

enum kind { ASKING, SUBSCRIBER, PUBLISHER };

struct connection {
    int fd, blocked;
    enum kind kind;
    uint64_t at; /* how much of the stream it has been given */
    size_t index, had;
    char *head;
};

static int poller;
static char ring[RING];
static uint64_t end; /* of the stream */
static struct connection **subscribers;
static size_t count, room;

static void *needed(void *memory) {
    if (memory == NULL) abort();
    return memory;
}

static void listen_for(struct connection *c, uint32_t events, int operation) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    epoll_ctl(poller, operation, c->fd, &event);
}

static void drop(struct connection *c) {
    close(c->fd);
    if (c->kind == SUBSCRIBER) {
        subscribers[c->index] = subscribers[--count];
        subscribers[c->index]->index = c->index;
    }
    free(c->head);
    free(c);
}

/* Cut now, and dropped when epoll says so: its turn in this round may still come. */
static void cut(struct connection *c) {
    shutdown(c->fd, SHUT_RDWR);
    c->blocked = 1;
}

static void wait_for_room(struct connection *c, int blocked) {
    if (c->blocked != blocked) listen_for(c, blocked ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    c->blocked = blocked;
}

/* Gives a subscriber all that it has not been given, as far as its socket has room. */
static void give(struct connection *c) {
    while (c->at < end) {
        size_t left = end - c->at, from = c->at % RING, first = left < RING - from ? left : RING - from;
        struct iovec parts[2] = {{ring + from, first}, {ring, left - first}};
        struct msghdr message = {.msg_iov = parts, .msg_iovlen = left > first ? 2 : 1};
        if (left > RING) return cut(c);
        ssize_t written = sendmsg(c->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (written < 0) return errno == EAGAIN ? wait_for_room(c, 1) : cut(c);
        c->at += written;
    }
    wait_for_room(c, 0);
}

static void give_all(void) {
    for (size_t i = 0; i < count; i++)
        if (!subscribers[i]->blocked) give(subscribers[i]);
}

static void subscribe(struct connection *c) {
    if (send(c->fd, OK, sizeof OK - 1, MSG_NOSIGNAL) != sizeof OK - 1) {
        drop(c);
        return;
    }
    if (count == room) subscribers = needed(realloc(subscribers, (room = room * 2 + 64) * sizeof *subscribers));
    c->kind = SUBSCRIBER;
    c->at = end;
    c->index = count;
    subscribers[count++] = c;
    free(c->head);
    c->head = NULL;
}

static void ask(struct connection *c) {
    ssize_t got = recv(c->fd, c->head + c->had, HEAD - c->had, MSG_DONTWAIT);
    if (got > 0) c->had += got;
    char *body = memmem(c->head, c->had, "\r\n\r\n", 4);
    if (got <= 0 || (body == NULL && c->had == HEAD)) drop(c);
    if (got <= 0 || body == NULL) return;
    if (memcmp(c->head, "GET ", 4) == 0) {
        subscribe(c);
        return;
    }
    c->kind = PUBLISHER;
    for (char *rest = body + 4; rest < c->head + c->had; rest++) ring[end++ % RING] = *rest;
    give_all();
}

static void publish(struct connection *c) {
    size_t from = end % RING, most = RING - from < READ ? RING - from : READ;
    ssize_t got = recv(c->fd, ring + from, most, MSG_DONTWAIT);
    if (got <= 0) {
        drop(c);
        return;
    }
    end += got;
    give_all();
}

static void hear(struct connection *c, uint32_t events) {
    char ignored[HEAD];
    if (c->kind == ASKING) ask(c);
    else if (c->kind == PUBLISHER) publish(c);
    else if ((events & ~EPOLLOUT) && recv(c->fd, ignored, sizeof ignored, MSG_DONTWAIT) <= 0) drop(c);
    else if (events & EPOLLOUT) give(c);
}

static void welcome(int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        struct connection *c = needed(calloc(1, sizeof *c));
        c->head = needed(malloc(HEAD));
        c->fd = fd;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        listen_for(c, EPOLLIN, EPOLL_CTL_ADD);
    }
}

int main(int arguments, char **argument) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[EVENTS], incoming = {.events = EPOLLIN};
    int on = 1, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    address.sin_port = htons(arguments > 1 ? atoi(argument[1]) : 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    poller = epoll_create1(EPOLL_CLOEXEC);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 1024) ||
        epoll_ctl(poller, EPOLL_CTL_ADD, listener, &incoming)) {
        perror("bare");
        return 1;
    }
    for (;;) {
        int ready = epoll_wait(poller, events, EVENTS, -1);
        for (int i = 0; i < ready; i++)
            if (events[i].data.ptr == NULL) welcome(listener);
            else hear(events[i].data.ptr, events[i].events);
    }
}
