/*
 * spawn_floor.c - how fast a C program starts the payload: the floor that the launcher is compared with.
 *
 *     spawn_floor PROBE COUNT
 *
 * COUNT times: read the clock, make two pipes, posix_spawn PROBE, read the first byte, read the clock; then close its
 * standard input, which tells the payload to end, and collect it.  Prints the nanoseconds of each start, one a line.
 * The pipes stand inside the timed part, since the launcher, too, makes them after its t0.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what, int error)
{
	fprintf(stderr, "spawn_floor: %s: %s\n", what, strerror(error));
	exit(1);
}

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Starts the payload and returns the nanoseconds until its first byte was read. */
static int64_t start(char *probe, pid_t *pid, int *requests, int *replies)
{
	char *words[] = { probe, "nonce=f1004", NULL };
	char *environment[] = { NULL };
	posix_spawn_file_actions_t actions;
	int in[2], out[2], error;
	int64_t t0 = now_ns();
	char byte;

	if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
		fail("pipe2", errno);
	posix_spawn_file_actions_init(&actions);
	posix_spawn_file_actions_adddup2(&actions, in[0], 0);
	posix_spawn_file_actions_adddup2(&actions, out[1], 1);
	error = posix_spawn(pid, probe, &actions, NULL, words, environment);
	if (error)
		fail(probe, error);
	close(in[0]);
	close(out[1]);
	if (read(out[0], &byte, 1) != 1)
		fail("read: the payload wrote nothing", errno);
	t0 = now_ns() - t0;
	posix_spawn_file_actions_destroy(&actions);
	*requests = in[1];
	*replies = out[0];
	return t0;
}

static void end(pid_t pid, int requests, int replies)
{
	char rest[256];
	int status;

	close(requests);
	while (read(replies, rest, sizeof rest) > 0)
		;
	close(replies);
	if (waitpid(pid, &status, 0) != pid)
		fail("waitpid", errno);
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		fprintf(stderr, "spawn_floor: the payload ended with wait status %d\n", status);
		exit(1);
	}
}

int main(int argc, char **argv)
{
	long count = argc == 3 ? strtol(argv[2], NULL, 10) : 0;

	if (count < 1) {
		fprintf(stderr, "usage: spawn_floor PROBE COUNT\n");
		return 2;
	}
	for (long i = 0; i < count; i++) {
		pid_t pid;
		int requests, replies;
		int64_t ns = start(argv[1], &pid, &requests, &replies);

		end(pid, requests, replies);
		printf("%lld\n", (long long)ns);
	}
	return 0;
}
