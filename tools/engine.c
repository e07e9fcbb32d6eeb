/* engine.c - life of a pretended engine: connections, contexts, and their end. */
#include "tools/engine_int.h"

#include "daemon/base/mem.h"
#include "tools/session.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static uint32_t context_number(const struct engine *e)
{
	return atomic_fetch_add(&e->conf.env->next_context, 1);
}

/* As vLLM did before it used random numbers: the pid; it can be only one context's. */
static uint64_t new_instance_id(const struct engine *e)
{
	return context_number(e) == 0 ? (uint64_t)getpid() : session_random() >> 1;
}

static int place_memory(struct engine *e, struct why *why)
{
	const struct km_model *m = e->conf.model;
	uint32_t block = m->block_tokens;
	if (e->chunk_tokens % block)
		return why_set(why, -EINVAL, "the server's chunk of %u tokens is no multiple of the block of %u",
			       e->chunk_tokens, block);
	uint64_t needed = e->conf.max_tokens / block + 1;
	uint64_t blocks = e->conf.num_blocks ? e->conf.num_blocks : needed + needed / 8 + 2; /* block 0 and a canary */
	if (blocks < needed + 2)
		return why_set(why, -EINVAL, "%llu blocks of %u tokens are too few for %u tokens",
			       (unsigned long long)blocks, block, e->conf.max_tokens);
	int rc = km_place_init(&e->object, m, KM_OBJECT, e->chunk_tokens, 1, why);
	if (!rc)
		rc = km_place_init(&e->place, m, e->conf.format, block, blocks, why);
	e->groups = !rc && e->conf.mode == ENG_HANDLE ? km_groups(m, e->conf.format) : 1;
	if (e->groups > 1 && e->conf.dialect < WIRE_D4)
		return why_set(why, -EOPNOTSUPP, "groups of layers exist from dialect D4 on, and %s has them", m->name);
	return rc;
}

/* ---- engine-driven contexts ---------------------------------------------------------------------------------- */

static int map_pool(struct eng_worker *w, struct slice name, uint64_t bytes, struct why *why)
{
	char path[256] = "/";
	struct stat st;
	if (name.n == 0 || name.n >= sizeof(path) - 1 || memchr((const char *)name.p + 1, '/', name.n - 1))
		return why_set(why, -EPROTO, "the server names its pool '%.*s'", SLICE_FMT(name));
	bool slash = *(const char *)name.p == '/';
	memcpy(path + !slash, name.p, name.n);
	path[name.n + !slash] = '\0';
	int fd = shm_open(path, O_RDWR | O_CLOEXEC, 0);
	if (fd < 0)
		return why_set(why, -errno, "opening the server's pool %s: %s", path, strerror(errno));
	void *p = MAP_FAILED;
	if (fstat(fd, &st) == 0 && (uint64_t)st.st_size >= bytes)
		p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	int err = errno;
	close(fd);
	if (p == MAP_FAILED)
		return why_set(why, -EIO, "mapping %llu bytes of the server's pool %s: %s", (unsigned long long)bytes,
			       path, strerror(err));
	w->pool = p;
	w->pool_bytes = bytes;
	return 0;
}

static int check_mode(const struct engine *e, const struct wire_reply *reply, struct why *why)
{
	bool offered = reply->shm_name.n > 0 && reply->pool_size > 0;
	if (e->conf.mode == ENG_DRIVEN && !offered)
		return why_set(why, -EOPNOTSUPP,
			       "the server offers no shared memory: start it without --shm-name \"\"");
	if (e->conf.mode == ENG_PICKLE && offered)
		return why_set(why, -EOPNOTSUPP,
			       "the server offers shared memory: pickle mode needs a server with --shm-name \"\"");
	return 0;
}

static int register_driven(struct engine *e, struct eng_worker *w, struct why *why)
{
	const struct km_model *m = e->conf.model;
	struct wire_req req = eng_request(e, WIRE_REGISTER_ENGINE_DRIVEN, NULL, (int)(w - e->workers), 0, 0);
	struct wire_reply reply;
	bool first_form = e->conf.dialect == WIRE_D3B; /* CPU chunks: positional fields, always pickles */
	if (first_form)
		req.op = WIRE_REGISTER_CPU_CONTEXT;
	req.ed = (struct wire_engine_driven){.block_size = m->block_tokens,
					     .num_layers = m->layers,
					     .hidden_dim_size = m->heads * m->head_size,
					     .dtype = slice_str(pk_dtype_name(m->dtype)),
					     .use_mla = m->kv_size == 1};
	int rc = eng_call(e, w->client, &req, &reply, why);
	if (rc || first_form)
		return rc;
	rc = check_mode(e, &reply, why);
	return rc || e->conf.mode == ENG_PICKLE ? rc : map_pool(w, reply.shm_name, reply.pool_size, why);
}

/* ---- opening and closing ------------------------------------------------------------------------------------- */

static int open_worker(struct engine *e, uint32_t i, struct why *why)
{
	const struct km_model *m = e->conf.model;
	struct eng_worker *w = &e->workers[i];
	uint32_t chunk;
	int rc = session_open(e->conf.url, e->conf.dialect, e->conf.max_tokens, e->conf.timeout_ms, &w->client, &chunk,
			      why);
	if (rc)
		return rc;
	w->shard = i * m->world_size / m->workers; /* MLA: several workers read one shard */
	w->instance_id = new_instance_id(e);
	rc = e->conf.mode == ENG_HANDLE ? eng_memory_register(e, w, why) : register_driven(e, w, why);
	if (rc)
		why_prefix(why, "registering rank %u", i);
	return rc;
}

static int open_pickle(struct engine *e, struct why *why)
{
	if (e->conf.mode != ENG_PICKLE)
		return 0;
	const struct km_place *o = &e->object;
	uint64_t shape[] = {o->shape[0], o->shape[1], o->shape[2], o->shape[3]};
	e->message_cap = pk_tensors_bound(o->model->dtype, shape, 4, e->conf.max_tokens / e->chunk_tokens + 1);
	e->message = mem_calloc(1, e->message_cap);
	if (!e->message || pk_mem_create(&e->pickle))
		return why_set(why, -ENOMEM, "no memory for messages of %zu bytes", e->message_cap);
	return 0;
}

int eng_open(const struct eng_conf *conf, struct engine **out, struct why *why)
{
	struct engine *e = mem_calloc(1, sizeof(*e));
	if (!e)
		return why_set(why, -ENOMEM, "no memory for an engine");
	e->conf = *conf;
	e->nworkers = conf->model->workers;
	e->workers = mem_calloc(e->nworkers, sizeof(*e->workers));
	int rc = e->workers ? 0 : why_set(why, -ENOMEM, "no memory for an engine");
	if (!rc)
		rc = session_open(conf->url, conf->dialect, conf->max_tokens, conf->timeout_ms, &e->scheduler,
				  &e->chunk_tokens, why);
	if (!rc)
		rc = place_memory(e, why);
	if (!rc)
		rc = open_pickle(e, why);
	for (uint32_t i = 0; i < e->nworkers && !rc; i++)
		rc = open_worker(e, i, why);
	if (rc) {
		eng_close(e);
		return rc;
	}
	*out = e;
	return 0;
}

static void close_worker(struct engine *e, struct eng_worker *w)
{
	struct wire_req req = eng_request(e, WIRE_UNREGISTER_KV_CACHE, NULL, (int)(w - e->workers), 0, 0);
	struct wire_reply reply;
	if (e->conf.mode != ENG_HANDLE && e->conf.dialect >= WIRE_D4)
		req.op = WIRE_UNREGISTER_ENGINE_DRIVEN;
	if (w->client && w->instance_id)
		eng_call(e, w->client, &req, &reply, NULL);
	ctl_client_close(w->client);
	eng_memory_release(e, w);
	if (w->pool)
		munmap(w->pool, w->pool_bytes);
}

void eng_close(struct engine *e)
{
	if (!e)
		return;
	for (uint32_t i = 0; e->workers && i < e->nworkers; i++)
		close_worker(e, &e->workers[i]);
	ctl_client_close(e->scheduler);
	if (e->pickle)
		pk_mem_destroy(e->pickle);
	mem_free(e->message);
	mem_free(e->workers);
	mem_free(e);
}
