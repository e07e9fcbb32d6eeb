/* copy_bench.c - STORE (gather) and RETRIEVE (scatter) of real model shapes against memcpy of the same bytes.
 *
 * Both sides are POSIX shared memory, far larger than any cache, and every pass works on the next chunks, so all data is
 * cold. Block ids are a random permutation, the worst an engine's free list comes to. The limit is the better of one
 * memcpy per chunk and one per block, same direction, same threads; all are interleaved in short passes, and the ratio is
 * the median of the ratios of neighbouring passes, so that a machine whose speed drifts does not decide it. Time is
 * processor time of the slowest thread: the same as wall time on an idle machine, and still right on a busy one.
 *
 * copy_bench [MiB per side] [passes] [only rows whose "model fN" contains this text]
 */
#include "daemon/base/check.h"
#include "daemon/base/crc32c.h"
#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "transport/kv/kv.h"

#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_THREADS  2u
#define MAX_PASSES   255u
#define MAX_TENSORS  256u
#define CHUNK_TOKENS 256u
#define MAX_SUMS     64u /* the largest object has 32 MiB */
#define PASS_BYTES   (UINT64_C(64) << 20)

struct model {
	const char *name;
	uint32_t layers, heads, head_size, block, kv_size;
};
static const struct model llama = {"Llama-3.1-8B", 32, 8, 128, 16, 2};
static const struct model qwen = {"Qwen3-32B TP4", 64, 2, 128, 16, 2};
static const struct model deepseek = {"DeepSeek-V3", 61, 1, 576, 64, 1};

struct row {
	const struct model *model;
	enum kv_format format;
	double goal;
};
static const struct row rows[] = {
	{&llama, KV_NL_X_TWO_NB_BS_NH_HS, 0.9},  {&llama, KV_NL_X_NB_TWO_BS_NH_HS, 0.9},
	{&llama, KV_TWO_X_NL_X_NBBS_NH_HS, 0.9}, {&llama, KV_NL_X_TWO_NB_NH_BS_HS, 0.6},
	{&llama, KV_NL_X_NB_TWO_NH_BS_HS, 0.6},  {&llama, KV_NB_NL_TWO_NH_BS_HS, 0.6},
	{&llama, KV_NL_X_NB_NH_BS_TWO_HS, 0.6},  {&qwen, KV_NL_X_TWO_NB_BS_NH_HS, 0.9},
	{&qwen, KV_NL_X_NB_TWO_BS_NH_HS, 0.9},   {&qwen, KV_NL_X_TWO_NB_NH_BS_HS, 0.6},
	{&qwen, KV_NL_X_NB_TWO_NH_BS_HS, 0.6},   {&qwen, KV_NL_X_NB_NH_BS_TWO_HS, 0.6},
	{&deepseek, KV_NL_X_NB_BS_HS, 0.9},
};

/* In the order of the passes: what is compared stands together. */
enum work { MEMCPY_CHUNK_OUT, STORE, STORE_SUMS, MEMCPY_BLOCK_OUT, MEMCPY_CHUNK_IN, RETRIEVE, MEMCPY_BLOCK_IN, WORKS };

struct bench {
	uint8_t *pages, *objects;
	uint64_t side, passes;
	struct kv_layout *layout;
	uint64_t object_bytes, block_bytes; /* of all layers, K and V */
	uint64_t run_bytes;                 /* of one layer, K or V: what a memcpy per block copies */
	uint32_t nchunks, per_pass, nblocks, bpc;
	uint32_t *ids;
};

struct worker {
	const struct bench *b;
	pthread_barrier_t *barrier;
	enum work work;
	uint32_t index, nthreads, first;
	uint64_t ns; /* processor time of the last share */
	bool stop;
};

/* ---- set-up ---------------------------------------------------------------------------------------------------------- */

static uint8_t *shm_side(const char *what, uint64_t bytes)
{
	char name[64];
	snprintf(name, sizeof name, "/copy_bench_%s_%d", what, (int)getpid());
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
	check(fd >= 0);
	shm_unlink(name);
	check(ftruncate(fd, (off_t)bytes) == 0);
	uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (p == MAP_FAILED) {
		perror("copy_bench: mmap");
		exit(1);
	}
	close(fd);
	memset(p, what[0], bytes);
	return p;
}

static uint64_t rnd(uint64_t *state)
{
	*state = *state * 6364136223846793005u + 1442695040888963407u;
	return *state >> 33;
}

/* The shape of one tensor of this format; returns how many tensors there are. */
static uint32_t shape_of(const struct row *r, uint64_t nb, struct kv_tensor *t)
{
	const struct model *m = r->model;
	const uint64_t L = m->layers, B = m->block, H = m->heads, S = m->head_size;
	const uint64_t dims[KV_FORMAT_COUNT][7] = {
		[KV_NL_X_TWO_NB_BS_NH_HS] = {5, 2, nb, B, H, S},  [KV_NL_X_NB_TWO_BS_NH_HS] = {5, nb, 2, B, H, S},
		[KV_TWO_X_NL_X_NBBS_NH_HS] = {3, nb * B, H, S},   [KV_NL_X_TWO_NB_NH_BS_HS] = {5, 2, nb, H, B, S},
		[KV_NL_X_NB_TWO_NH_BS_HS] = {5, nb, 2, H, B, S},  [KV_NB_NL_TWO_NH_BS_HS] = {4, nb, L, 2, H * B * S},
		[KV_NL_X_NB_NH_BS_TWO_HS] = {4, nb, H, B, 2 * S}, [KV_NL_X_NB_BS_HS] = {3, nb, B, S},
	};
	*t = (struct kv_tensor){.element_size = 2, .ndim = (uint32_t)dims[r->format][0]};
	int64_t n = 1;
	for (uint32_t i = t->ndim; i-- > 0;) {
		t->shape[i] = dims[r->format][i + 1];
		t->stride[i] = n;
		n *= (int64_t)t->shape[i];
	}
	if (r->format == KV_TWO_X_NL_X_NBBS_NH_HS)
		return 2 * m->layers;
	return r->format == KV_NB_NL_TWO_NH_BS_HS ? 1 : m->layers;
}

static void make_layout(struct bench *b, const struct row *r)
{
	static struct kv_tensor t[MAX_TENSORS];
	const struct model *m = r->model;
	struct kv_tensor one;
	struct why why;
	uint32_t n = shape_of(r, b->nblocks, &one);
	uint64_t each = (uint64_t)one.stride[0] * one.shape[0] * 2, at = 0;
	for (uint32_t i = 0; i < n; i++, at += each) {
		t[i] = one;
		t[i].base = b->pages;
		t[i].bytes = b->side;
		t[i].offset = at;
	}
	bool list = r->format == KV_TWO_X_NL_X_NBBS_NH_HS, hnd = r->goal < 0.9,
	     flat = r->format == KV_NB_NL_TWO_NH_BS_HS;
	struct kv_layout_in in = {.engine_type = slice_str(list   ? "sglang"
							   : flat ? "trtllm"
								  : "vllm"),
				  .hint_kv_layout = slice_str(hnd ? "HND" : ""),
				  .hint_list_layout = slice_str(list ? "k_v" : ""),
				  .hint_tokens_per_block = m->block,
				  .hint_num_kv_heads = m->heads,
				  .hint_head_dim = m->head_size,
				  .tensors = t,
				  .ntensors = n,
				  .chunk_tokens = CHUNK_TOKENS};
	struct kv_group_facts f;
	if (kv_layout_create(&in, &b->layout, &why) != 0) {
		fprintf(stderr, "copy_bench: %s\n", why.text);
		exit(1);
	}
	kv_layout_group(b->layout, 0, &f);
	check(f.format == r->format && kv_object_bytes(b->layout) == b->object_bytes);
}

static void prepare(struct bench *b, const struct row *r)
{
	const struct model *m = r->model;
	uint64_t seed = 1;
	b->run_bytes = (uint64_t)m->block * m->heads * m->head_size * 2;
	b->block_bytes = b->run_bytes * m->kv_size * m->layers;
	b->bpc = CHUNK_TOKENS / m->block;
	b->object_bytes = b->block_bytes * b->bpc;
	b->nchunks = (uint32_t)(b->side / b->object_bytes);
	b->nblocks = b->nchunks * b->bpc;
	b->per_pass = (uint32_t)(PASS_BYTES / b->object_bytes);
	if (b->per_pass > b->nchunks)
		b->per_pass = b->nchunks;
	b->per_pass -= b->per_pass % MAX_THREADS;
	b->ids = mem_calloc(b->nblocks, sizeof *b->ids);
	check(b->ids != NULL);
	for (uint32_t i = 0; i < b->nblocks; i++) {
		uint32_t k = (uint32_t)(rnd(&seed) % (i + 1));
		b->ids[i] = b->ids[k];
		b->ids[k] = i;
	}
	make_layout(b, r);
	check(crc_blocks(b->object_bytes) <= MAX_SUMS);
}

/* ---- work ------------------------------------------------------------------------------------------------------------ */

static void memcpy_blocks(const struct bench *b, uint32_t chunk, uint8_t *object, bool in)
{
	uint64_t runs = b->block_bytes / b->run_bytes;
	for (uint64_t run = 0; run < runs; run++) {
		for (uint32_t i = 0; i < b->bpc; i++, object += b->run_bytes) {
			uint64_t id = b->ids[(uint64_t)chunk * b->bpc + i];
			uint8_t *page = b->pages + (run * b->nblocks + id) * b->run_bytes;
			memcpy(in ? page : object, in ? object : page, b->run_bytes);
		}
	}
}

static void one_chunk(const struct bench *b, enum work w, uint32_t chunk)
{
	uint8_t *object = b->objects + chunk * b->object_bytes;
	uint8_t *pages = b->pages + (b->nchunks - 1 - chunk) * b->object_bytes;
	const struct kv_blocks ids = {b->ids, b->nblocks};
	uint32_t sums[MAX_SUMS];
	switch (w) {
	case STORE:
		kv_gather(b->layout, &ids, chunk, object);
		break;
	case STORE_SUMS:
		kv_gather_sums(b->layout, &ids, chunk, object, sums);
		break;
	case RETRIEVE:
		kv_scatter(b->layout, &ids, chunk, 0, object);
		break;
	case MEMCPY_CHUNK_OUT:
		memcpy(object, pages, b->object_bytes);
		break;
	case MEMCPY_CHUNK_IN:
		memcpy(pages, object, b->object_bytes);
		break;
	default:
		memcpy_blocks(b, chunk, object, w == MEMCPY_BLOCK_IN);
	}
}

static uint64_t thread_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void my_share(struct worker *w)
{
	uint64_t start = thread_ns();
	for (uint32_t i = w->index; i < w->b->per_pass; i += w->nthreads)
		one_chunk(w->b, w->work, (w->first + i) % w->b->nchunks);
	w->ns = thread_ns() - start;
}

static void pin(uint32_t cpu)
{
	cpu_set_t set;
	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	sched_setaffinity(0, sizeof set, &set); /* fails in smaller cpusets: then the kernel places us */
}

static void *worker_main(void *arg)
{
	struct worker *w = arg;
	pin(w->index);
	for (;;) {
		pthread_barrier_wait(w->barrier);
		if (w->stop)
			return NULL;
		my_share(w);
		pthread_barrier_wait(w->barrier);
	}
}

/* GB/s of one pass. worker[0] is the calling thread. */
static double pass(struct worker *worker, uint32_t n, enum work work, uint32_t first)
{
	for (uint32_t i = 0; i < n; i++) {
		worker[i].work = work;
		worker[i].first = first;
	}
	pthread_barrier_wait(worker[0].barrier);
	my_share(&worker[0]);
	pthread_barrier_wait(worker[0].barrier);
	uint64_t slowest = worker[0].ns;
	for (uint32_t i = 1; i < n; i++)
		slowest = worker[i].ns > slowest ? worker[i].ns : slowest;
	return (double)(worker[0].b->per_pass * worker[0].b->object_bytes) / (double)slowest;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* GB/s of every pass. */
static void measure(const struct bench *b, uint32_t nthreads, double got[WORKS][MAX_PASSES])
{
	struct worker worker[MAX_THREADS];
	pthread_t thread[MAX_THREADS];
	pthread_barrier_t barrier;
	pthread_barrier_init(&barrier, NULL, nthreads);
	for (uint32_t i = 0; i < nthreads; i++) {
		worker[i] = (struct worker){.b = b, .barrier = &barrier, .index = i, .nthreads = nthreads};
		if (i > 0)
			check(pthread_create(&thread[i], NULL, worker_main, &worker[i]) == 0);
	}
	pin(0);
	uint32_t first = 0;
	for (uint64_t p = 0; p < b->passes; p++) {
		for (uint32_t w = 0; w < WORKS; w++, first = (first + b->per_pass) % b->nchunks)
			got[w][p] = pass(worker, nthreads, (enum work)w, first);
	}
	for (uint32_t i = 1; i < nthreads; i++)
		worker[i].stop = true;
	pthread_barrier_wait(&barrier);
	for (uint32_t i = 1; i < nthreads; i++)
		pthread_join(thread[i], NULL);
	pthread_barrier_destroy(&barrier);
}

static double median(const double *v, uint64_t n)
{
	double sorted[MAX_PASSES];
	memcpy(sorted, v, n * sizeof *v);
	qsort(sorted, n, sizeof *sorted, by_value);
	return sorted[n / 2];
}

static bool wanted(const struct row *r, const char *text)
{
	char name[64];
	snprintf(name, sizeof name, "%s f%d", r->model->name, (int)r->format);
	return text == NULL || strstr(name, text) != NULL;
}

/* What checksums cost a STORE. Rows of heads are put together first; their goal is that this is cheaper than a pass of its own. */
static bool report_sums(const struct bench *b, const struct row *r, uint32_t threads, double got[WORKS][MAX_PASSES])
{
	char name[128], goal[32];
	double ratio[MAX_PASSES] = {0}, least = r->goal < 0.9 ? 0.7 : 0.9;
	for (uint64_t p = 0; p < b->passes; p++)
		ratio[p] = got[STORE_SUMS][p] / got[STORE][p];
	double mid = median(ratio, b->passes);
	snprintf(name, sizeof name, "STORE+crc %s f%d, %u thread%s", r->model->name, (int)r->format, threads,
		 threads > 1 ? "s" : "");
	snprintf(goal, sizeof goal, ">= %.2f", least);
	return bench_row(name, median(got[STORE_SUMS], b->passes), median(got[STORE], b->passes), "GB/s", "STORE", mid,
			 goal, mid >= least);
}

static bool report(const struct bench *b, const struct row *r, uint32_t threads, double got[WORKS][MAX_PASSES], bool in)
{
	char name[128], goal[32];
	const double *ours = got[in ? RETRIEVE : STORE], *chunk = got[in ? MEMCPY_CHUNK_IN : MEMCPY_CHUNK_OUT];
	const double *block = got[in ? MEMCPY_BLOCK_IN : MEMCPY_BLOCK_OUT];
	bool by_chunk = median(chunk, b->passes) > median(block, b->passes);
	const double *limit = by_chunk ? chunk : block;
	double ratio[MAX_PASSES] = {0};
	for (uint64_t p = 0; p < b->passes; p++)
		ratio[p] = ours[p] / limit[p];
	double mid = median(ratio, b->passes);
	snprintf(name, sizeof name, "%s %s f%d, %u thread%s", in ? "RETRIEVE" : "STORE", r->model->name, (int)r->format,
		 threads, threads > 1 ? "s" : "");
	snprintf(goal, sizeof goal, ">= %.2f", r->goal);
	return bench_row(name, median(ours, b->passes), median(limit, b->passes), "GB/s",
			 by_chunk ? "memcpy/chunk" : "memcpy/block", mid, goal, mid >= r->goal);
}

int main(int argc, char **argv)
{
	uint64_t free_mib = (uint64_t)sysconf(_SC_AVPHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE) >> 20;
	uint64_t mib = argc > 1 ? strtoull(argv[1], NULL, 10) : free_mib > 8192 ? 2048 : 1024;
	struct bench b = {.passes = argc > 2 ? strtoull(argv[2], NULL, 10) : 31};
	bool ok = true;
	if (mib < 128 || b.passes == 0 || b.passes > MAX_PASSES) {
		fprintf(stderr, "usage: copy_bench [MiB per side, >= 128] [passes, <= %u] [text]\n", MAX_PASSES);
		return 2;
	}
	if (free_mib < 2 * mib + 512) {
		fprintf(stderr, "copy_bench: %llu MiB of memory free, two sides of %llu MiB do not fit\n",
			(unsigned long long)free_mib, (unsigned long long)mib);
		return 2;
	}
	b.side = mib << 20;
	b.pages = shm_side("pages", b.side);
	b.objects = shm_side("objects", b.side);
	char title[128];
	snprintf(title, sizeof title, "paged copies (%s, %llu MiB per side)", kv_copy_name(), (unsigned long long)mib);
	bench_head(title);
	for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
		if (!wanted(&rows[i], argc > 3 ? argv[3] : NULL))
			continue;
		prepare(&b, &rows[i]);
		for (uint32_t n = 1; n <= MAX_THREADS; n++) {
			static double got[WORKS][MAX_PASSES];
			measure(&b, n, got);
			ok &= report(&b, &rows[i], n, got, false);
			ok &= report_sums(&b, &rows[i], n, got);
			ok &= report(&b, &rows[i], n, got, true);
		}
		kv_layout_destroy(b.layout);
		mem_free(b.ids);
	}
	return ok ? 0 : 1;
}
