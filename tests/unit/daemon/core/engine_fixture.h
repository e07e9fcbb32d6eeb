/* engine_fixture.h - an engine's paged KV memory in real shared-memory objects, and the registration that names it: one tensor
 * [2, blocks, block tokens, heads, head size] of bfloat16 per layer, as vLLM lays it out.
 */
#ifndef TESTS_UNIT_DAEMON_CORE_ENGINE_FIXTURE_H
#define TESTS_UNIT_DAEMON_CORE_ENGINE_FIXTURE_H

#include "tests/unit/daemon/core/fixture.h"

#include "transport/pickle/pickle.h"
#include "transport/wire/wire.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define WRAPPER_MODULE "lmcache.v1.platform.cpu.shm"
#define MAX_LAYERS     8u

struct engine_shape {
	uint32_t layers, blocks, block_tokens, heads, head_size;
};

struct engine_memory {
	struct engine_shape shape;
	uint64_t bytes; /* of a layer's tensor */
	uint8_t *base[MAX_LAYERS];
	char name[MAX_LAYERS][64];
	struct pk_wrapper w[MAX_LAYERS]; /* tests spoil these, then engine_wrap */
	uint8_t pickle[MAX_LAYERS][1024];
	struct slice wrappers[MAX_LAYERS];
};

static inline void engine_contiguous(struct pk_wrapper *w)
{
	int64_t stride = 1;

	for (uint32_t d = w->ndim; d-- > 0;) {
		w->stride[d] = stride;
		stride *= (int64_t)w->shape[d];
	}
}

static inline void engine_wrap(struct engine_memory *m)
{
	for (uint32_t i = 0; i < m->shape.layers; i++) {
		ssize_t n = pk_wrapper_emit_shm(&m->w[i], WRAPPER_MODULE, m->pickle[i], sizeof(m->pickle[i]));

		assert_true(n > 0);
		m->wrappers[i] = slice_of(m->pickle[i], (size_t)n);
	}
}

static inline void engine_open(struct engine_memory *m, const struct engine_shape *s)
{
	memset(m, 0, sizeof(*m));
	assert_in_range(s->layers, 1, MAX_LAYERS);
	m->shape = *s;
	m->bytes = 2ull * s->blocks * s->block_tokens * s->heads * s->head_size * 2;
	for (uint32_t i = 0; i < s->layers; i++) {
		int fd;

		snprintf(m->name[i], sizeof(m->name[i]), "/lmca_core_test_%d_%u", (int)getpid(), i);
		fd = shm_open(m->name[i], O_RDWR | O_CREAT | O_TRUNC, 0600);
		assert_true(fd >= 0 && ftruncate(fd, (off_t)m->bytes) == 0);
		m->base[i] = mmap(NULL, m->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		assert_true(m->base[i] != MAP_FAILED);
		close(fd);
		m->w[i] = (struct pk_wrapper){.kind = PK_CPU_SHM,
					      .dtype = PK_BFLOAT16,
					      .ndim = 5,
					      .shape = {2, s->blocks, s->block_tokens, s->heads, s->head_size},
					      .device_uuid = slice_str("cpu"),
					      .shm_name = slice_str(m->name[i]),
					      .nbytes = m->bytes};
		engine_contiguous(&m->w[i]);
	}
	engine_wrap(m);
}

static inline void engine_resize(struct engine_memory *m, uint32_t layer, uint64_t bytes)
{
	int fd = shm_open(m->name[layer], O_RDWR, 0);

	assert_true(fd >= 0 && ftruncate(fd, (off_t)bytes) == 0);
	close(fd);
}

static inline void engine_close(struct engine_memory *m)
{
	for (uint32_t i = 0; i < m->shape.layers; i++) {
		munmap(m->base[i], m->bytes);
		shm_unlink(m->name[i]);
	}
}

static inline struct wire_req engine_registration(struct engine_memory *m, uint64_t instance_id)
{
	return (struct wire_req){.op = WIRE_REGISTER_KV_CACHE,
				 .has_instance = true,
				 .instance_id = instance_id,
				 .model = slice_str("m"),
				 .world_size = 1,
				 .engine_type = slice_str("vllm"),
				 .wrappers = m->wrappers,
				 .nwrappers = m->shape.layers};
}

static inline uint64_t engine_object_bytes(const struct engine_shape *s, uint32_t chunk_tokens)
{
	return 2ull * s->layers * chunk_tokens * s->heads * s->head_size * 2;
}

#endif
