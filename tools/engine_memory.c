/* engine_memory.c - the paged KV tensors of a worker, and their registration. */
#include "tools/engine_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define WRAPPER_MODULE     "lmcache.v1.platform.cpu.shm"
#define WRAPPER_MODULE_GPU "lmcache.v1.platform.cuda.ipc_wrapper"
#define WRAPPER_BYTES      1024

struct registration {
	char names[KM_MAX_TENSORS][64];
	uint8_t pickles[KM_MAX_TENSORS][WRAPPER_BYTES];
	struct slice wrappers[KM_MAX_TENSORS];
	uint32_t layers[KM_MAX_TENSORS];
	uint32_t made;
};

/* posix_fallocate and not ftruncate: too small a /dev/shm is an error here, and not a SIGBUS later. */
static int make_tensor(struct engine *e, struct eng_worker *w, uint32_t i, char name[64], struct why *why)
{
	uint64_t bytes = e->place.tensor_bytes;
	snprintf(name, 64, "/lmcache_kv_%d_%u", (int)getpid(), atomic_fetch_add(&e->conf.env->next_tensor, 1));
	int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return why_set(why, -errno, "creating %s: %s", name, strerror(errno));
	int err = posix_fallocate(fd, 0, (off_t)bytes);
	void *p = err ? MAP_FAILED : mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (p == MAP_FAILED) {
		shm_unlink(name);
		return why_set(why, -ENOMEM, "%llu bytes of shared memory for one of %u tensors: %s",
			       (unsigned long long)bytes, e->place.ntensors, strerror(err ? err : errno));
	}
	if (e->conf.touch)
		memset(p, 0, bytes);
	w->bases[i] = p;
	return 0;
}

static int keep_pickle(struct registration *r, uint32_t i, ssize_t n, struct why *why)
{
	if (n < 0)
		return why_set(why, (int)n, "the pickle of a tensor does not fit %d bytes", WRAPPER_BYTES);
	r->wrappers[i] = slice_of(r->pickles[i], (size_t)n);
	return 0;
}

static int wrap(const struct engine *e, struct registration *r, uint32_t i, struct why *why)
{
	struct pk_wrapper wrapper = {.kind = PK_CPU_SHM,
				     .dtype = e->conf.model->dtype,
				     .ndim = e->place.ndim,
				     .device_uuid = slice_str("cpu"),
				     .shm_name = slice_str(r->names[i]),
				     .nbytes = e->place.tensor_bytes};
	int64_t stride = 1;
	for (uint32_t d = e->place.ndim; d-- > 0;) {
		wrapper.shape[d] = e->place.shape[d];
		wrapper.stride[d] = stride;
		stride *= (int64_t)e->place.shape[d];
	}
	return keep_pickle(r, i, pk_wrapper_emit_shm(&wrapper, WRAPPER_MODULE, r->pickles[i], WRAPPER_BYTES), why);
}

static int make_tensors(struct engine *e, struct eng_worker *w, struct registration *r, struct why *why)
{
	int rc = 0;
	for (uint32_t i = 0; i < e->place.ntensors && !rc; i++) {
		rc = make_tensor(e, w, i, r->names[i], why);
		r->made += rc == 0;
		if (!rc)
			rc = wrap(e, r, i, why);
	}
	e->host = e->place;
	return rc;
}

/* ---- memory of a GPU ------------------------------------------------------------------------------------------- */

static int make_gpu_tensors(struct engine *e, struct eng_worker *w, struct registration *r, struct why *why)
{
	uint64_t longest = e->conf.max_tokens / e->place.block_tokens + 2; /* a block begun, and the canary */
	int rc = egpu_open(e->conf.gpus, &e->place, e->conf.window ? longest : 0, &w->gpu, why);
	for (uint32_t i = 0; i < e->place.ntensors && !rc; i++) {
		struct pk_wrapper wrapper;
		egpu_wrap(w->gpu, i, &wrapper);
		rc = keep_pickle(r, i, pk_wrapper_emit_cuda(&wrapper, WRAPPER_MODULE_GPU, r->pickles[i], WRAPPER_BYTES),
				 why);
		if (e->conf.window)
			w->bases[i] = egpu_window_tensor(w->gpu, i);
	}
	if (!rc)
		e->host = e->conf.window ? *egpu_window(w->gpu) : e->place; /* without one nobody looks */
	return rc;
}

int eng_upload(struct engine *e, const struct eng_blocks *b, uint64_t first, uint64_t n, struct why *why)
{
	int rc = 0;
	for (uint32_t i = 0; e->conf.gpus && i < e->nworkers && !rc; i++)
		for (uint32_t g = 0; g < e->groups && !rc; g++)
			rc = egpu_upload(e->workers[i].gpu, g, b->ids[g], first, n, why);
	return rc;
}

int eng_download(struct engine *e, const struct eng_blocks *b, uint64_t first, uint64_t n, struct why *why)
{
	int rc = 0;
	for (uint32_t i = 0; e->conf.gpus && i < e->nworkers && !rc; i++)
		for (uint32_t g = 0; g < e->groups && !rc; g++)
			rc = egpu_download(e->workers[i].gpu, g, b->ids[g], first, n, why);
	return rc;
}

/* ---- registration ---------------------------------------------------------------------------------------------- */

static void set_hints(const struct engine *e, struct wire_req *req)
{
	const struct km_format *f = km_format(e->conf.format);
	req->engine_type = slice_str(f->engine_type);
	req->hints.kv_layout = slice_str(f->kv_layout);
	req->hints.kv_list_layout = slice_str(f->kv_list_layout);
	if (!f->size_hints)
		return;
	req->hints.num_kv_heads = e->conf.model->heads;
	req->hints.tokens_per_block = e->conf.model->block_tokens;
	req->hints.head_dim = e->conf.model->head_size;
}

/* Layers 0, 2, 4 ... are the first group of a hybrid model, the one with a window. */
static void set_groups(const struct engine *e, struct registration *r, struct wire_req *req)
{
	uint32_t n = 0;
	req->has_groups = true;
	req->ngroups = e->groups;
	for (uint32_t g = 0; g < e->groups; g++) {
		req->groups[g] = (struct wire_group_info){.engine_group_id = g, .layer_indices = r->layers + n};
		if (e->groups > 1 && g == 0)
			req->groups[g].sw_size_tokens = e->conf.model->window;
		for (uint32_t l = g; l < e->conf.model->layers; l += e->groups)
			r->layers[n++] = l;
		req->groups[g].nlayers = (uint32_t)(r->layers + n - req->groups[g].layer_indices);
	}
}

static int send_registration(struct engine *e, struct eng_worker *w, struct registration *r, struct why *why)
{
	struct wire_req req = eng_request(e, WIRE_REGISTER_KV_CACHE, NULL, (int)(w - e->workers), 0, 0);
	struct wire_reply reply;
	req.wrappers = r->wrappers;
	req.nwrappers = e->place.ntensors;
	set_groups(e, r, &req);
	set_hints(e, &req);
	return eng_call(e, w->client, &req, &reply, why);
}

int eng_memory_register(struct engine *e, struct eng_worker *w, struct why *why)
{
	struct registration *r = mem_calloc(1, sizeof(*r));
	int rc = r ? 0 : why_set(why, -ENOMEM, "no memory for a registration");
	if (!rc)
		rc = e->conf.gpus ? make_gpu_tensors(e, w, r, why) : make_tensors(e, w, r, why);
	if (!rc)
		rc = send_registration(e, w, r, why);
	w->registered = rc == 0;
	for (uint32_t i = 0; r && i < r->made; i++)
		shm_unlink(r->names[i]); /* the server has mapped them */
	mem_free(r);
	return rc;
}

void eng_memory_release(struct engine *e, struct eng_worker *w)
{
	if (e->conf.gpus) {
		egpu_close(w->gpu, w->registered);
		return;
	}
	for (uint32_t i = 0; i < e->place.ntensors; i++)
		if (w->bases[i])
			munmap(w->bases[i], e->place.tensor_bytes);
}
