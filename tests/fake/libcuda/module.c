/* module.c - images and launches. What runs is kernels.cu, compiled for this CPU; the image only has to name it. */
#include "tests/fake/libcuda/fake.h"

#include "tests/fake/libcuda/cpu_cuda.h"

#include <stdlib.h>

enum { GATHER, SCATTER, KERNELS };
static const char *const kernel_name[KERNELS] = {KERNEL_GATHER, KERNEL_SCATTER};

struct module {
	CUmodule handle;
	struct context *ctx;
	bool has[KERNELS];
	CUfunction function[KERNELS];
};
struct function {
	struct module *module;
	int kernel;
};

/* ---- images ---------------------------------------------------------------------------------------------------------------- */

#define FATBIN     0xba55ed50u
#define MOST_BYTES (64u << 20)

static bool binary_has(const char *p, size_t n, const char *name)
{
	return memmem(p, n, name, strlen(name)) != NULL;
}

static bool text_has(const char *text, const char *name)
{
	size_t n = strlen(name);

	for (const char *p = text; (p = strstr(p, ".entry")); p++) {
		const char *q = p + 6 + strspn(p + 6, " \t\r\n");

		if (strncmp(q, name, n) == 0 && strchr(" \t\r\n(", q[n]))
			return true;
	}
	return false;
}

static CUresult read_image(const void *image, struct module *m)
{
	uint32_t magic, i;
	uint16_t header;
	uint64_t bytes;
	const char *text = image;

	memcpy(&magic, image, sizeof(magic));
	if (magic == FATBIN) {
		memcpy(&header, text + 6, sizeof(header));
		memcpy(&bytes, text + 8, sizeof(bytes));
		if (bytes > MOST_BYTES)
			return CUDA_ERROR_INVALID_IMAGE;
		for (i = 0; i < KERNELS; i++)
			m->has[i] = binary_has(text, header + bytes, kernel_name[i]);
		return CUDA_SUCCESS;
	}
	if (!strchr("/. \t\r\n", text[0]) || !text[0])
		return CUDA_ERROR_INVALID_IMAGE;
	if (!strstr(text, ".version") || !strstr(text, ".target") || !strstr(text, ".address_size"))
		return CUDA_ERROR_INVALID_PTX;
	for (i = 0; i < KERNELS; i++)
		m->has[i] = text_has(text, kernel_name[i]);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned noptions, int *options, void **values)
{
	CUresult rc = enter_ctx("cuModuleLoadDataEx");
	struct module *m;

	if (rc)
		return rc;
	if (!out || !image || (noptions && (!options || !values)))
		return CUDA_ERROR_INVALID_VALUE;
	m = calloc(1, sizeof(*m));
	if (!m)
		return CUDA_ERROR_OUT_OF_MEMORY;
	rc = read_image(image, m);
	if (rc) {
		free(m);
		return rc;
	}
	m->ctx = current;
	pthread_mutex_lock(&self.lk);
	m->handle = (CUmodule)(uintptr_t)handle_make(OBJ_MODULE, m);
	*out = m->handle;
	atomic_fetch_add(&self.p->modules, 1);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
	return cuModuleLoadDataEx(out, image, 0, NULL, NULL);
}

/* self.lk */
static void unload(struct module *m)
{
	for (uint32_t i = 0; i < KERNELS; i++) {
		if (!m->function[i])
			continue;
		free(handle_find(OBJ_FUNCTION, m->function[i]));
		handle_free(m->function[i]);
	}
	handle_free(m->handle);
	atomic_fetch_sub(&self.p->modules, 1);
	free(m);
}

void modules_of_context(struct context *c)
{
	for (uint32_t i = 0; i < self.nhandles; i++)
		if (self.handle[i].kind == OBJ_MODULE && ((struct module *)self.handle[i].object)->ctx == c)
			unload(self.handle[i].object);
}

FAKE_API CUresult cuModuleUnload(CUmodule handle)
{
	CUresult rc = enter_ctx("cuModuleUnload");
	struct module *m;

	if (rc)
		return rc;
	rc = context_sync(current);
	pthread_mutex_lock(&self.lk);
	m = handle_find(OBJ_MODULE, handle);
	if (m && m->ctx == current)
		unload(m);
	else
		rc = CUDA_ERROR_INVALID_HANDLE;
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* self.lk */
static CUresult get_function(struct module *m, int which, CUfunction *out)
{
	struct function *f;

	if (!m->function[which]) {
		f = calloc(1, sizeof(*f));
		if (!f)
			return CUDA_ERROR_OUT_OF_MEMORY;
		*f = (struct function){m, which};
		m->function[which] = (CUfunction)(uintptr_t)handle_make(OBJ_FUNCTION, f);
	}
	*out = m->function[which];
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuModuleGetFunction(CUfunction *out, CUmodule handle, const char *name)
{
	CUresult rc = enter_ctx("cuModuleGetFunction");
	struct module *m;
	int which = 0;

	if (rc)
		return rc;
	if (!out || !name)
		return CUDA_ERROR_INVALID_VALUE;
	while (which < KERNELS && strcmp(kernel_name[which], name) != 0)
		which++;
	pthread_mutex_lock(&self.lk);
	m = handle_find(OBJ_MODULE, handle);
	if (!m || m->ctx != current)
		rc = CUDA_ERROR_INVALID_HANDLE;
	else if (which == KERNELS || !m->has[which])
		rc = CUDA_ERROR_NOT_FOUND;
	else
		rc = get_function(m, which, out);
	pthread_mutex_unlock(&self.lk);
	return rc;
}

/* ---- launches --------------------------------------------------------------------------------------------------------------- */

/* Asked before every launch: a wrong grid is refused, not run. */
static bool grid_fits(const unsigned g[3], const unsigned b[3], unsigned shared)
{
	uint64_t threads = (uint64_t)b[0] * b[1] * b[2];

	return g[0] && g[1] && g[2] && threads && threads <= 1024 && b[2] <= 64 && g[0] <= INT32_MAX && g[1] < 65536 &&
	       g[2] < 65536 && shared <= 48u << 10;
}

FAKE_API CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
				 unsigned bz, unsigned shared, CUstream stream, void **args, void **extra)
{
	CUresult rc = enter_ctx("cuLaunchKernel");
	struct op op = {.kind = OP_KERNEL, .grid = {gx, gy, gz}, .block = {bx, by, bz}};
	struct function *f;
	struct stream *s;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	f = handle_find(OBJ_FUNCTION, handle);
	if (!f || f->module->ctx != current)
		rc = CUDA_ERROR_INVALID_HANDLE;
	else
		op.n = (uint64_t)f->kernel;
	pthread_mutex_unlock(&self.lk);
	if (rc)
		return rc;
	/* Our kernels are of one dimension and have KERNEL_THREADS as their launch bound. */
	if (!grid_fits(op.grid, op.block, shared) || extra || !args || !args[0])
		return CUDA_ERROR_INVALID_VALUE;
	if (bx * by * bz > KERNEL_THREADS)
		return CUDA_ERROR_INVALID_VALUE;
	_Static_assert(sizeof(struct kernel_args) <= sizeof(op.args), "the arguments are copied");
	memcpy(op.args, args[0], sizeof(struct kernel_args));
	s = stream_find(stream, &rc);
	if (!s)
		return rc;
	rc = stream_push(s, &op, NULL);
	stream_put(s);
	return rc;
}

/* What a kernel under way has touched: held until it is over. */
struct touched {
	struct context *ctx;
	struct range *held, *more[64];
	uint32_t n;
	struct range host; /* pinned memory, at its own address */
};

/* Kernels reach memory of their own GPU, what was imported for it, what they were given access to, and the host's. */
static bool reachable(const struct range *r, const struct context *c)
{
	switch (r->kind) {
	case RANGE_VMM:
		return r->gpus >> c->gpu & 1;
	case RANGE_HOST:
		return r->ctx == c || r->portable;
	case RANGE_ALLOC:
	case RANGE_IMPORT:
		break;
	}
	return r->ctx == c;
}

static void *kernel_at(void *ctx, uint64_t address, uint32_t bytes, bool write)
{
	struct touched *t = ctx;
	struct range *r = t->held;
	uint64_t k = bytes;

	(void)write;
	if (!r || address < r->va || address + bytes > r->va + r->bytes) {
		r = NULL;
		for (uint32_t i = 0; i < t->n && !r; i++)
			if (address >= t->more[i]->va && address + bytes <= t->more[i]->va + t->more[i]->bytes)
				r = t->more[i];
	}
	if (!r) {
		if (!is_device(address))
			return host_made((void *)(uintptr_t)address, bytes) ? (void *)(uintptr_t)address : NULL;
		if (!device_hold(address, &k, &r))
			return NULL;
		if (k < bytes || !reachable(r, t->ctx)) {
			device_release(r);
			return NULL;
		}
		if (t->n == sizeof(t->more) / sizeof(t->more[0]))
			device_release(t->more[--t->n]);
		t->more[t->n++] = r;
	}
	t->held = r;
	return r->host + (address - r->va);
}

CUresult kernel_run(struct context *c, const struct op *op)
{
	struct touched t = {.ctx = c};
	struct kernel_args args;
	uint64_t fault;

	memcpy(&args, op->args, sizeof(args));
	fault = cpu_launch(op->n == SCATTER, &args, op->grid[0], op->block[0], kernel_at, &t);
	for (uint32_t i = 0; i < t.n; i++)
		device_release(t.more[i]);
	if (!fault)
		return CUDA_SUCCESS;
	return fault % args.word ? CUDA_ERROR_MISALIGNED_ADDRESS : CUDA_ERROR_ILLEGAL_ADDRESS;
}
