/* corrupt_test.c - ten thousand records, each corrupted in one of many ways: ten thousand misses and not one wrong byte. */
#include "tests/unit/daemon/seg/world.h"

#define RECORDS 10000u
#define SEGMENT (1u << 20)
#define BYTES   (160u << 20)

static const struct seg_conf conf = {.max_objects = 2 * RECORDS, .verify = true};

struct place {
	uint64_t header, payload, bytes;
};
static struct place place[RECORDS];

static uint64_t size_of(uint32_t key)
{
	return key % 4 == 0 ? 8192 : 24 + mix(key) % 16000; /* enough of one size to swap */
}

/* A store with all records in it, written and flushed. */
static struct world *filled(uint64_t seed)
{
	struct world *w = world_get();
	struct disk_sim_conf dc = {.bytes = BYTES, .seed = seed, .cache_bytes = 1 << 20};

	w->rnd = seed;
	w->ended = NULL;
	world_create(w, &dc, SEGMENT);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	for (uint32_t i = 0; i < RECORDS; i++) {
		struct slot *p;
		while (!(p = world_slot(w)))
			seg_run(w->s, MS);
		content(i, 1, size_of(i), p->mem);
		world_start(w, p, SEG_WRITE, i, size_of(i));
	}
	while (w->busy)
		seg_run(w->s, MS);
	assert_int_equal(world_do(w, world_slot(w), SEG_FLUSH, 0, 0), 0);
	for (uint32_t i = 0; i < RECORDS; i++) {
		struct seg_key k = key_of(w, i);
		uint32_t e = seg_index_find(&w->s->ix, &k);
		assert_int_not_equal(e, 0);
		place[i].header = (uint64_t)w->s->ix.e[e].at * FORMAT_BLOCK;
		place[i].payload = place[i].header + FORMAT_BLOCK;
		place[i].bytes = size_of(i);
	}
	return w;
}

static void drop(struct world *w)
{
	if (w->s)
		world_close(w, 1000);
	world_destroy(w);
}

static void restart(struct world *w)
{
	world_close(w, 1000);
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	seg_check(w->s);
}

static void swap(uint8_t *a, uint8_t *b, uint64_t n)
{
	for (uint64_t i = 0; i < n; i++) {
		uint8_t t = a[i];
		a[i] = b[i];
		b[i] = t;
	}
}

/* One kind of damage to the payload. Every one changes at least a byte. */
static void spoil(struct world *w, uint32_t i)
{
	uint8_t *p = disk_sim_medium(w->sim) + place[i].payload, *q;
	uint64_t n = place[i].bytes, last = (n - 1) / FORMAT_BLOCK * FORMAT_BLOCK;

	switch (i % 8) {
	case 0: /* whole payloads of two records changed places: 0 and 4 of each eight */
		assert_true(place[i + 4].bytes == n);
		swap(p, disk_sim_medium(w->sim) + place[i + 4].payload, n);
		break;
	case 1:
		p[any_below(w, n)] ^= (uint8_t)(1u << any_below(w, 8));
		break;
	case 2:
		for (uint32_t k = 0; k < 9; k++)
			p[k * n / 9] ^= 0xff;
		break;
	case 3: /* a block that was never written */
		memset(p + last, 0, n - last);
		break;
	case 4: /* spoiled with 0 */
		break;
	case 5:
		p[n - 1] ^= 0x80;
		break;
	case 6: /* written a sector too late */
		for (uint64_t k = n; k-- > 16;)
			p[k] = p[k - 16];
		break;
	default: /* a block of the neighbour */
		q = disk_sim_medium(w->sim) + place[i - 3].payload;
		memcpy(p, q, n < 512 ? n : 512);
		break;
	}
}

/* Reads everything; returns the misses. Wrong bytes end the test in world_read. */
static uint32_t misses(struct world *w, uint32_t *hits)
{
	uint32_t n = 0, version;

	*hits = 0;
	for (uint32_t i = 0; i < RECORDS; i++) {
		int rc = world_read(w, i, &version);
		if (!rc) {
			++*hits;
			continue;
		}
		assert_true(rc == -EILSEQ || rc == -ENOENT);
		assert_int_equal(world_size(w, i), 0); /* not offered again */
		n++;
	}
	return n;
}

static void payload_while_running(void **state)
{
	struct world *w = filled(1);
	struct seg_stats st;
	uint32_t hits, n;

	(void)state;
	assert_int_equal(misses(w, &hits), 0);
	assert_int_equal(hits, RECORDS);
	for (uint32_t i = 0; i < RECORDS; i++)
		spoil(w, i);
	n = misses(w, &hits);
	seg_stats(w->s, &st);
	printf("# payload: %u records spoiled, %u misses, %u hits, %" PRIu64 " bad checksums counted\n", RECORDS, n,
	       hits, st.bad_checksums);
	assert_int_equal(n, RECORDS);
	assert_int_equal(hits, 0);
	assert_true(st.bad_checksums > 0);
	assert_int_equal(st.objects, 0);
	world_recount(w);
	drop(w);
}

/* The index comes from summaries that are right, the payload is not. */
static void payload_across_restart(void **state)
{
	struct world *w = filled(2);
	uint32_t hits, n;

	(void)state;
	for (uint32_t i = 0; i < RECORDS; i++)
		spoil(w, i);
	restart(w);
	n = misses(w, &hits);
	printf("# payload, restart: %u records spoiled, %u misses, %u hits\n", RECORDS, n, hits);
	assert_int_equal(n, RECORDS);
	assert_int_equal(hits, 0);
	drop(w);
}

/* No summary can be read: recovery looks at every block. */
static void spoil_summaries(struct world *w)
{
	for (uint32_t i = 0; i < w->super.segments; i++)
		disk_sim_medium(w->sim)[format_segment_at(&w->super, i) + FORMAT_BLOCK + 20] ^= 1;
}

static void scan_finds_what_is_right(void **state)
{
	struct world *w = filled(3);
	struct seg_stats st;
	uint32_t hits;

	(void)state;
	spoil_summaries(w);
	restart(w);
	seg_stats(w->s, &st);
	assert_true(st.scanned_segments > 50);
	assert_int_equal(misses(w, &hits), 0);
	assert_int_equal(hits, RECORDS);
	world_recount(w);
	drop(w);
}

static void scan_refuses_spoiled_payload(void **state)
{
	struct world *w = filled(4);
	uint32_t hits, n;

	(void)state;
	for (uint32_t i = 0; i < RECORDS; i++)
		spoil(w, i);
	spoil_summaries(w);
	restart(w);
	n = misses(w, &hits);
	printf("# payload, scan: %u records spoiled, %u misses, %u hits\n", RECORDS, n, hits);
	assert_int_equal(n, RECORDS);
	assert_int_equal(hits, 0);
	drop(w);
}

static void spoil_header(struct world *w, uint32_t i)
{
	uint8_t *m = disk_sim_medium(w->sim), *h = m + place[i].header;
	uint32_t at;

	switch (i % 5) {
	case 0: /* a bit of what is used of it, or of its checksum */
		h[any_below(w, 128)] ^= (uint8_t)(1u << any_below(w, 8));
		break;
	case 1:
		h[FORMAT_BLOCK - 1 - any_below(w, 4)] ^= 1;
		break;
	case 2: /* another record's header, itself without fault: it names another place */
		memcpy(h, m + place[(i + 5) % RECORDS].header, FORMAT_BLOCK);
		break;
	case 3: /* torn: the second half is that of another */
		at = 512u * (1 + (uint32_t)any_below(w, 7));
		memcpy(h + at, m + place[(i + 1) % RECORDS].header + at, FORMAT_BLOCK - at);
		h[FORMAT_BLOCK - 2] ^= 0x55;
		break;
	default:
		memset(h, 0, FORMAT_BLOCK);
		break;
	}
}

/* A record without a header is none, however right its payload. */
static void headers(void **state)
{
	struct world *w = filled(5);
	uint32_t hits, n;

	(void)state;
	for (uint32_t i = 0; i < RECORDS; i++)
		spoil_header(w, i);
	/* The running store needs no headers: its bytes are right and are served. */
	assert_int_equal(misses(w, &hits), 0);
	assert_int_equal(hits, RECORDS);
	spoil_summaries(w);
	restart(w);
	n = misses(w, &hits);
	printf("# headers, scan: %u records spoiled, %u misses, %u hits\n", RECORDS, n, hits);
	assert_int_equal(n, RECORDS);
	assert_int_equal(hits, 0);
	world_recount(w);
	drop(w);
}

/* Summaries spoiled anywhere: what they said is found by looking, and nothing else is. */
static void summaries_spoiled_anywhere(void **state)
{
	struct world *w = filled(6);
	uint32_t hits;

	(void)state;
	world_close(w, 1000);
	for (uint32_t i = 0; i < w->super.segments; i++) {
		struct format_seal seal;
		uint8_t *m = disk_sim_medium(w->sim) + format_segment_at(&w->super, i);
		if (!format_seal_decode(m + FORMAT_BLOCK, &seal))
			m[seal.summary_at + any_below(w, seal.summary_bytes)] ^= 4;
	}
	assert_int_equal(world_open(w, &conf, 0), 0);
	assert_true(world_recover(w));
	assert_int_equal(misses(w, &hits), 0);
	assert_int_equal(hits, RECORDS);
	drop(w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(payload_while_running),
		cmocka_unit_test(payload_across_restart),
		cmocka_unit_test(scan_finds_what_is_right),
		cmocka_unit_test(scan_refuses_spoiled_payload),
		cmocka_unit_test(headers),
		cmocka_unit_test(summaries_spoiled_anywhere),
	};
	int rc;

	world_seed = UINT64_MAX;
	log_set_level(LOG_LVL_ERROR + 1);
	cmocka_set_message_output(CM_OUTPUT_TAP);
	rc = cmocka_run_group_tests(tests, NULL, NULL);
	world_free();
	return rc;
}
