/* pool_test.c - the threads below fs and resp: order, limits, and a close that waits for nobody for ever. */
#include "tests/unit/daemon/l2/l2_sync.h"

#include "daemon/l2/pool.h"

#include <errno.h>
#include <pthread.h>
#include <unistd.h>

/* What the adapter would be: every operation waits for its turn. */
static struct {
	pthread_mutex_t m;
	pthread_cond_t changed;
	uint32_t let_go, inside, most_inside, begun;
	uint64_t bytes_inside, most_bytes;
	enum l2_work order[64];
} gate = {.m = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static _Atomic uint32_t ended, cancelled;

static int pass(void *ctx, struct l2_job *job)
{
	(void)ctx;
	pthread_mutex_lock(&gate.m);
	if (gate.begun < 64)
		gate.order[gate.begun] = job->kind;
	gate.begun++;
	gate.inside++;
	gate.bytes_inside += job->bytes;
	gate.most_inside = gate.inside > gate.most_inside ? gate.inside : gate.most_inside;
	gate.most_bytes = gate.bytes_inside > gate.most_bytes ? gate.bytes_inside : gate.most_bytes;
	pthread_cond_broadcast(&gate.changed);
	while (!gate.let_go)
		pthread_cond_wait(&gate.changed, &gate.m);
	gate.let_go--;
	gate.inside--;
	gate.bytes_inside -= job->bytes;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.m);
	for (uint32_t i = 0; i < job->n && job->kind == L2_WORK_FIND; i++)
		job->found[i] = job->keys[i].hash.b[0];
	if (job->kind == L2_WORK_LOAD)
		job->sums[0] = 4711;
	return 0;
}

static void let_go(uint32_t n)
{
	pthread_mutex_lock(&gate.m);
	gate.let_go += n;
	pthread_cond_broadcast(&gate.changed);
	pthread_mutex_unlock(&gate.m);
}

static void wait_begun(uint32_t n)
{
	pthread_mutex_lock(&gate.m);
	while (gate.begun < n)
		pthread_cond_wait(&gate.changed, &gate.m);
	pthread_mutex_unlock(&gate.m);
}

static void count_end(struct l2_io *io)
{
	cancelled += io->result == -ECANCELED;
	ended++;
}

static int reset(void **state)
{
	(void)state;
	gate.let_go = gate.inside = gate.most_inside = gate.begun = 0;
	gate.bytes_inside = gate.most_bytes = 0;
	ended = cancelled = 0;
	return 0;
}

static struct l2_pool *start(struct l2_pool_conf c)
{
	static const struct l2_env env;
	struct l2_pool *p;
	c.env = &env;
	c.name = "test";
	c.run = pass;
	assert_int_equal(l2_pool_start(&c, &p, NULL), 0);
	return p;
}

static struct l2_io io_of(uint64_t bytes, uint32_t *sums)
{
	return (struct l2_io){.bytes = bytes, .sums = sums, .done = count_end};
}

static void wait_ended(uint32_t n)
{
	for (int i = 0; i < 10000 && ended < n; i++)
		usleep(1000);
	assert_int_equal(ended, n);
}

static void reads_go_first(void **state)
{
	(void)state;
	struct l2_pool *p = start((struct l2_pool_conf){.threads = 1});
	uint32_t sums[5] = {0};
	struct l2_io io[5];
	for (int i = 0; i < 5; i++)
		io[i] = io_of(10, &sums[i]);
	l2_pool_io(p, L2_WORK_STORE, &io[0]);
	wait_begun(1);
	l2_pool_io(p, L2_WORK_STORE, &io[1]);
	l2_pool_io(p, L2_WORK_FLUSH, &io[2]);
	l2_pool_io(p, L2_WORK_LOAD, &io[3]);
	l2_pool_io(p, L2_WORK_LOAD, &io[4]);
	uint64_t loads, stores, queued;
	l2_pool_counts(p, &loads, &stores, &queued);
	assert_true(loads == 2 && stores == 2 && queued == 5);
	let_go(5);
	wait_ended(5);
	static const enum l2_work want[] = {L2_WORK_STORE, L2_WORK_LOAD, L2_WORK_LOAD, L2_WORK_FLUSH, L2_WORK_STORE};
	assert_memory_equal(gate.order, want, sizeof(want));
	assert_true(sums[3] == 4711 && sums[2] == 0);
	assert_true(l2_pool_stop(p, 5000));
}

static void limits_by_count_and_bytes(void **state)
{
	enum { N = 12 };
	(void)state;
	static uint32_t sums[N];
	struct l2_io io[N];
	struct l2_pool *p = start((struct l2_pool_conf){.threads = 8, .max_loads = 3});
	for (int i = 0; i < N; i++) {
		io[i] = io_of(10, &sums[i]);
		l2_pool_io(p, L2_WORK_LOAD, &io[i]);
	}
	wait_begun(3);
	usleep(20000);
	let_go(N);
	wait_ended(N);
	assert_int_equal(gate.most_inside, 3);
	assert_true(l2_pool_stop(p, 5000));
	reset(NULL);
	p = start((struct l2_pool_conf){.threads = 8, .max_load_bytes = 250, .hold_stores = true});
	for (int i = 0; i < N; i++) {
		io[i] = io_of(i == 5 ? 1000 : 100, &sums[i]);
		l2_pool_io(p, i < 6 ? L2_WORK_LOAD : L2_WORK_STORE, &io[i]);
	}
	wait_begun(2);
	usleep(20000);
	assert_int_equal(gate.begun, 2);
	let_go(N);
	wait_ended(6); /* the one beyond the limit went alone; stores wait */
	assert_int_equal(gate.most_bytes, 1000);
	usleep(20000);
	assert_int_equal(ended, 6);
	l2_pool_release_stores(p);
	wait_ended(N);
	assert_true(l2_pool_stop(p, 5000));
	assert_int_equal(cancelled, 0);
}

static void sizes_that_are_none(void **state)
{
	(void)state;
	struct l2_pool *p = start((struct l2_pool_conf){.threads = 1});
	struct l2_io none = io_of(0, NULL), large = io_of(SEG_MAX_BYTES + 1ull, NULL);
	l2_pool_io(p, L2_WORK_STORE, &none);
	l2_pool_io(p, L2_WORK_LOAD, &large);
	wait_ended(2);
	assert_true(none.result == -EFBIG && large.result == -EFBIG && gate.begun == 0);
	assert_true(l2_pool_stop(p, 5000));
}

static void find_ended(struct l2_find *f)
{
	(void)f;
	ended++;
}

static void long_finds_go_in_pieces(void **state)
{
	enum { N = 3 * L2_POOL_FIND + 5 };
	(void)state;
	static struct seg_key keys[N];
	static uint64_t found[N];
	struct l2_pool *p = start((struct l2_pool_conf){.threads = 2});
	for (uint32_t i = 0; i < N; i++)
		keys[i].hash.b[0] = (uint8_t)(i % 251 + 1);
	struct l2_find f = {.keys = keys, .bytes = found, .n = N, .done = find_ended};
	let_go(4);
	l2_pool_find(p, &f);
	wait_ended(1);
	assert_int_equal(gate.begun, 4);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(found[i], i % 251 + 1);
	assert_true(l2_pool_stop(p, 5000));
}

static struct l2_pool *left; /* so that it counts as reachable */

/* One hangs in the kernel, so to say: everything is given back, and when it wakes it touches nothing. */
static void a_close_waits_for_nobody(void **state)
{
	(void)state;
	static struct seg_key keys[3];
	static uint64_t found[3];
	uint32_t sums[3] = {0};
	struct l2_io io[3];
	left = start((struct l2_pool_conf){.threads = 2});
	for (int i = 0; i < 3; i++)
		io[i] = io_of(10, &sums[i]);
	l2_pool_io(left, L2_WORK_LOAD, &io[0]);
	struct l2_find f = {.keys = keys, .bytes = found, .n = 3, .done = find_ended};
	l2_pool_find(left, &f);
	wait_begun(2);
	l2_pool_io(left, L2_WORK_LOAD, &io[1]);
	assert_false(l2_pool_stop(left, 30));
	assert_true(ended == 3 && cancelled == 2);
	l2_pool_io(left, L2_WORK_STORE, &io[2]);
	assert_true(ended == 4 && cancelled == 3);
	memset(io, 0x5a, sizeof(io));
	memset(&f, 0x5a, sizeof(f));
	let_go(2);
	pthread_mutex_lock(&gate.m);
	while (gate.inside)
		pthread_cond_wait(&gate.changed, &gate.m);
	pthread_mutex_unlock(&gate.m);
	usleep(50000);
	assert_int_equal(ended, 4);
	assert_true(sums[0] == 0 && io[0].result == 0x5a5a5a5a);
}

int main(void)
{
#define T(n, f)                                            \
	{                                                  \
		"daemon/l2: pool " n, f, reset, NULL, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("1 reads go first", reads_go_first),
		T("2 limits by count and bytes", limits_by_count_and_bytes),
		T("3 sizes that are none", sizes_that_are_none),
		T("4 long finds go in pieces", long_finds_go_in_pieces),
		T("5 a close waits for nobody", a_close_waits_for_nobody),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
