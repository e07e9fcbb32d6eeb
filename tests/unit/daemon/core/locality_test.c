/* Which node an engine is on, which pool serves it, which worker copies for it, and what is counted. */
#include "tests/unit/daemon/core/server_fixture.h"

#include "daemon/core/peer.h"

#include <sys/stat.h>

/* ---- finding a node ------------------------------------------------------------------------------------------------- */

static uint64_t blocks_of(const struct engine_memory *m)
{
	uint64_t sum = 0;
	struct stat st;

	for (uint32_t i = 0; i < m->shape.layers; i++) {
		int fd = shm_open(m->name[i], O_RDONLY, 0);

		assert_true(fd >= 0 && fstat(fd, &st) == 0);
		sum += (uint64_t)st.st_blocks;
		close(fd);
	}
	return sum;
}

static void test_1_pages_tell_the_node(void **state)
{
	struct machine *m;
	struct why why;
	struct ctx *c;
	struct fx f;
	(void)state;

	ok_or_fail(machine_load(NULL, &m, &why), &why);
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 64, 16);
	c = ctx_get(f.srv->contexts, INSTANCE);
	assert_non_null(c);
	assert_false(node_known(c->node)); /* without a machine nothing is known, node 0 least of all */
	f.srv->machine = m;
	locality_find(f.srv, c);
	assert_false(node_known(c->node) || node_known(c->home)); /* none of its pages is there yet */
	assert_int_equal(c->node_source, CTX_NODE_UNKNOWN);
	assert_int_equal(blocks_of(&f.mem), 0); /* and to look brought none in */
	for (uint32_t i = 0; i < f.mem.shape.layers; i++)
		memset(f.mem.base[i], 1, f.mem.bytes);
	locality_find(f.srv, c);
	if (m->limits.move_pages == PROBE_OK) {
		assert_true(node_known(c->node) && machine_node(m, c->node));
		assert_int_equal(c->node_source, CTX_NODE_PAGES);
	} else {
		assert_false(node_known(c->node));
	}
	ctx_put(f.srv->contexts, c);
	f.srv->machine = NULL;
	machine_destroy(m);
	fx_close(&f);
}

static void test_2_else_the_cpus_of_its_process(void **state)
{
	struct machine *m;
	struct cpu_set all, one = {0};
	struct why why;
	struct ctx *c;
	struct fx f;
	(void)state;

	ok_or_fail(machine_load(NULL, &m, &why), &why);
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 64, 16);
	f.srv->machine = m;
	c = ctx_create((uint64_t)getpid(), CTX_SLOTS, slice_str("m"), slice_str("vllm"), 1);
	assert_non_null(c);
	locality_find(f.srv, c); /* its process is not proven to be ours */
	assert_int_equal(c->node_source, CTX_NODE_UNKNOWN);
	c->pidfd = open("/dev/null", O_RDONLY);
	c->pid = (uint32_t)getpid();
	assert_int_equal(cpus_of_thread(0, 0, &all), 0);
	cpus_add(&one, (uint32_t)cpus_next(&all, 0));
	assert_int_equal(cpus_pin_self(&one), 0);
	locality_find(f.srv, c);
	assert_int_equal(cpus_pin_self(&all), 0);
	if (node_known(m->cpus[0].node)) {
		assert_int_equal(c->node_source, CTX_NODE_CPUS);
		for (uint32_t i = 0; i < m->ncpus; i++) {
			if (cpus_has(&one, m->cpus[i].os))
				assert_true(node_same(c->node, m->cpus[i].node));
		}
	}
	for (uint32_t i = 0; i < m->ncpus; i++) /* as if each CPU were on a node of its own */
		m->cpus[i].node = node_of((int)i);
	locality_find(f.srv, c);
	assert_int_equal(c->node_source, cpus_count(&all) > 1 ? CTX_NODE_UNKNOWN : CTX_NODE_CPUS);
	for (uint32_t i = 0; i < m->ncpus; i++)
		m->cpus[i].node = NODE_UNKNOWN;
	locality_find(f.srv, c);
	assert_int_equal(c->node_source, CTX_NODE_UNKNOWN);
	ctx_put(f.srv->contexts, c);
	f.srv->machine = NULL;
	machine_destroy(m);
	fx_close(&f);
}

/* Nodes 0 and 1 have pools; 5 is nearer to 1; of 6 no distance is known. */
static void test_3_the_nearest_pool_serves(void **state)
{
	uint32_t d0[4] = {10, 21, 31, 0}, d1[4] = {21, 10, 20, 0}, d5[4] = {31, 20, 10, 0};
	struct mach_node nodes[4] = {{.id = {0}, .distance = d0},
				     {.id = {1}, .distance = d1},
				     {.id = {5}, .distance = d5},
				     {.id = {6}, .distance = NULL}};
	struct machine m = {.nodes = nodes, .nnodes = 4};
	struct fx f;
	(void)state;

	fx_ranges = 2;
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 64, 16);
	fx_ranges = 1;
	assert_false(node_known(locality_home(f.srv, node_of(0)))); /* no machine */
	f.srv->machine = &m;
	assert_int_equal(locality_home(f.srv, node_of(0)).os, 0);
	assert_int_equal(locality_home(f.srv, node_of(1)).os, 1);
	assert_int_equal(locality_home(f.srv, node_of(5)).os, 1);
	assert_false(node_known(locality_home(f.srv, node_of(6))));
	assert_false(node_known(locality_home(f.srv, node_of(7))));
	assert_false(node_known(locality_home(f.srv, NODE_UNKNOWN)));
	f.srv->machine = NULL;
	fx_close(&f);
}

/* ---- what follows from it ------------------------------------------------------------------------------------------- */

static void series(struct server *srv)
{
	static const char *const ops[] = {"store", "retrieve"}, *const where[] = {"local", "remote", "unknown"};

	for (int op = 0; op < LOCALITY_OPS; op++) {
		for (int l = 0; l < LOCALITIES; l++)
			srv->numa_bytes[op][l] =
				metric_series_get(srv->metrics, M_NUMA_BYTES,
						  (struct slice[]){slice_str(ops[op]), slice_str(where[l])}, 2);
	}
}

/* The sample of a series in the export. */
static uint64_t counted(struct server *srv, const char *op, const char *where)
{
	char name[128], *text, *at;
	uint64_t v;
	size_t n;

	snprintf(name, sizeof(name), "lmcache_appliance_numa_bytes_total{op=\"%s\",locality=\"%s\"} ", op, where);
	text = metrics_render(srv->metrics, &n);
	assert_non_null(text);
	at = strstr(text, name);
	assert_non_null(at);
	v = (uint64_t)strtod(at + strlen(name), NULL);
	free(text);
	return v;
}

static void test_4_chunks_go_home_and_are_counted(void **state)
{
	uint64_t used[2], bytes;
	struct ctx *c;
	struct fx f;
	(void)state;

	fx_ranges = 2;
	fx_open(&f, CHASH_BLAKE3, CHUNK_TOKENS, 64, 16);
	fx_ranges = 1;
	series(f.srv);
	f.srv->range_node[0] = node_of(0);
	f.srv->range_node[1] = node_of(1);
	c = ctx_get(f.srv->contexts, INSTANCE);
	bytes = c->object_bytes;
	for (int node = 1; node >= 0; node--) {
		c->node = c->home = node_of(node);
		assert_true(fx_store(&f, node ? "one" : "zero", 8));
		assert_int_equal(store_range_used(f.srv->store, used, 2), 2);
		assert_true(used[1] >= 8 * bytes && used[1] < 16 * bytes);
		assert_true(node ? used[0] == 0 : used[0] == used[1]);
	}
	assert_int_equal(counted(f.srv, "store", "local"), 16 * bytes);
	assert_int_equal(counted(f.srv, "store", "remote"), 0);
	assert_int_equal(fix_stats(f.srv->store).spill_bytes, 0);
	/* now on node 0: what "one" left on node 1 is far away */
	assert_int_equal(fx_lookup(&f, "one", 8), 8);
	assert_true(fx_retrieve(&f, "one", 8));
	assert_int_equal(counted(f.srv, "retrieve", "remote"), 8 * bytes);
	assert_int_equal(fx_lookup(&f, "zero", 8), 8);
	assert_true(fx_retrieve(&f, "zero", 8));
	assert_int_equal(counted(f.srv, "retrieve", "local"), 8 * bytes);
	/* a node without a pool: served by its home, and far from it */
	c->node = node_of(9);
	c->home = node_of(1);
	assert_true(fx_store(&f, "nine", 4));
	assert_int_equal(counted(f.srv, "store", "remote"), 4 * bytes);
	c->node = c->home = NODE_UNKNOWN;
	assert_true(fx_store(&f, "nowhere", 4));
	assert_int_equal(counted(f.srv, "store", "unknown"), 4 * bytes);
	assert_true(fx_store(&f, "nowhere", 4)); /* known already: nothing moves */
	assert_int_equal(counted(f.srv, "store", "unknown"), 4 * bytes);
	assert_int_equal(counted(f.srv, "store", "local"), 16 * bytes);
	ctx_put(f.srv->contexts, c);
	fx_close(&f);
}

static void test_5_workers_near_a_node(void **state)
{
	static const int at[] = {0, 0, 1, -1, 1, 1};
	static const uint32_t none[6] = {0}, some[6] = {3, 1, 2, 7, 2, 1}; /* engines served */
	struct server *srv = mem_calloc(1, sizeof(*srv));
	(void)state;

	assert_non_null(srv);
	srv->ntransfer = 6;
	for (int i = 0; i < 6; i++)
		srv->worker[i].node = node_of(at[i]);
	assert_int_equal(worker_near(srv, node_of(0), none), 0);
	assert_int_equal(worker_near(srv, node_of(1), none), 2);
	assert_int_equal(worker_near(srv, node_of(0), some), 1);
	assert_int_equal(worker_near(srv, node_of(1), some), 5);
	assert_int_equal(worker_near(srv, node_of(2), some), 1); /* none there: the least busy of all */
	assert_int_equal(worker_near(srv, NODE_UNKNOWN, some), 1);
	mem_free(srv);
}

static void test_6_a_peer_moves_once_and_when_idle(void **state)
{
	struct peers *t;
	struct peer *p;
	(void)state;

	assert_int_equal(peers_create(&t), 0);
	p = peers_get(t, slice_str("a"));
	assert_non_null(p);
	assert_int_equal(peer_transfer_worker(p, 4), p->affinity % 4);
	p->pending[LANE_TRANSFER] = 1;
	p->next_worker = (p->affinity + 1) % 4;
	assert_int_equal(peer_transfer_worker(p, 4), p->affinity % 4); /* one is in flight: it must not be overtaken */
	p->pending[LANE_TRANSFER] = 0;
	p->pending[LANE_LOOKUP] = 3; /* lookups have no order with transfers */
	assert_int_equal(peer_transfer_worker(p, 4), (p->affinity + 1) % 4);
	assert_int_equal(p->next_worker, WORKER_NONE);
	p->pending[LANE_TRANSFER] = 5;
	assert_int_equal(peer_transfer_worker(p, 4), (p->affinity + 1) % 4);
	peers_destroy(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_1_pages_tell_the_node),
		cmocka_unit_test(test_2_else_the_cpus_of_its_process),
		cmocka_unit_test(test_3_the_nearest_pool_serves),
		cmocka_unit_test(test_4_chunks_go_home_and_are_counted),
		cmocka_unit_test(test_5_workers_near_a_node),
		cmocka_unit_test(test_6_a_peer_moves_once_and_when_idle),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
