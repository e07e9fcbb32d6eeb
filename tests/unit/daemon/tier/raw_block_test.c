/* raw_block_test.c - the tier over a real store in a file: what went down comes up again with the same bytes, also after a restart. */
#include "tests/unit/daemon/tier/fixture.h"

#define OBJECT (CRC_BLOCK + 12 * UNIT)
#define MANY   48u

struct rawfix {
	struct tfix x;
	char path[64];
	struct seg_names *names;
};

/* A server's start: the same device, an empty L1. */
static void start(struct rawfix *r)
{
	char json[256];
	struct l2_conf *c;
	struct l2_stats st;
	struct why why;

	tx_conf(&r->x, 2 * MANY * OBJECT / UNIT);
	assert_int_equal(seg_names_create(&r->names), 0);
	for (uint32_t i = 1; i <= NAME; i++) {
		struct seg_name name = {.model = slice_str("model"), .salt = slice_str(""), .kv_rank = i};
		assert_int_equal(seg_name_get(r->names, &name), i);
	}
	snprintf(json, sizeof(json), "{\"type\": \"raw_block\", \"device_path\": \"%s\", \"capacity_bytes\": %llu}",
		 r->path, 256ull << 20);
	if (l2_conf_parse(json, 0, &c, &why))
		fail_msg("%s", why.text);
	struct disk_buffer b = {.base = arena_base(r->x.f.a), .bytes = arena_bytes(r->x.f.a)};
	struct l2_env env = {.names = r->names, .buffers = &b, .nbuffers = 1, .chunk_tokens = 256};
	if (l2_create(c, &env, &r->x.adapters[0], &why))
		fail_msg("%s", why.text);
	l2_conf_free(c);
	r->x.conf.nadapters = 1;
	r->x.bytes = OBJECT;
	r->x.conf.max_dirty_bytes = 2ull * MANY * OBJECT;
	r->x.conf.max_load_bytes = 8 * OBJECT;
	r->x.conf.names = r->names;
	tx_open(&r->x);
	EVENTUALLY((r->x.adapters[0]->ops->stats(r->x.adapters[0], &st), strcmp(st.state, "ok") == 0));
}

static void stop(struct rawfix *r)
{
	tx_close(&r->x, 0);
	seg_names_destroy(r->names);
}

static void flushed(void *ctx, int result)
{
	*(_Atomic int *)ctx = result ? result : 1;
}

static void fetch_and_check(struct rawfix *r, uint64_t id)
{
	const struct heard *h;

	assert_int_equal(tx_prefetch(&r->x, id, 0, MANY + 5), 0);
	h = tx_wait(&r->x, id);
	assert_int_equal(h->r.objects, MANY);
	assert_int_equal(h->r.from_l2, MANY);
	assert_int_equal(h->r.end, TIER_COMPLETE);
	tx_release(&r->x, id, 0); /* compares */
}

static void test_1_down_and_up_and_after_a_restart(void **state)
{
	_Atomic int flush = 0;
	struct rawfix r;
	(void)state;

	memset(&r, 0, sizeof(r));
	snprintf(r.path, sizeof(r.path), "/tmp/lmca-tier-%d", getpid());
	start(&r);
	tx_store(&r.x, 0, MANY);
	assert_int_equal(tier_flush(r.x.t, flushed, (void *)&flush), 0);
	tx_drain(&r.x);
	assert_int_equal(tstats(&r.x).stored_objects, MANY);
	EVENTUALLY(flush);
	assert_int_equal(flush, 1);
	store_clear(r.x.f.s);
	fetch_and_check(&r, 1);
	store_clear(r.x.f.s);
	/* Nothing of it was there by chance. */
	memset(arena_base(r.x.f.a), 0xee, arena_bytes(r.x.f.a));
	fetch_and_check(&r, 2);
	stop(&r);
	start(&r);
	fetch_and_check(&r, 1);
	/* What came up is not written down again: it is there. */
	store_clear(r.x.f.s);
	tx_store(&r.x, 0, MANY);
	tx_drain(&r.x);
	assert_int_equal(tstats(&r.x).store_present, MANY);
	stop(&r);
	unlink(r.path);
}

/* Bytes on the medium that are not what was stored are a miss, and the prefix before them is delivered. */
static void test_2_rotten_bytes_end_the_prefix(void **state)
{
	struct rawfix r;
	uint8_t *want = malloc(UNIT), *page = malloc(UNIT);
	struct store_hash h = key(9);
	uint64_t found = 0;
	FILE *f;
	(void)state;

	memset(&r, 0, sizeof(r));
	snprintf(r.path, sizeof(r.path), "/tmp/lmca-tier-%d", getpid());
	start(&r);
	tx_store(&r.x, 0, MANY);
	tx_drain(&r.x);
	stop(&r);
	fake_fill(want, UNIT, &h);
	f = fopen(r.path, "r+b");
	assert_non_null(f);
	for (uint64_t at = 0; !found && fread(page, UNIT, 1, f) == 1; at += UNIT)
		found = memcmp(page, want, UNIT) == 0 ? at : 0;
	assert_int_not_equal(found, 0);
	page[100] ^= 1;
	fseek(f, (long)found, SEEK_SET);
	fwrite(page, UNIT, 1, f);
	fclose(f);
	start(&r);
	tx_prefetch(&r.x, 1, 0, MANY);
	assert_int_equal(tx_wait(&r.x, 1)->r.objects, 9);
	assert_true(r.x.h[1].r.end == TIER_FAILED || r.x.h[1].r.found == 9); /* recovery may have seen it */
	tx_release(&r.x, 1, 0);
	stop(&r);
	unlink(r.path);
	free(want);
	free(page);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_down_and_up_and_after_a_restart),
		cmocka_unit_test(test_2_rotten_bytes_end_the_prefix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
