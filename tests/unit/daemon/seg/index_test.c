/* index_test.c - the index against a plain model, its cost per object and per lookup, and lookups while the owner works. */
#include "tests/unit/daemon/seg/box.h"

#include "daemon/base/clock.h"
#include "daemon/base/mem.h"

#include <pthread.h>
#include <stdatomic.h>

/* A store that is nothing but its index and its segment table. */
static void bare(struct seg *s, uint32_t max)
{
	memset(s, 0, sizeof(*s));
	assert_int_equal(format_geometry(1ull << 40, 1u << 30, &s->super), 0);
	lk_init(&s->lk, LK_SEG);
	s->segment = calloc(s->super.segments, sizeof(*s->segment));
	assert_non_null(s->segment);
	for (uint32_t i = 0; i < s->super.segments; i++)
		s->segment[i].state = SEGMENT_SEALED;
	assert_int_equal(seg_index_create(&s->ix, max), 0);
}

static void bare_end(struct seg *s)
{
	seg_index_destroy(&s->ix);
	free(s->segment);
	lk_destroy(&s->lk);
}

static struct seg_key key_of(uint64_t k)
{
	return (struct seg_key){.name = 1 + (uint32_t)(k % 3), .hash = image_hash(k)};
}

static uint64_t random_of(uint64_t *x)
{
	*x = *x * 6364136223846793005u + 1442695040888963407u;
	return *x >> 33;
}

#define KEYS 500u

/* What counts for a key: an object, a removal, or nothing. */
struct model {
	uint64_t sequence, size; /* size 0: removed */
	uint32_t segment;
};

static void model_segment_freed(struct model *m, uint32_t segment)
{
	for (uint32_t i = 0; i < KEYS; i++)
		if (m[i].sequence && m[i].segment == segment)
			m[i] = (struct model){0};
}

static void model_step(struct seg *s, struct model *m, const struct seg_key *key, uint64_t offset, uint64_t seq,
		       uint64_t *x)
{
	uint64_t bytes = 1 + random_of(x) % 60000, what = random_of(x) % 100, got;
	bool newer = seq > m->sequence;

	if (what < 60) {
		assert_int_equal(seg_enter(s, key, offset, bytes, 0, seq), newer);
		if (newer)
			*m = (struct model){seq, bytes, seg_segment_of(s, offset)};
	} else if (what < 70) {
		assert_true(seg_enter_removal(s, key, offset, seq));
		if (newer)
			*m = (struct model){seq, 0, seg_segment_of(s, offset)};
	} else if (what < 80) {
		bool goes = m->size && m->sequence < seq;

		assert_int_equal(seg_forget(s, key, seq), goes);
		if (goes)
			*m = (struct model){0};
	} else {
		seg_find(s, key, 1, &got);
		assert_int_equal(got, m->size);
	}
}

static void against_a_model(void **state)
{
	struct seg s;
	struct model m[KEYS] = {{0}};
	uint64_t x = 99, sequence = 0;

	(void)state;
	bare(&s, 60000);
	for (uint32_t step = 1; step < 40000; step++) {
		uint32_t k = (uint32_t)(random_of(&x) % KEYS), segment = step / 1000 % 30;
		struct seg_key key = key_of(k);
		uint64_t seq = random_of(&x) % 4 ? ++sequence : 1 + random_of(&x) % (sequence + 1);

		if (step % 1000 == 0) {
			seg_index_check(&s);
			seg_age_segment(&s, (segment + 5) % 30);
			seg_forget_segment(&s, segment);
			model_segment_freed(m, segment);
			seg_index_check(&s);
		}
		model_step(&s, &m[k], &key, format_segment_at(&s.super, segment) + FORMAT_RECORDS + step % 1000 * 65536,
			   seq, &x);
	}
	bare_end(&s);
}

static void full(void **state)
{
	struct seg s;
	struct seg_key key;
	uint64_t offset;

	(void)state;
	bare(&s, 100);
	offset = format_segment_at(&s.super, 2) + FORMAT_RECORDS;
	for (uint32_t i = 0; i < 200; i++) {
		key = key_of(i);
		assert_int_equal(seg_enter(&s, &key, offset + i * 8192, 5, 0, i + 1), i < 100);
	}
	seg_index_check(&s);
	key = key_of(5);
	assert_false(seg_enter_removal(&s, &key, offset, 1000)); /* no room to remember it, but gone it is */
	assert_int_equal(seg_index_find(&s.ix, &key), 0);
	assert_int_equal(seg_forget_segment(&s, 2), 99);
	seg_index_check(&s);
	assert_int_equal(s.ix.used, 0);
	assert_true(seg_enter(&s, &key, offset, 5, 0, 2000));
	bare_end(&s);
}

static void no_memory(void **state)
{
	struct seg_index ix;

	(void)state;
	for (uint64_t n = 1; n <= 2; n++) {
		mem_fail_at(n);
		assert_int_equal(seg_index_create(&ix, 1000), -ENOMEM);
		mem_fail_at(0);
	}
	assert_int_equal(seg_index_create(&ix, 1u << 31), 0); /* address space only */
	seg_index_destroy(&ix);
}

/* Grows to a million; memory and time per object are told, memory is held to its contract. */
static void million(void **state)
{
	struct seg s;
	const char *scale = getenv("LMCA_TEST_SCALE");
	uint32_t n = scale && atoi(scale) > 1 ? 100000 : 1000000, longest = 0;
	uint64_t t0, entered, found, bytes[256], hits = 0, per;
	static struct seg_key keys[256];

	(void)state;
	bare(&s, n);
	t0 = clock_ns();
	for (uint32_t i = 0; i < n; i++) {
		struct seg_key key = key_of(i);

		assert_true(seg_enter(&s, &key,
				      format_segment_at(&s.super, i >> 14) + FORMAT_RECORDS + (i & 0x3fff) * 40960ull,
				      32768, i, i + 1));
	}
	entered = clock_ns() - t0;
	t0 = clock_ns();
	for (uint32_t at = 0; at < n; at += 256) {
		for (uint32_t i = 0; i < 256; i++)
			keys[i] = key_of((at + i) * 2654435761ull % (2ull * n));
		seg_find(&s, keys, 256, bytes);
		for (uint32_t i = 0; i < 256; i++)
			hits += bytes[i] == 32768;
	}
	found = clock_ns() - t0;
	for (uint32_t b = 0; b < s.ix.nbuckets; b++) {
		uint32_t length = 0;

		for (uint32_t id = s.ix.bucket[b]; id; id = s.ix.e[id].chain)
			length++;
		longest = length > longest ? length : longest;
	}
	per = (s.ix.hi * sizeof(struct entry) + s.ix.nbuckets * sizeof(uint32_t)) / n;
	print_message("%u objects: %llu bytes each, buckets included; longest chain %u; entering %llu ns, finding "
		      "(half absent, key "
		      "made, in batches) %llu ns\n",
		      n, (unsigned long long)per, longest, (unsigned long long)(entered / n),
		      (unsigned long long)(found / n));
	assert_true(per <= 68);
	assert_true(longest < 16);
	assert_true(hits > n / 3 && hits < n);
	seg_index_check(&s);
	bare_end(&s);
}

struct reader {
	struct box *b;
	_Atomic bool stop;
	uint64_t lookups, found, worst_ns;
};

static void *look_up(void *arg)
{
	struct reader *r = arg;
	struct seg_key keys[64];
	uint64_t bytes[64], cursor = 0, x = 7;
	struct seg_stats st;

	while (!atomic_load(&r->stop)) {
		uint64_t t0;

		for (uint32_t i = 0; i < 64; i++)
			keys[i] = (struct seg_key){.name = r->b->name, .hash = image_hash(random_of(&x) % 2000)};
		t0 = clock_ns();
		seg_find(r->b->s, keys, 64, bytes);
		t0 = clock_ns() - t0;
		r->worst_ns = t0 > r->worst_ns ? t0 : r->worst_ns;
		for (uint32_t i = 0; i < 64; i++) {
			assert_true(bytes[i] == 0 || bytes[i] == 20000);
			r->found += bytes[i] != 0;
		}
		seg_list(r->b->s, &cursor, keys, bytes, 64);
		seg_stats(r->b->s, &st);
		r->lookups += 64;
	}
	return NULL;
}

/* Other threads look up, list and ask for figures while the owner writes, evicts, removes, clears. */
static void from_other_threads(void **state)
{
	struct box b;
	struct reader r[2];
	pthread_t t[2];

	(void)state;
	box_start(&b, 12, 1 << 20);
	for (uint32_t i = 0; i < 2; i++) {
		r[i] = (struct reader){.b = &b};
		assert_int_equal(pthread_create(&t[i], NULL, look_up, &r[i]), 0);
	}
	for (uint32_t i = 0; i < 4000; i++) {
		int rc = box_put(&b, i % 2000, 20000);

		assert_true(rc == 0 || rc == -EEXIST);
		if (i % 7 == 0)
			box_remove(&b, (i - 20) % 2000);
		if (i % 11 == 0)
			box_get(&b, i % 2000, 20000);
		if (i == 3000)
			assert_int_equal(box_clear(&b), 0);
	}
	for (uint32_t i = 0; i < 2; i++) {
		atomic_store(&r[i].stop, true);
		pthread_join(t[i], NULL);
		assert_true(r[i].lookups > 0 && r[i].found > 0);
		print_message("%llu lookups, the slowest batch of 64 took %llu us\n", (unsigned long long)r[i].lookups,
			      (unsigned long long)r[i].worst_ns / 1000);
	}
	assert_true(box_stats(&b).evicted_segments > 0);
	box_end(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(against_a_model),    cmocka_unit_test(full),
		cmocka_unit_test(no_memory),          cmocka_unit_test(million),
		cmocka_unit_test(from_other_threads),
	};

	return cmocka_run_group_tests_name("index of a segment store", tests, NULL, NULL);
}
