#include "numa/node.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WORDS (CPU_MAX / 64)

uint32_t cpus_count(const struct cpu_set *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < WORDS; i++)
		n += (uint32_t)__builtin_popcountll(s->w[i]);
	return n;
}

int cpus_next(const struct cpu_set *s, uint32_t from)
{
	for (uint32_t i = from / 64; i < WORDS; i++) {
		uint64_t w = s->w[i];

		if (i == from / 64)
			w &= ~0ull << (from % 64);
		if (w)
			return (int)(i * 64) + __builtin_ctzll(w);
	}
	return -1;
}

bool cpus_equal(const struct cpu_set *a, const struct cpu_set *b)
{
	return memcmp(a->w, b->w, sizeof(a->w)) == 0;
}

void cpus_and(struct cpu_set *into, const struct cpu_set *with)
{
	for (uint32_t i = 0; i < WORDS; i++)
		into->w[i] &= with->w[i];
}

void cpus_or(struct cpu_set *into, const struct cpu_set *with)
{
	for (uint32_t i = 0; i < WORDS; i++)
		into->w[i] |= with->w[i];
}

/* The last CPU of the run of neighbours that starts at `first`. */
static int run_end(const struct cpu_set *s, int first)
{
	int last = first;

	while (cpus_has(s, (uint32_t)last + 1))
		last++;
	return last;
}

size_t cpus_format(const struct cpu_set *s, char *out, size_t cap)
{
	size_t need = 0;

	if (cap)
		out[0] = '\0';
	for (int first = cpus_next(s, 0); first >= 0;) {
		char part[32];
		int last = run_end(s, first), n;

		n = snprintf(part, sizeof(part), first == last ? "%s%d" : "%s%d-%d", need ? "," : "", first, last);
		if (need + (size_t)n < cap)
			memcpy(out + need, part, (size_t)n + 1);
		need += (size_t)n;
		first = cpus_next(s, (uint32_t)last + 1);
	}
	return need;
}

static int parse_number(const char **at, uint32_t *out)
{
	const char *p = *at;
	uint64_t v = 0;

	if (*p < '0' || *p > '9')
		return -EINVAL;
	for (; *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (uint64_t)(*p - '0');
		if (v >= CPU_MAX)
			return -ERANGE;
	}
	*at = p;
	*out = (uint32_t)v;
	return 0;
}

int cpus_parse(const char *text, struct cpu_set *out)
{
	struct cpu_set set = {0};
	const char *p = text;

	while (*p && *p != '\n') {
		uint32_t first, last;
		int r = parse_number(&p, &first);

		if (r)
			return r;
		last = first;
		if (*p == '-') {
			p++;
			r = parse_number(&p, &last);
			if (r)
				return r;
		}
		if (last < first)
			return -EINVAL;
		for (uint32_t cpu = first; cpu <= last; cpu++)
			cpus_add(&set, cpu);
		if (*p == ',' && p[1] >= '0' && p[1] <= '9')
			p++;
		else if (*p && *p != '\n')
			return -EINVAL;
	}
	if (*p == '\n' && p[1])
		return -EINVAL;
	*out = set;
	return 0;
}

int cpus_pin_self(const struct cpu_set *s)
{
	cpu_set_t *mask = CPU_ALLOC(CPU_MAX);
	size_t bytes = CPU_ALLOC_SIZE(CPU_MAX);
	int r;

	if (!mask)
		return -ENOMEM;
	CPU_ZERO_S(bytes, mask);
	for (int cpu = cpus_next(s, 0); cpu >= 0; cpu = cpus_next(s, (uint32_t)cpu + 1))
		CPU_SET_S((size_t)cpu, bytes, mask);
	r = sched_setaffinity(0, bytes, mask) == 0 ? 0 : -errno;
	CPU_FREE(mask);
	return r;
}

int cpus_of_thread(int pid, int tid, struct cpu_set *out)
{
	static const char key[] = "\nCpus_allowed_list:\t";
	char path[64], text[16384], *at;
	ssize_t n;
	int fd;

	if (tid == 0)
		snprintf(path, sizeof(path), "/proc/thread-self/status");
	else
		snprintf(path, sizeof(path), "/proc/%d/task/%d/status", pid ? pid : getpid(), tid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -ESRCH : -errno;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n < 0)
		return -ESRCH; /* it ended meanwhile */
	text[n] = '\0';
	at = strstr(text, key);
	if (!at)
		return -ENODATA;
	at += sizeof(key) - 1;
	at[strcspn(at, "\n")] = '\0';
	return cpus_parse(at, out);
}
