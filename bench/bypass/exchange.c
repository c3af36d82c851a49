/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0 */
/*
 * Two processes over TCP on the loopback interface, a Unix socket or pipes, with nothing but the system calls in between.
 *
 *   exchange tcp|unix|pipe PORT trip|stream BYTES SECONDS READER-CPU WRITER-CPU
 *
 * trip: messages and their echoes; prints percentiles in us. stream: writes; prints MB/s, of 10^6 bytes.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MOST_TRIPS (16u << 20)
#define READ_BYTES (256u << 10)

struct end {
	int in, out;
};

static unsigned long now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000UL + t.tv_nsec;
}

static void stay_on(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		err(1, "CPU %d", cpu);
}

static int connected(int port, int *accepted)
{
	struct sockaddr_in address = {
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int listener = socket(AF_INET, SOCK_STREAM, 0), client = socket(AF_INET, SOCK_STREAM, 0), on = 1;

	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) || listen(listener, 1) ||
	    connect(client, (struct sockaddr *)&address, sizeof(address)))
		err(1, "port %d", port);
	*accepted = accept(listener, NULL, NULL);
	close(listener);
	setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(*accepted, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return client;
}

static void open_ends(const char *kind, int port, struct end *writer, struct end *reader)
{
	int there[2], back[2];

	if (!strcmp(kind, "pipe")) {
		if (pipe(there) || pipe(back))
			err(1, "pipe");
		*writer = (struct end){back[0], there[1]};
		*reader = (struct end){there[0], back[1]};
		return;
	}
	if (!strcmp(kind, "tcp"))
		there[0] = connected(port, &there[1]);
	else if (socketpair(AF_UNIX, SOCK_STREAM, 0, there))
		err(1, "socketpair");
	*writer = (struct end){there[0], there[0]};
	*reader = (struct end){there[1], there[1]};
}

static void close_end(struct end *end)
{
	close(end->in);
	if (end->out != end->in)
		close(end->out);
}

static int read_all(int from, char *buffer, size_t bytes)
{
	size_t got = 0;

	while (got < bytes) {
		ssize_t count = read(from, buffer + got, bytes - got);

		if (count <= 0)
			return 0;
		got += count;
	}
	return 1;
}

static void answer(const struct end *end, int trips, size_t bytes, char *buffer)
{
	if (!trips)
		while (read(end->in, buffer, READ_BYTES) > 0)
			;
	else
		while (read_all(end->in, buffer, bytes))
			if (write(end->out, buffer, bytes) < 0)
				err(1, "write");
}

static int ascending(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return (x > y) - (x < y);
}

static void make_trips(const struct end *end, size_t bytes, double seconds, char *buffer)
{
	unsigned *took = malloc(MOST_TRIPS * sizeof(*took)), count = 0;
	unsigned long now = now_ns(), start, last = now + seconds * 1e9;

	while (now < last && count < MOST_TRIPS) {
		start = now;
		if (write(end->out, buffer, bytes) < 0 || !read_all(end->in, buffer, bytes))
			err(1, "round trip");
		now = now_ns();
		took[count++] = now - start;
	}
	qsort(took, count, sizeof(*took), ascending);
	printf("p50 %.2f p99 %.2f\n", took[count / 2] / 1e3, took[count / 100 * 99] / 1e3);
}

static void stream(const struct end *end, size_t bytes, double seconds, char *buffer)
{
	unsigned long start = now_ns(), now = start, last = start + seconds * 1e9, sent = 0;

	while (now < last) {
		for (int i = 0; i < 8; i++) {
			ssize_t count = write(end->out, buffer, bytes);

			if (count < 0)
				err(1, "write");
			sent += count;
		}
		now = now_ns();
	}
	printf("MB/s %.1f\n", sent / ((now - start) / 1e3));
}

int main(int count, char **words)
{
	struct end writer, reader;
	size_t bytes;
	double seconds;
	char *buffer;
	int trips;

	if (count != 8)
		errx(2, "usage: exchange tcp|unix|pipe PORT trip|stream BYTES SECONDS READER-CPU WRITER-CPU");
	trips = !strcmp(words[3], "trip");
	bytes = strtoul(words[4], NULL, 10);
	seconds = strtod(words[5], NULL);
	buffer = calloc(1, bytes > READ_BYTES ? bytes : READ_BYTES);
	open_ends(words[1], atoi(words[2]), &writer, &reader);
	if (!fork()) {
		stay_on(atoi(words[6]));
		close_end(&writer);
		answer(&reader, trips, bytes, buffer);
		_exit(0);
	}
	stay_on(atoi(words[7]));
	close_end(&reader);
	if (trips)
		make_trips(&writer, bytes, seconds, buffer);
	else
		stream(&writer, bytes, seconds, buffer);
	close_end(&writer);
	wait(NULL);
	return 0;
}
