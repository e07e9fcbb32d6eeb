/* box.h - a segment store on a simulated disk, and operations on it that wait for their end. */
#ifndef TESTS_SEG_BOX_H
#define TESTS_SEG_BOX_H

#include "daemon/seg/seg_int.h"
#include "tests/unit/daemon/seg/image.h"
#include "transport/disk/disk_sim.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <cmocka.h>

struct box {
	struct disk_sim *sim;
	struct seg_names *names;
	void *memory;
	struct seg_conf conf;
	struct seg *s;
	uint32_t name;
};

/* An operation with memory of its own. */
struct work {
	struct seg_op op;
	uint32_t sums[64];
	bool done;
};

static inline void work_done(struct seg_op *op)
{
	((struct work *)op->owner)->done = true;
}

static inline uint64_t whole_blocks(uint64_t bytes)
{
	return (bytes + DISK_ALIGN - 1) / DISK_ALIGN * DISK_ALIGN;
}

static inline struct work *work_new(struct box *b, enum seg_op_kind kind, uint64_t key, uint64_t bytes)
{
	struct work *w = calloc(1, sizeof(*w));

	assert_non_null(w);
	w->op = (struct seg_op){.kind = kind,
				.key = {.name = b->name, .hash = image_hash(key)},
				.bytes = bytes,
				.sums = w->sums,
				.done = work_done,
				.owner = w};
	if (!bytes)
		return w;
	w->op.mem = aligned_alloc(DISK_ALIGN, whole_blocks(bytes));
	assert_non_null(w->op.mem);
	if (kind == SEG_WRITE)
		image_payload(w->op.mem, bytes, key);
	return w;
}

static inline int work_end(struct work *w)
{
	int result = w->op.result;

	assert_true(w->done);
	free(w->op.mem);
	free(w);
	return result;
}

static inline struct work *work_start(struct box *b, enum seg_op_kind kind, uint64_t key, uint64_t bytes)
{
	struct work *w = work_new(b, kind, key, bytes);

	seg_submit(b->s, &w->op);
	return w;
}

static inline void work_wait(struct box *b, struct work *w)
{
	for (uint32_t turns = 0; !w->done; turns++) {
		seg_run(b->s, 1000000);
		assert_true(turns < 100000);
	}
}

static inline int box_do(struct box *b, enum seg_op_kind kind, uint64_t key, uint64_t bytes)
{
	struct work *w = work_start(b, kind, key, bytes);

	work_wait(b, w);
	return work_end(w);
}

static inline int box_put(struct box *b, uint64_t key, uint64_t bytes)
{
	return box_do(b, SEG_WRITE, key, bytes);
}

/* 0 only when every byte is right. */
static inline int box_get(struct box *b, uint64_t key, uint64_t bytes)
{
	struct work *w = work_start(b, SEG_READ, key, bytes);
	uint8_t *right = malloc(bytes);

	assert_non_null(right);
	work_wait(b, w);
	if (!w->op.result) {
		image_payload(right, bytes, key);
		assert_memory_equal(w->op.mem, right, bytes);
		if (b->conf.verify)
			for (uint32_t i = 0; i < crc_blocks(bytes); i++) {
				uint64_t at = (uint64_t)i * CRC_BLOCK,
					 n = bytes - at < CRC_BLOCK ? bytes - at : CRC_BLOCK;

				assert_int_equal(w->sums[i], crc32c(0, right + at, n));
			}
	}
	free(right);
	return work_end(w);
}

static inline int box_remove(struct box *b, uint64_t key)
{
	return box_do(b, SEG_REMOVE, key, 0);
}

static inline int box_clear(struct box *b)
{
	return box_do(b, SEG_CLEAR, 0, 0);
}

static inline int box_flush(struct box *b)
{
	return box_do(b, SEG_FLUSH, 0, 0);
}

static inline uint64_t box_find(struct box *b, uint64_t key)
{
	struct seg_key k = {.name = b->name, .hash = image_hash(key)};
	uint64_t bytes;

	seg_find(b->s, &k, 1, &bytes);
	return bytes;
}

static inline void box_run(struct box *b, uint32_t turns)
{
	while (turns--)
		seg_run(b->s, 10000000);
}

static inline struct seg_stats box_stats(struct box *b)
{
	struct seg_stats st;

	seg_stats(b->s, &st);
	return st;
}

static inline int box_try_open(struct box *b)
{
	struct disk_conf dc = {.write = true};
	struct why why = {0};
	int rc = disk_sim_open(b->sim, &dc, &b->conf.disk, &why);

	return rc ? rc : seg_open(&b->conf, &b->s, &why);
}

static inline void box_open(struct box *b)
{
	assert_int_equal(box_try_open(b), 0);
	for (uint32_t turns = 0; !seg_recovered(b->s); turns++) {
		seg_run(b->s, 1000000);
		assert_true(turns < 100000);
	}
	seg_check(b->s);
}

static inline void box_close(struct box *b)
{
	seg_check(b->s);
	assert_int_equal(seg_close(b->s, 5000), 0);
	b->s = NULL;
}

/* An empty store, not opened. */
static inline void box_make(struct box *b, const struct disk_sim_conf *sim, uint64_t segment_bytes)
{
	struct image im;
	struct seg_name name = image_name(0);

	memset(b, 0, sizeof(*b));
	assert_int_equal(disk_sim_create(sim, &b->sim), 0);
	image_start(&im, disk_sim_medium(b->sim), sim->bytes, segment_bytes);
	image_end(&im);
	assert_int_equal(seg_names_create(&b->names), 0);
	b->memory = aligned_alloc(DISK_ALIGN, SEG_MEMORY);
	assert_non_null(b->memory);
	b->name = seg_name_get(b->names, &name);
	b->conf = (struct seg_conf){
		.memory = b->memory, .names = b->names, .max_objects = 100000, .verify = true, .readmit = 0.1};
}

/* `segments` of them, opened. */
static inline void box_start(struct box *b, uint32_t segments, uint64_t segment_bytes)
{
	struct disk_sim_conf sim = {.bytes = FORMAT_DATA + 2 * FORMAT_RESERVED + segments * segment_bytes,
				    .seed = 42,
				    .read_ns = 80000,
				    .write_ns = 20000,
				    .flush_ns = 400000,
				    .bytes_per_ns = 3,
				    .reorder = true};

	box_make(b, &sim, segment_bytes);
	box_open(b);
	assert_int_equal(b->s->super.segments, segments);
}

static inline void box_end(struct box *b)
{
	if (b->s)
		box_close(b);
	disk_sim_destroy(b->sim);
	seg_names_destroy(b->names);
	free(b->memory);
}

#endif
