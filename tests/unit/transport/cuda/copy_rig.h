/* copy_rig.h - a door on the test driver, engines whose pages are known byte by byte, and copies driven by hand.
 *
 * The copier is called from the test's own thread, as a GPU's thread calls it. What must come out is said by transport/kv on a copy of the
 * pages in ordinary memory. Pages and slots have guard zones. Included by one test file per binary, hence the static functions.
 */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_COPY_RIG_H
#define TESTS_UNIT_TRANSPORT_CUDA_COPY_RIG_H

#include "tests/unit/transport/kv/kv_ref.h"
#include "transport/cuda/copier.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#define RIG_GUARD  4096u
#define RIG_SLICE  (1u << 20)
#define RIG_ARENA  (64u << 20)
#define RIG_CHUNKS 12u

struct rig {
	struct gpu_door *door;
	struct gpu *gpu;
	struct copier *copier;
	const struct cuda_driver *cu;
	CUstream stream; /* of the test */
	struct gpu_memory memory;
	uint8_t *arena;
	int (*control)(const char *commands);
};

#define ok(call) assert_int_equal(call, 0)

static inline const char *rig_library(void)
{
	static char path[600];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 64);
	char *tests;

	assert_true(n > 0);
	path[n] = 0;
	tests = strstr(path, "/tests/unit/");
	assert_non_null(tests);
	strcpy(tests, "/tests/fake/libcuda.so.1");
	return path;
}

/* The test driver finds its machine once per process: these are a group's setup and teardown. */
static inline int rig_machine(void **state)
{
	static char dir[] = "/dev/shm/lmca-copy-test-XXXXXX";

	(void)state;
	return mkdtemp(dir) ? setenv("LMCA_FAKE_CUDA_DIR", dir, 1) : -1;
}

static inline int rig_no_machine(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", getenv("LMCA_FAKE_CUDA_DIR"));
	return system(command);
}

static inline void rig_open(struct rig *r, enum gpu_path path, uint64_t staging_bytes, bool registered)
{
	struct gpu_conf conf = {.library = rig_library(),
				.memory = &r->memory,
				.nmemory = 1,
				.path = path,
				.staging_bytes = staging_bytes,
				.slice_bytes = RIG_SLICE};
	struct why why = {0};
	void *lib;

	*r = (struct rig){0};
	r->arena = mmap(NULL, RIG_ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(r->arena != MAP_FAILED);
	r->memory = (struct gpu_memory){.base = r->arena, .bytes = RIG_ARENA};
	if (gpu_door_open(&conf, &r->door, &why))
		fail_msg("%s", why.text);
	lib = dlopen(conf.library, RTLD_NOW | RTLD_NOLOAD);
	assert_non_null(lib);
	*(void **)&r->control = dlsym(lib, "fake_cuda_control");
	assert_non_null(r->control);
	dlclose(lib);
	r->gpu = &r->door->gpu[0];
	r->cu = r->door->cu;
	ok(gpu_hold(r->gpu, &why));
	if (copier_create(r->gpu, &r->copier, &why))
		fail_msg("%s", why.text);
	ok(r->cu->cuStreamCreateWithPriority(&r->stream, CU_STREAM_NON_BLOCKING, 0));
	if (registered)
		pinned_begin(r->door->pinned, r->gpu);
	for (uint32_t i = 0; registered && i < RIG_ARENA / RIG_SLICE; i++)
		while (!pinned_covers(r->door->pinned, r->arena + i * RIG_SLICE, RIG_SLICE))
			usleep(1000);
}

static inline void rig_close(struct rig *r, bool registered)
{
	if (registered)
		pinned_end(r->door->pinned, r->gpu);
	r->cu->cuStreamDestroy(r->stream);
	copier_destroy(r->copier);
	gpu_release(r->gpu);
	gpu_door_close(r->door, 2000);
	munmap(r->arena, RIG_ARENA);
}

/* ---- an engine ---------------------------------------------------------------------------------------------------------------- */

#define RIG_MODELS 8u

/* Tensors in host memory (what is expected), and the same on the GPU, between guard zones. */
struct rig_engine {
	struct rig *r;
	struct ref_kv kv[RIG_MODELS]; /* one after another: hybrid models */
	uint32_t nkv, ntensors, nengine;
	uint64_t null_groups; /* bits: every third block of these engine groups is null_id */
	uint32_t null_id;
	const char *fault; /* told to the machine before the copier makes its part; NULL */
	struct kv_layout *host, *device;
	CUdeviceptr pages[RIG_MODELS * 2 * REF_MAX_LAYERS];
	uint8_t *bytes[RIG_MODELS * 2 * REF_MAX_LAYERS]; /* of host tensors */
	uint64_t size[RIG_MODELS * 2 * REF_MAX_LAYERS];
	struct gpu_engine e;
};

static inline void rig_upload(struct rig *r, CUdeviceptr to, const void *from, uint64_t n)
{
	ok(r->cu->cuMemcpyHtoDAsync(to, from, n, r->stream));
	ok(r->cu->cuStreamSynchronize(r->stream));
}

static inline void rig_download(struct rig *r, void *to, CUdeviceptr from, uint64_t n)
{
	ok(r->cu->cuMemcpyDtoHAsync(to, from, n, r->stream));
	ok(r->cu->cuStreamSynchronize(r->stream));
}

static inline void rig_push(struct rig_engine *x)
{
	for (uint32_t i = 0; i < x->ntensors; i++)
		rig_upload(x->r, x->pages[i] + RIG_GUARD, x->bytes[i], x->size[i]);
}

/* The GPU's pages are what the host's are, and nothing around them was touched. */
static inline bool rig_same(struct rig_engine *x)
{
	bool same = true;

	for (uint32_t i = 0; i < x->ntensors; i++) {
		uint64_t all = x->size[i] + 2 * RIG_GUARD;
		uint8_t *got = malloc(all);

		rig_download(x->r, got, x->pages[i], all);
		same &= memcmp(got + RIG_GUARD, x->bytes[i], x->size[i]) == 0;
		for (uint32_t g = 0; g < RIG_GUARD; g++)
			same &= got[g] == 0xa5 && got[all - 1 - g] == 0xa5;
		free(got);
	}
	return same;
}

static inline void rig_place(struct rig_engine *x, struct kv_tensor *device)
{
	for (uint32_t i = 0; i < x->ntensors; i++) {
		uint64_t all = device[i].bytes + 2 * RIG_GUARD;

		ok(x->r->cu->cuMemAlloc(&x->pages[i], all));
		ok(x->r->cu->cuMemsetD8Async(x->pages[i], 0xa5, all, x->r->stream));
		ok(x->r->cu->cuStreamSynchronize(x->r->stream));
		x->bytes[i] = device[i].base;
		x->size[i] = device[i].bytes;
		device[i].base = (uint8_t *)(uintptr_t)(x->pages[i] + RIG_GUARD);
	}
}

/* `in`: of the host's tensors. */
static inline int rig_engine_try(struct rig_engine *x, struct kv_layout_in in, struct why *why)
{
	struct kv_tensor device[RIG_MODELS * 2 * REF_MAX_LAYERS];
	int rc;

	x->ntensors = in.ntensors;
	memcpy(device, in.tensors, in.ntensors * sizeof(*device));
	if (kv_layout_create(&in, &x->host, why))
		fail_msg("%s", why->text);
	rig_place(x, device);
	in.tensors = device;
	if (kv_layout_create(&in, &x->device, why))
		fail_msg("%s", why->text);
	x->nengine = kv_layout_engine_groups(x->host);
	rig_push(x);
	x->e.gpu = x->r->gpu;
	x->e.layout = x->device;
	rc = events_create(x->r->gpu, &x->e.events, why);
	if (x->fault)
		ok(x->r->control(x->fault));
	if (!rc)
		rc = copier_engine(x->r->copier, &x->e, why);
	return rc;
}

static inline void rig_engine(struct rig_engine *x, struct kv_layout_in in)
{
	struct why why = {0};

	if (rig_engine_try(x, in, &why))
		fail_msg("%s", why.text);
}

static inline void rig_engine_end(struct rig_engine *x)
{
	copier_engine_drop(x->r->copier, &x->e);
	events_destroy(x->e.events);
	for (uint32_t i = 0; i < x->ntensors; i++)
		x->r->cu->cuMemFree(x->pages[i]);
	kv_layout_destroy(x->host);
	kv_layout_destroy(x->device);
	for (uint32_t i = 0; i < x->nkv; i++)
		ref_free(&x->kv[i]);
}

/* ---- a copy --------------------------------------------------------------------------------------------------------------------- */

struct rig_copy {
	struct rig_engine *x;
	struct gpu_copy c;
	struct kv_blocks blocks[KV_MAX_ENGINE_GROUPS];
	uint32_t *ids;
	uint8_t *slots[RIG_CHUNKS];
	uint8_t *expected; /* of all chunks, one after another */
	int told, rc, done;
	uint32_t event_bytes;
	uint8_t event[GPU_EVENT_MAX];
};

static inline void rig_told(struct gpu_copy *c, int rc, const uint8_t *event, uint32_t bytes)
{
	struct rig_copy *k = c->owner;

	k->told++;
	k->rc = rc;
	k->event_bytes = bytes;
	if (bytes)
		memcpy(k->event, event, bytes);
}

enum rig_order { RIG_SCATTERED, RIG_ASCENDING, RIG_RUNS, RIG_ORDERS };

/* Block ids without repetition per group where there are enough. */
static inline void rig_ids(struct rig_copy *k, uint32_t nchunks, enum rig_order order, uint64_t *seed)
{
	const struct kv_layout *l = k->x->host;
	uint64_t fewest[KV_MAX_ENGINE_GROUPS], n = 0;
	uint32_t *out;

	for (uint32_t g = 0; g < k->x->nengine; g++) {
		fewest[g] = UINT64_MAX;
		n += kv_layout_block_size(l, g) ? kv_layout_chunk_tokens(l) / kv_layout_block_size(l, g) * nchunks : 0;
	}
	for (uint32_t i = 0; i < kv_layout_groups(l); i++) {
		struct kv_group_facts f;

		kv_layout_group(l, i, &f);
		if (f.num_blocks < fewest[f.engine_group])
			fewest[f.engine_group] = f.num_blocks;
	}
	k->ids = out = malloc((n + 1) * sizeof(*out));
	for (uint32_t g = 0; g < k->x->nengine; g++) {
		uint32_t count = kv_layout_chunk_tokens(l) / kv_layout_block_size(l, g) * nchunks;
		uint32_t *perm = malloc(fewest[g] * sizeof(*perm));

		assert_true(count <= fewest[g]);
		for (uint32_t i = 0; i < fewest[g]; i++)
			perm[i] = i;
		for (uint32_t i = 0; order == RIG_SCATTERED && i < count; i++) {
			uint32_t at = i + (uint32_t)(ref_random(seed) % (fewest[g] - i)), was = perm[i];

			perm[i] = perm[at];
			perm[at] = was;
		}
		for (uint32_t i = 0; order == RIG_RUNS && i + 5 <= count; i += 5) {
			uint32_t a = perm[i], b = perm[i + 3];

			perm[i] = b;
			perm[i + 3] = a;
		}
		k->blocks[g] = (struct kv_blocks){.ids = out, .n = count};
		memcpy(out, perm, count * sizeof(*out));
		for (uint32_t i = 0; k->x->null_groups >> g & 1 && i < count; i += 3)
			out[i] = k->x->null_id;
		out += count;
		free(perm);
	}
}

static inline void rig_copy(struct rig_copy *k, struct rig_engine *x, bool store, uint32_t nchunks,
			    enum rig_order order, uint64_t *seed)
{
	*k = (struct rig_copy){.x = x};
	rig_ids(k, nchunks, order, seed);
	k->expected = calloc(nchunks, kv_object_bytes(x->host));
	k->c = (struct gpu_copy){.engine = &x->e,
				 .store = store,
				 .nchunks = nchunks,
				 .blocks = k->blocks,
				 .ngroups = x->nengine,
				 .slots = k->slots,
				 .submitted = rig_told,
				 .owner = k};
}

static inline void rig_copy_end(struct rig_copy *k)
{
	free(k->ids);
	free(k->expected);
}

/* Slots one after another from `at` on, `gap` bytes between them. The memory around and in them is filled. */
static inline void rig_slots(struct rig_copy *k, uint8_t *at, uint64_t gap)
{
	uint64_t bytes = kv_object_bytes(k->x->host);

	memset(at - RIG_GUARD, 0x5a, k->c.nchunks * (bytes + gap) + 2 * RIG_GUARD);
	for (uint32_t i = 0; i < k->c.nchunks; i++)
		k->slots[i] = at + i * (bytes + gap);
}

/* 1 or an error. */
static inline int rig_finish(struct rig_copy *k)
{
	int rc;

	while ((rc = copier_poll(k->x->r->copier, &k->c)) == 0)
		usleep(20);
	k->done = rc;
	return rc;
}

static inline int rig_run(struct rig_copy *k)
{
	int rc = copier_take(&k->c);

	if (rc)
		return rc;
	rc = copier_start(k->x->r->copier, &k->c);
	return rc ? rc : rig_finish(k);
}

#endif
