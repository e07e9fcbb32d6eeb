/* bench_l2_run.c - the rounds of `bench l2`. */
#include "tools/bench_l2.h"

#include "daemon/base/clock.h"
#include "daemon/base/lock.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define CLOSE_MS 5000u
#define HUGE     (2ull << 20)

struct bench;

/* One operation that may be in flight, with its part of the memory. */
struct slot {
	struct bench *b;
	struct l2_io io;
	struct l2_find find;
	struct seg_key key;
	uint64_t number, start_ns, found;
	uint32_t *sums;
	struct slot *next;
};

struct bench {
	const struct bench_l2_conf *conf;
	struct bench_l2_result *out;
	struct l2 *l2;
	struct seg_names *names;
	uint32_t name;
	uint8_t *memory;
	uint64_t memory_bytes, slot_bytes;
	struct slot *slots, *unused;
	uint32_t *sums;
	uint32_t flying;
	bool measured;
	struct lk lk; /* LK_QUEUE: ended */
	pthread_cond_t changed;
	struct slot *ended;
};

/* ---- objects with known bytes -------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t v)
{
	v ^= v >> 30;
	v *= 0xbf58476d1ce4e5b9u;
	v ^= v >> 27;
	v *= 0x94d049bb133111ebu;
	return v ^ v >> 31;
}

static struct seg_key key_of(const struct bench *b, uint64_t number)
{
	struct seg_key k = {.name = b->name};
	for (uint32_t i = 0; i < STORE_HASH_BYTES / 8; i++) {
		uint64_t v = mix(b->conf->seed + mix(number * 4 + i + 1));
		memcpy(k.hash.b + (size_t)8 * i, &v, 8);
	}
	return k;
}

static void fill(void *mem, uint64_t first, uint64_t bytes)
{
	uint64_t *p = mem, v = mix(first);
	for (uint64_t i = 0; i < bytes / 8; i++)
		p[i] = v += 0x9e3779b97f4a7c15u;
}

static bool is_right(const void *mem, uint64_t first, uint64_t bytes)
{
	const uint64_t *p = mem;
	uint64_t v = mix(first), wrong = 0;
	for (uint64_t i = 0; i < bytes / 8; i++)
		wrong |= p[i] ^ (v += 0x9e3779b97f4a7c15u);
	return wrong == 0;
}

/* ---- in flight -------------------------------------------------------------------------------------------------------------- */

static void hand_over(struct slot *s)
{
	struct bench *b = s->b;
	lk_lock(&b->lk);
	s->next = b->ended;
	b->ended = s;
	pthread_cond_signal(&b->changed);
	lk_unlock(&b->lk);
}

static void io_done(struct l2_io *io)
{
	struct slot *s = io->owner;
	s->io.submitted_ns = clock_ns(); /* from here on: when it ended */
	hand_over(s);
}

static void find_done(struct l2_find *f)
{
	struct slot *s = f->owner;
	s->io.submitted_ns = clock_ns();
	hand_over(s);
}

static void judge_load(struct bench *b, const struct slot *s)
{
	if (!b->conf->verify)
		return;
	if (is_right(s->io.mem, s->number + b->conf->seed, b->conf->bytes))
		b->out->right++;
	else
		b->out->wrong++;
}

static void count(struct bench *b, enum bench_l2_phase phase, struct slot *s)
{
	uint64_t ns = s->io.submitted_ns - s->start_ns;
	int rc = phase == BENCH_L2_LOOKUP ? 0 : s->io.result;
	if (rc == 0 && phase == BENCH_L2_LOAD)
		judge_load(b, s);
	if (rc && rc != -ENOENT && rc != -EEXIST && rc != -ENOSPC && rc != -EBUSY) {
		b->out->phase[phase].failed++;
		b->out->first_error = b->out->first_error ? b->out->first_error : rc;
	}
	if (!b->measured)
		return;
	b->out->phase[phase].missing += rc == -ENOENT || (phase == BENCH_L2_LOOKUP && !s->found);
	b->out->phase[phase].present += rc == -EEXIST;
	b->out->phase[phase].dropped += rc == -ENOSPC || rc == -EBUSY;
	if (rc)
		return;
	b->out->phase[phase].done++;
	b->out->phase[phase].bytes += phase == BENCH_L2_LOOKUP ? 0 : b->conf->bytes;
	hist_add(&b->out->phase[phase].latency, ns);
}

/* Takes back what has ended, waiting for at least one when all are in flight or `all` is asked for. */
static int collect(struct bench *b, enum bench_l2_phase phase, bool all)
{
	uint64_t until = clock_ns() + b->conf->timeout_ms * 1000000ull;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};
	while (b->flying && (all || !b->unused)) {
		int rc = 0;
		lk_lock(&b->lk);
		while (!b->ended && !rc)
			rc = pthread_cond_timedwait(&b->changed, &b->lk.m, &t);
		struct slot *s = b->ended, *next;
		b->ended = NULL;
		lk_unlock(&b->lk);
		if (!s)
			return -ETIMEDOUT;
		for (; s; s = next) {
			next = s->next;
			count(b, phase, s);
			s->next = b->unused;
			b->unused = s;
			b->flying--;
		}
	}
	return 0;
}

static void start(struct bench *b, enum bench_l2_phase phase, uint64_t number)
{
	struct slot *s = b->unused;
	b->unused = s->next;
	b->flying++;
	s->number = number;
	s->key = key_of(b, number);
	s->io = (struct l2_io){.key = s->key,
			       .mem = b->memory + (uint64_t)(s - b->slots) * b->slot_bytes,
			       .bytes = b->conf->bytes,
			       .sums = s->sums,
			       .done = io_done,
			       .owner = s};
	memset(s->sums, 0, crc_blocks(b->conf->bytes) * sizeof(*s->sums));
	s->find = (struct l2_find){.keys = &s->key, .bytes = &s->found, .n = 1, .done = find_done, .owner = s};
	if (phase == BENCH_L2_STORE)
		fill(s->io.mem, number + b->conf->seed, b->conf->bytes);
	else if (phase == BENCH_L2_LOAD && b->conf->verify)
		memset(s->io.mem, 0xee, b->conf->bytes);
	s->start_ns = clock_ns();
	if (phase == BENCH_L2_STORE)
		b->l2->ops->store(b->l2, &s->io);
	else if (phase == BENCH_L2_LOAD)
		b->l2->ops->load(b->l2, &s->io);
	else
		b->l2->ops->find(b->l2, &s->find);
}

/* ---- rounds -------------------------------------------------------------------------------------------------------------------- */

/* Keys of a round are in a range of their own; those that no round stores lie above all of them. */
static uint64_t number_of(const struct bench *b, enum bench_l2_phase phase, uint32_t round, uint32_t i)
{
	uint64_t n = (uint64_t)round * b->conf->keys + i;
	if (phase == BENCH_L2_LOOKUP && (double)i >= b->conf->hit_rate * b->conf->keys)
		n += 1ull << 40;
	return n;
}

/* Of the whole process: the adapter's threads count. */
static uint64_t cpu_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int one_phase(struct bench *b, enum bench_l2_phase phase, uint32_t round, bool measured)
{
	uint64_t began = clock_ns(), cpu = cpu_ns();
	int rc = 0;
	b->measured = measured;
	for (uint32_t i = 0; i < b->conf->keys && !rc; i++) {
		rc = collect(b, phase, false);
		if (!rc)
			start(b, phase, number_of(b, phase, round, i));
	}
	if (!rc)
		rc = collect(b, phase, true);
	if (measured) {
		b->out->phase[phase].ns += clock_ns() - began;
		b->out->phase[phase].cpu_ns += cpu_ns() - cpu;
	}
	return rc;
}

/* An operation without data: flush, or the removal of a key. */
static int plain(struct bench *b, void (*op)(struct l2 *l2, struct l2_io *io), uint64_t number, int *result)
{
	struct slot *s = b->unused;
	b->unused = s->next;
	b->flying++;
	s->io = (struct l2_io){.key = key_of(b, number), .done = io_done, .owner = s};
	op(b->l2, &s->io);
	b->measured = false;
	int rc = collect(b, BENCH_L2_LOOKUP, true);
	*result = rc ? rc : s->io.result;
	return rc;
}

static int flush(struct bench *b, bool measured)
{
	uint64_t began = clock_ns();
	int result, rc = plain(b, b->l2->ops->flush, 0, &result);
	if (measured)
		b->out->flush_ns += clock_ns() - began;
	if (result && !b->out->first_error) {
		b->out->first_error = result;
		b->out->phase[BENCH_L2_STORE].failed++;
	}
	return rc;
}

static int rounds(struct bench *b)
{
	uint32_t all = b->conf->warmup + b->conf->rounds;
	int rc = 0, result;
	for (uint32_t r = 0; r < all && !rc; r++) {
		bool measured = r >= b->conf->warmup;
		rc = one_phase(b, BENCH_L2_STORE, r, measured && b->conf->phase[BENCH_L2_STORE]);
		if (!rc)
			rc = flush(b, measured && b->conf->phase[BENCH_L2_STORE]);
		if (!rc && b->conf->phase[BENCH_L2_LOOKUP])
			rc = one_phase(b, BENCH_L2_LOOKUP, r, measured);
		if (!rc && b->conf->phase[BENCH_L2_LOAD])
			rc = one_phase(b, BENCH_L2_LOAD, r, measured);
	}
	if (b->l2->ops->describe)
		b->out->adapter = b->l2->ops->describe(b->l2);
	for (uint64_t i = 0; !b->conf->keep && i < (uint64_t)all * b->conf->keys && !rc; i++)
		rc = plain(b, b->l2->ops->remove, i, &result);
	return rc;
}

/* ---- setting up ------------------------------------------------------------------------------------------------------------------ */

/* On large pages, since that decides the speed: reserved ones where the machine has some, else the kernel is asked to make them. */
static int get_memory(struct bench *b)
{
	b->memory_bytes = (b->conf->in_flight * b->slot_bytes + HUGE - 1) & ~(HUGE - 1);
	void *p = mmap(NULL, b->memory_bytes, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE | MAP_HUGETLB | (21 << MAP_HUGE_SHIFT), -1, 0);
	b->memory = p;
	if (p != MAP_FAILED) {
		snprintf(b->out->pages, sizeof(b->out->pages), "2 MiB");
		return 0;
	}
	p = mmap(NULL, b->memory_bytes + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	b->memory = NULL;
	if (p == MAP_FAILED)
		return -ENOMEM;
	uint8_t *at = (uint8_t *)(((uintptr_t)p + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
	size_t before = (size_t)(at - (uint8_t *)p);
	if (before)
		munmap(p, before);
	if (HUGE - before)
		munmap(at + b->memory_bytes, HUGE - before);
	bool large = madvise(at, b->memory_bytes, MADV_HUGEPAGE) == 0;
	memset(at, 0, b->memory_bytes);
	b->memory = at;
	snprintf(b->out->pages, sizeof(b->out->pages), "%s", large ? "transparent" : "4 KiB");
	return 0;
}

static int set_up(struct bench *b, struct why *why)
{
	const struct bench_l2_conf *c = b->conf;
	static const char model[] = "lmcache-appliance/bench-l2";
	struct seg_name name = {.model = slice_str(model)};
	uint32_t nsums = crc_blocks(c->bytes);
	pthread_condattr_t attr;
	lk_init(&b->lk, LK_QUEUE);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->changed, &attr);
	pthread_condattr_destroy(&attr);
	b->slot_bytes = (c->bytes + DISK_ALIGN - 1) & ~(uint64_t)(DISK_ALIGN - 1);
	b->slots = mem_calloc(c->in_flight, sizeof(*b->slots));
	b->sums = mem_calloc((size_t)c->in_flight * nsums, sizeof(*b->sums));
	if (!b->slots || !b->sums || seg_names_create(&b->names) || get_memory(b))
		return why_set(why, -ENOMEM, "no memory for %u objects of %llu bytes", c->in_flight,
			       (unsigned long long)c->bytes);
	b->name = seg_name_get(b->names, &name);
	for (uint32_t i = c->in_flight; i-- > 0;) {
		b->slots[i] = (struct slot){.b = b, .sums = b->sums + (size_t)i * nsums, .next = b->unused};
		b->unused = &b->slots[i];
	}
	return 0;
}

static void tear_down(struct bench *b)
{
	if (b->l2)
		b->l2->ops->close(b->l2, CLOSE_MS);
	/* What never came back may still be written to: it stays. */
	if (b->flying == 0) {
		if (b->memory)
			munmap(b->memory, b->memory_bytes);
		mem_free(b->slots);
		mem_free(b->sums);
	}
	seg_names_destroy(b->names);
	pthread_cond_destroy(&b->changed);
	lk_destroy(&b->lk);
}

int bench_l2_run(const struct bench_l2_conf *conf, const char *adapter, struct bench_l2_result *out, struct why *why)
{
	struct bench b = {.conf = conf, .out = out};
	struct l2_conf *c = NULL;
	int rc = l2_conf_parse(adapter, 0, &c, why);
	if (rc)
		return rc;
	rc = set_up(&b, why);
	struct disk_buffer buffer = {.base = b.memory, .bytes = b.memory_bytes};
	struct l2_env env = {.names = b.names, .buffers = &buffer, .nbuffers = 1, .chunk_tokens = 256};
	if (!rc)
		rc = l2_create(c, &env, &b.l2, why);
	if (!rc && (rc = rounds(&b)))
		why_set(why, rc, "an operation did not come back within %u ms", conf->timeout_ms);
	tear_down(&b);
	l2_conf_free(c);
	return rc;
}
