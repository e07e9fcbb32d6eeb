/* gpu_bench.c - STORE and RETRIEVE between paged KV on a GPU and pinned memory, against one large copy of the same bytes.
 *
 * Pages of 4 KiB to 2 MiB, block ids scattered, both directions, each way that copies take and the one that calibration chooses. A pass is
 * a pair of neighbours: our copy, then one cuMemcpyAsync of as many bytes between pinned memory and one piece of the GPU's; the ratio is
 * the median over the passes. The same large copy twice is the control: how far 1.00 may be missed by chance.
 *
 * The first row needs no GPU: descriptors per second that the planner makes on one core. Without a driver it is the only one. On the test
 * driver (--library build/tests/fake/libcuda.so.1) everything runs, and the figures of copies mean nothing.
 *
 * gpu_bench [--library PATH] [--gpu N] [--mib N] [--passes N] [--pages BYTES]
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "transport/cuda/copier.h"

#include <dlfcn.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define TOKENS     256u /* of a chunk */
#define BLOCK      16u  /* tokens */
#define MAX_LAYERS 64u
#define MAX_PASSES 99u
#define CHUNK      (32ull << 20) /* bytes, about */

struct bench {
	const char *library;
	uint32_t gpu, passes;
	uint64_t bytes, only;
	bool fake;
	struct gpu_door *door;
	struct gpu *g;
	struct copier *copier;
	const struct cuda_driver *cu;
	struct gpu_memory memory;
	CUstream stream;
	CUdeviceptr pages; /* also the large copy's */
	bool missed;
};

/* An engine with pages of one size. */
struct paged {
	struct kv_layout *layout;
	struct kv_tensor tensor[MAX_LAYERS];
	struct gpu_engine e;
	uint32_t nlayers, nchunks, *ids;
	uint64_t num_blocks, bytes;
	struct kv_blocks blocks;
	uint8_t **slots;
};

static const char *const PATHS[GPU_PATHS] = {"as calibrated", "direct", "batch", "staged"};

static void die(const char *what, const char *why)
{
	fprintf(stderr, "gpu_bench: %s: %s\n", what, why);
	exit(1);
}

static void must(struct bench *b, CUresult rc, const char *what)
{
	if (rc)
		die(what, cuda_error(b->cu, rc));
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static double median(double *v, uint32_t n)
{
	qsort(v, n, sizeof(*v), by_value);
	return n % 2 ? v[n / 2] : (v[n / 2 - 1] + v[n / 2]) / 2;
}

/* ---- an engine ------------------------------------------------------------------------------------------------------------------ */

static uint64_t shuffle_state = 88172645463325252u;

static uint32_t below(uint32_t n)
{
	shuffle_state ^= shuffle_state << 13;
	shuffle_state ^= shuffle_state >> 7;
	shuffle_state ^= shuffle_state << 17;
	return n ? (uint32_t)(shuffle_state % n) : 0;
}

static void scatter_ids(struct paged *p)
{
	for (uint32_t i = 0; i < p->num_blocks; i++)
		p->ids[i] = i;
	for (uint32_t i = (uint32_t)p->num_blocks - 1; i > 0; i--) {
		uint32_t j = below(i + 1), was = p->ids[i];

		p->ids[i] = p->ids[j];
		p->ids[j] = was;
	}
}

/* One tensor [2, NB, BS, 1, HS] per layer, each block of K or V a page. `bytes`: to be copied, about. */
static void paged_make(struct paged *p, uint64_t page, uint64_t bytes, uint8_t *base)
{
	uint64_t planes = CHUNK / (page * (TOKENS / BLOCK)), object;
	struct kv_layout_in in = {.engine_type = slice_str("vllm"), .tensors = p->tensor, .chunk_tokens = TOKENS};
	struct why why;

	p->nlayers = planes / 2 < 1 ? 1 : planes / 2 > MAX_LAYERS ? MAX_LAYERS : (uint32_t)(planes / 2);
	object = 2ull * p->nlayers * page * (TOKENS / BLOCK);
	p->nchunks = bytes < object ? 1 : (uint32_t)(bytes / object);
	p->bytes = p->nchunks * object;
	p->num_blocks = p->nchunks * (TOKENS / BLOCK);
	in.ntensors = p->nlayers;
	for (uint32_t i = 0; i < p->nlayers; i++) {
		int64_t hs = (int64_t)(page / BLOCK / 2), nb = (int64_t)p->num_blocks;
		uint64_t all = 2 * p->num_blocks * page;

		p->tensor[i] = (struct kv_tensor){.base = base + i * all,
						  .bytes = all,
						  .element_size = 2,
						  .dtype = 1,
						  .ndim = 5,
						  .shape = {2, p->num_blocks, BLOCK, 1, (uint64_t)hs},
						  .stride = {nb * BLOCK * hs, BLOCK * hs, hs, hs, 1}};
	}
	if (kv_layout_create(&in, &p->layout, &why))
		die("layout", why.text);
	p->ids = mem_calloc(p->num_blocks, sizeof(*p->ids));
	p->slots = mem_calloc(p->nchunks, sizeof(*p->slots));
	if (!p->ids || !p->slots)
		die("memory", "none left");
	scatter_ids(p);
	p->blocks = (struct kv_blocks){.ids = p->ids, .n = (uint32_t)p->num_blocks};
}

static void paged_free(struct paged *p)
{
	kv_layout_destroy(p->layout);
	mem_free(p->ids);
	mem_free(p->slots);
}

/* ---- the planner ------------------------------------------------------------------------------------------------------------------ */

static void planner_row(struct bench *b)
{
	struct paged p = {0};
	struct layout_table t;
	const uint32_t *lists[1];
	struct plan_op ops[512];
	double rate[9] = {0};

	paged_make(&p, 4096, 256u << 20, (uint8_t *)(uintptr_t)(1ull << 40));
	if (table_make(&t, p.layout))
		die("tables", "no memory");
	lists[0] = p.ids;
	for (uint32_t i = 0; i < p.nchunks; i++)
		p.slots[i] = (uint8_t *)(uintptr_t)(1ull << 44) + i * t.object_bytes;
	for (uint32_t i = 0; i < 9; i++) {
		struct plan plan = {.t = &t, .ids = lists, .slots = p.slots, .end = p.nchunks};
		uint64_t n = 0, from = clock_ns();

		while (!plan_over(&plan))
			n += plan_next(&plan, ops, 512);
		rate[i] = (double)n * 1e3 / (double)(clock_ns() - from);
	}
	bench_head("planning copies, one core, no GPU");
	double m = median(rate, 9);
	b->missed |=
		!bench_row("descriptors, pages of 4 KiB, scattered", m, 1, "M/s", "the goal", m, ">= 1 M/s", m >= 1);
	table_free(&t);
	paged_free(&p);
}

/* ---- copies ------------------------------------------------------------------------------------------------------------------------ */

/* Seconds, or 0: it failed. */
static double ours(struct bench *b, struct paged *p, bool store)
{
	struct gpu_copy c = {.engine = &p->e,
			     .store = store,
			     .nchunks = p->nchunks,
			     .blocks = &p->blocks,
			     .ngroups = 1,
			     .slots = p->slots};
	uint64_t from = clock_ns();
	int rc = copier_take(&c);

	if (!rc)
		rc = copier_start(b->copier, &c);
	while (!rc)
		rc = copier_poll(b->copier, &c);
	return rc > 0 ? (double)(clock_ns() - from) / 1e9 : 0;
}

static double large(struct bench *b, uint64_t bytes, bool store)
{
	uint64_t from = clock_ns();
	CUresult rc = store ? b->cu->cuMemcpyDtoHAsync(b->memory.base, b->pages, bytes, b->stream)
			    : b->cu->cuMemcpyHtoDAsync(b->pages, b->memory.base, bytes, b->stream);

	must(b, rc, "a large copy");
	must(b, b->cu->cuStreamSynchronize(b->stream), "a large copy");
	return (double)(clock_ns() - from) / 1e9;
}

static void copy_row(struct bench *b, struct paged *p, uint64_t page, bool store, enum gpu_path path)
{
	double a[MAX_PASSES] = {0}, l[MAX_PASSES] = {0}, ratio[MAX_PASSES] = {0}, goal = page >= 65536 ? 0.95 : 0.85, r;
	bool judged = path == GPU_AUTO && !b->fake;
	char name[80], text[24];

	ours(b, p, store);
	large(b, p->bytes, store);
	for (uint32_t i = 0; i < b->passes; i++) {
		a[i] = ours(b, p, store);
		if (a[i] == 0)
			die("a copy", "failed");
		l[i] = large(b, p->bytes, store);
		ratio[i] = l[i] / a[i];
	}
	r = median(ratio, b->passes);
	snprintf(name, sizeof(name), "%s, pages of %llu KiB, %s", store ? "store" : "retrieve",
		 (unsigned long long)(page >> 10), PATHS[path]);
	snprintf(text, sizeof(text), judged ? ">= %.2f" : b->fake ? "no meaning" : "none", goal);
	b->missed |= !bench_row(name, (double)p->bytes / median(a, b->passes) / 1e9,
				(double)p->bytes / median(l, b->passes) / 1e9, "GB/s", "one large copy", r, text,
				!judged || r >= goal);
}

static void control_row(struct bench *b, uint64_t bytes, bool store)
{
	double ratio[MAX_PASSES] = {0}, s[MAX_PASSES] = {0}, r;

	for (uint32_t i = 0; i < b->passes; i++) {
		s[i] = large(b, bytes, store);
		ratio[i] = large(b, bytes, store) / s[i];
	}
	r = median(ratio, b->passes);
	bench_row(store ? "control: from the GPU, twice the same" : "control: to the GPU, twice the same",
		  (double)bytes / median(s, b->passes) / 1e9, (double)bytes / median(s, b->passes) / 1e9, "GB/s",
		  "itself", r, "1.00", true);
}

static void page_rows(struct bench *b, uint64_t page, enum gpu_path path)
{
	struct paged p = {0};
	struct why why;

	paged_make(&p, page, b->bytes, (uint8_t *)(uintptr_t)b->pages);
	for (uint32_t i = 0; i < p.nchunks; i++)
		p.slots[i] = (uint8_t *)b->memory.base + i * kv_object_bytes(p.layout);
	b->door->conf.path = path;
	b->copier->nshapes = 0; /* measured, or forced, anew */
	p.e = (struct gpu_engine){.gpu = b->g, .layout = p.layout};
	if (events_create(b->g, &p.e.events, &why) || copier_engine(b->copier, &p.e, &why))
		die("engine", why.text);
	for (uint32_t store = 0; store < 2; store++) {
		const struct track *l = &p.e.tables->track[store ? TO_SLOTS : TO_PAGES];

		if (path != GPU_AUTO && l->path != path)
			printf("# %s is not offered here\n", PATHS[path]);
		else
			copy_row(b, &p, page, store, path);
		if (path == GPU_AUTO)
			printf("#   chosen: %s%s%.0u\n", PATHS[l->path],
			       l->path == GPU_STAGED ? ", thread blocks: " : "", l->path == GPU_STAGED ? l->blocks : 0);
	}
	copier_engine_drop(b->copier, &p.e);
	events_destroy(p.e.events);
	paged_free(&p);
}

/* ---- the GPU ------------------------------------------------------------------------------------------------------------------------ */

static bool is_test_driver(const char *library)
{
	void *lib = dlopen(library ? library : "libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
	bool fake = lib && dlsym(lib, "fake_cuda_control");

	if (lib)
		dlclose(lib);
	return fake;
}

static void map_memory(struct bench *b)
{
	void *p =
		mmap(NULL, b->memory.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (p == MAP_FAILED)
		die("memory", "none left");
	b->memory.base = p;
}

static int gpu_begin(struct bench *b)
{
	struct gpu_conf conf = {.library = b->library, .memory = &b->memory, .nmemory = 1};
	struct gpu_facts f;
	struct why why;

	b->memory.bytes = b->bytes + 4 * CHUNK;
	map_memory(b);
	conf.slice_bytes = b->memory.bytes; /* so that the large copy may be one */
	if (gpu_door_open(&conf, &b->door, &why)) {
		printf("# %s: only the planner is measured\n", why.text);
		return -ENODEV;
	}
	if (b->gpu >= gpu_count(b->door))
		die("--gpu", "there is none of that number");
	b->g = &b->door->gpu[b->gpu];
	b->cu = b->door->cu;
	b->fake = is_test_driver(b->library);
	if (b->fake && b->bytes > 64ull << 20)
		b->bytes = 64ull << 20;
	if (gpu_hold(b->g, &why) || copier_create(b->g, &b->copier, &why))
		die("GPU", why.text);
	gpu_facts(b->door, b->gpu, &f);
	printf("# %s, driver %d.%d, %llu MiB per copy, %u passes\n", f.name, b->cu->version / 1000,
	       b->cu->version % 1000 / 10, (unsigned long long)(b->bytes >> 20), b->passes);
	if (b->fake)
		printf("# THE TEST DRIVER: a CPU stands in for the GPU; figures of copies mean nothing\n");
	must(b, b->cu->cuStreamCreateWithPriority(&b->stream, CU_STREAM_NON_BLOCKING, 0), "a stream");
	must(b, b->cu->cuMemAlloc(&b->pages, b->bytes + 4 * CHUNK), "memory of the GPU");
	pinned_begin(b->door->pinned, b->g);
	while (!pinned_covers(b->door->pinned, b->memory.base, b->memory.bytes))
		usleep(1000);
	return 0;
}

static void gpu_end(struct bench *b)
{
	pinned_end(b->door->pinned, b->g);
	b->cu->cuMemFree(b->pages);
	b->cu->cuStreamDestroy(b->stream);
	copier_destroy(b->copier);
	gpu_release(b->g);
	gpu_door_close(b->door, 2000);
}

static void options(struct bench *b, int argc, char **argv)
{
	static const struct option o[] = {{"library", 1, NULL, 'l'}, {"gpu", 1, NULL, 'g'},   {"mib", 1, NULL, 'm'},
					  {"passes", 1, NULL, 'p'},  {"pages", 1, NULL, 's'}, {NULL, 0, NULL, 0}};
	int c;

	while ((c = getopt_long(argc, argv, "", o, NULL)) != -1) {
		uint64_t n = optarg ? strtoull(optarg, NULL, 0) : 0;

		if (c == 'l')
			b->library = optarg;
		else if (c == 'g')
			b->gpu = (uint32_t)n;
		else if (c == 'm' && n)
			b->bytes = n << 20;
		else if (c == 'p' && n && n <= MAX_PASSES)
			b->passes = (uint32_t)n;
		else if (c == 's' && n >= 64 && n % 64 == 0)
			b->only = n;
		else
			die("usage", "gpu_bench [--library PATH] [--gpu N] [--mib N] [--passes N] [--pages BYTES]");
	}
}

int main(int argc, char **argv)
{
	static const uint64_t pages[] = {4096, 8192, 16384, 32768, 65536, 262144, 2097152};
	struct bench b = {.passes = 9, .bytes = 512ull << 20};

	options(&b, argc, argv);
	planner_row(&b);
	if (gpu_begin(&b))
		return b.missed;
	bench_head("paged KV of a GPU, against one large pinned copy");
	for (uint32_t store = 0; store < 2; store++)
		control_row(&b, b.bytes, store);
	for (uint32_t i = 0; i < sizeof(pages) / sizeof(pages[0]); i++)
		for (enum gpu_path path = GPU_AUTO; path < GPU_PATHS && (!b.only || i == 0); path++)
			page_rows(&b, b.only ? b.only : pages[i], path);
	gpu_end(&b);
	return b.missed;
}
