/* world.h - a segment store on a simulated disk, for tests: formatted without the tools, objects whose bytes follow from key and version,
 * and a pool of operations.
 */
#ifndef TESTS_UNIT_DAEMON_SEG_WORLD_H
#define TESTS_UNIT_DAEMON_SEG_WORLD_H

#include "daemon/base/crc32c.h"
#include "daemon/base/log.h"
#include "daemon/seg/seg_int.h"
#include "transport/disk/disk_sim.h"

#include <errno.h>
#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define WORLD_SLOTS  24u
#define WORLD_BUFFER (2u << 20)
#define WORLD_NAMES  3u
#define MS           1000000u

/* A failure names the seed and how to repeat it. */
#define wrong(w, ...)                  \
	do {                           \
		world_tell_seed();     \
		fail_msg(__VA_ARGS__); \
	} while (0)

struct slot {
	struct seg_op op;
	uint32_t sums[WORLD_BUFFER / CRC_BLOCK];
	uint8_t *mem;
	bool busy, ended; /* ended: `done` was called */
	uint32_t key, version;
	uint64_t a, b; /* the test's own */
};

struct world {
	uint64_t rnd;
	struct disk_sim *sim;
	struct seg *s;
	struct format_super super;
	struct seg_names *names;
	uint32_t name[WORLD_NAMES];
	struct slot slot[WORLD_SLOTS];
	uint8_t *memory;
	uint32_t busy;
	void (*ended)(struct world *w, struct slot *p); /* told of each operation */
};

static uint64_t world_seed; /* of the campaign; UINT64_MAX: none */

static inline void world_tell_seed(void)
{
	if (world_seed != UINT64_MAX)
		fprintf(stderr,
			"# seed %" PRIu64 " fails; again: LMCA_CAMPAIGN_FIRST=%" PRIu64 " LMCA_CAMPAIGN_SEEDS=1 %s\n",
			world_seed, world_seed, program_invocation_name);
}

/* One for the whole program: buffers are used again from seed to seed. */
static inline struct world *world_get(void)
{
	static struct world w;

	if (!w.memory) {
		w.memory = aligned_alloc(DISK_ALIGN, SEG_MEMORY);
		assert_non_null(w.memory);
		for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
			w.slot[i].mem = aligned_alloc(DISK_ALIGN, WORLD_BUFFER);
			assert_non_null(w.slot[i].mem);
		}
	}
	return &w;
}

static inline void world_free(void)
{
	struct world *w = world_get();

	free(w->memory);
	for (uint32_t i = 0; i < WORLD_SLOTS; i++)
		free(w->slot[i].mem);
	memset(w, 0, sizeof(*w));
}

static inline uint64_t mix(uint64_t z)
{
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

static inline uint64_t any(struct world *w)
{
	return mix(w->rnd += 0x9e3779b97f4a7c15u);
}

static inline uint64_t any_below(struct world *w, uint64_t n)
{
	return any(w) % n;
}

static inline bool chance_of(struct world *w, double p)
{
	return (double)(any(w) >> 11) * 0x1p-53 < p;
}

/* ---- objects ------------------------------------------------------------------------------------------------------------- */

static inline struct seg_key key_of(const struct world *w, uint32_t key)
{
	struct seg_key k = {.name = w->name[key % WORLD_NAMES]};

	for (uint32_t i = 0; i < STORE_HASH_BYTES; i++)
		k.hash.b[i] = (uint8_t)(mix(key + 1) >> (i % 8 * 8)) ^ (uint8_t)(i / 8 * 0x35);
	return k;
}

/* The bytes of an object: it says who it is, the rest follows from that. `bytes` at least 24. */
static inline void content(uint32_t key, uint32_t version, uint64_t bytes, uint8_t *to)
{
	uint64_t head[3] = {key, version, bytes}, x = mix(((uint64_t)key << 32 | version) + 99);

	memcpy(to, head, sizeof(head));
	for (uint64_t i = sizeof(head); i < bytes; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(to + i, &x, bytes - i < 8 ? bytes - i : 8);
	}
}

/* Whose bytes these are: *version, and true when each of them is right. */
static inline bool content_is(uint32_t key, const uint8_t *p, uint64_t bytes, uint32_t *version)
{
	uint64_t head[3], x;

	if (bytes < sizeof(head))
		return false;
	memcpy(head, p, sizeof(head));
	*version = (uint32_t)head[1];
	if (head[0] != key || head[1] > UINT32_MAX || head[2] != bytes)
		return false;
	x = mix(((uint64_t)key << 32 | *version) + 99);
	for (uint64_t i = sizeof(head); i < bytes; i += 8) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		if (memcmp(p + i, &x, bytes - i < 8 ? bytes - i : 8) != 0)
			return false;
	}
	return true;
}

/* ---- the store ------------------------------------------------------------------------------------------------------------- */

static inline void world_names(struct world *w)
{
	struct seg_name n = {.model = slice_str("meta-llama/Llama-3.1-8B"), .salt = slice_str(""), .object_group = 1};

	assert_int_equal(seg_names_create(&w->names), 0);
	for (uint32_t i = 0; i < WORLD_NAMES; i++) {
		n.kv_rank = i;
		n.layout[0] = (uint8_t)i;
		w->name[i] = seg_name_get(w->names, &n);
		assert_int_not_equal(w->name[i], 0);
	}
}

static inline void world_format(struct world *w, uint64_t bytes, uint64_t segment_bytes)
{
	assert_int_equal(format_geometry(bytes, segment_bytes, &w->super), 0);
	for (uint32_t i = 0; i < sizeof(w->super.uuid); i++)
		w->super.uuid[i] = (uint8_t)any(w);
	w->super.epoch = 1;
	w->super.created_s = 1790000000;
	for (uint32_t i = 0; i < FORMAT_SUPERS; i++)
		format_super_encode(&w->super, i, disk_sim_medium(w->sim) + format_super_at(&w->super, i));
}

/* Makes a medium with an empty store on it. */
static inline void world_create(struct world *w, const struct disk_sim_conf *conf, uint64_t segment_bytes)
{
	assert_int_equal(disk_sim_create(conf, &w->sim), 0);
	world_names(w);
	world_format(w, conf->bytes, segment_bytes);
	w->busy = 0;
	w->s = NULL;
}

/* conf: policies; disk, memory and names are filled in. */
static inline int world_open(struct world *w, const struct seg_conf *conf, uint32_t sub_io_bytes)
{
	struct disk_conf dc = {.write = true, .sub_io_bytes = sub_io_bytes};
	struct seg_conf sc = *conf;
	struct why why = {0};
	int rc = disk_sim_open(w->sim, &dc, &sc.disk, &why);

	if (rc)
		return rc;
	sc.memory = w->memory;
	sc.names = w->names;
	rc = seg_open(&sc, &w->s, &why);
	if (rc) {
		w->s = NULL;
		if (why.err != rc || !why.text[0])
			wrong(w, "seg_open fails with %d and no reason", rc);
	}
	return rc;
}

static inline void world_close(struct world *w, uint32_t wait_ms)
{
	uint32_t left = seg_close(w->s, wait_ms);

	w->s = NULL;
	if (left)
		wrong(w, "%u requests did not come back at close", left);
	for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
		if (w->slot[i].busy)
			wrong(w, "operation %u of kind %u was not told its result", i, w->slot[i].op.kind);
	}
}

static inline void world_destroy(struct world *w)
{
	disk_sim_destroy(w->sim);
	seg_names_destroy(w->names);
	w->sim = NULL;
	w->names = NULL;
}

/* ---- operations ------------------------------------------------------------------------------------------------------------ */

static inline void world_done(struct seg_op *op)
{
	struct world *w = world_get();
	struct slot *p = op->owner;

	if (!p->busy || p->ended)
		wrong(w, "an operation was told its result twice");
	p->ended = true;
	p->busy = false;
	w->busy--;
	if (w->ended)
		w->ended(w, p);
}

static inline struct slot *world_slot(struct world *w)
{
	for (uint32_t i = 0; i < WORLD_SLOTS; i++) {
		if (!w->slot[i].busy)
			return &w->slot[i];
	}
	return NULL;
}

static inline void world_start(struct world *w, struct slot *p, enum seg_op_kind kind, uint32_t key, uint64_t bytes)
{
	p->op = (struct seg_op){.kind = kind,
				.key = key_of(w, key),
				.mem = p->mem,
				.bytes = bytes,
				.sums = p->sums,
				.result = 12345,
				.done = world_done,
				.owner = p};
	p->sums[0] = 0;
	p->key = key;
	p->busy = true;
	p->ended = false;
	w->busy++;
	seg_submit(w->s, &p->op);
}

/* Runs one operation to its end and returns its result; -ETIME when it never comes within a minute of the disk's time. */
static inline int world_do(struct world *w, struct slot *p, enum seg_op_kind kind, uint32_t key, uint64_t bytes)
{
	uint64_t end = disk_sim_now(w->sim) + 60000ull * MS;

	world_start(w, p, kind, key, bytes);
	while (p->busy && disk_sim_now(w->sim) < end)
		seg_run(w->s, MS);
	return p->busy ? -ETIME : p->op.result;
}

static inline int world_write(struct world *w, uint32_t key, uint32_t version, uint64_t bytes)
{
	struct slot *p = world_slot(w);

	content(key, version, bytes, p->mem);
	return world_do(w, p, SEG_WRITE, key, bytes);
}

static inline uint64_t world_size(struct world *w, uint32_t key)
{
	struct seg_key k = key_of(w, key);
	uint64_t bytes;

	seg_find(w->s, &k, 1, &bytes);
	return bytes;
}

/* Reads the object as it is known; 0 and its version, or an error. Wrong bytes end the test. */
static inline int world_read(struct world *w, uint32_t key, uint32_t *version)
{
	struct slot *p = world_slot(w);
	uint64_t bytes = world_size(w, key);
	int rc = bytes ? world_do(w, p, SEG_READ, key, bytes) : -ENOENT;

	if (!rc && !content_is(key, p->mem, bytes, version))
		wrong(w, "WRONG BYTES: key %u, %" PRIu64 " bytes", key, bytes);
	return rc;
}

static inline bool world_recover(struct world *w)
{
	uint64_t end = disk_sim_now(w->sim) + 60000ull * MS;

	while (!seg_recovered(w->s) && disk_sim_now(w->sim) < end)
		seg_run(w->s, MS);
	return seg_recovered(w->s);
}

/* Counts what the index tells and compares it with the figures. Nothing may be in flight. */
static inline void world_recount(struct world *w)
{
	struct seg_key keys[64];
	uint64_t bytes[64], cursor = 0, used = 0, payload = 0, objects = 0;
	struct seg_stats st;

	do {
		uint32_t n = seg_list(w->s, &cursor, keys, bytes, 64);
		for (uint32_t i = 0; i < n; i++) {
			used += format_record_bytes(bytes[i]);
			payload += bytes[i];
		}
		objects += n;
	} while (cursor);
	seg_stats(w->s, &st);
	if (st.objects != objects || st.object_bytes != payload || st.used_bytes != used || used > st.capacity_bytes)
		wrong(w,
		      "usage: %" PRIu64 " objects, %" PRIu64 " bytes, %" PRIu64 " used of %" PRIu64
		      "; counted: %" PRIu64 ", %" PRIu64 ", %" PRIu64,
		      st.objects, st.object_bytes, st.used_bytes, st.capacity_bytes, objects, payload, used);
	seg_check(w->s);
}

#endif
