/* wrapper.c - device-memory wrappers (protocol reference 8.2 and 8.3). */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

#define MAX_UUID 64
#define MAX_PATH 255

enum attr {
	A_HANDLE,
	A_DTYPE,
	A_SHAPE,
	A_STRIDE,
	A_STORAGE_OFFSET,
	A_DEVICE_UUID,
	A_RAW_HANDLE,
	A_ALLOC_OFFSET,
	A_RAW_NBYTES,
	A_EXPORT_ID,
	A_KIND,
	A_FABRIC_BLOB,
	A_FD,
	A_ALLOC_SIZE,
	A_SHM_NAME,
	A_SHM_NBYTES,
	A_COUNT
};

static const char *const attr_names[A_COUNT] = {
	[A_HANDLE] = "handle",
	[A_DTYPE] = "dtype",
	[A_SHAPE] = "shape",
	[A_STRIDE] = "stride",
	[A_STORAGE_OFFSET] = "storage_offset",
	[A_DEVICE_UUID] = "device_uuid",
	[A_RAW_HANDLE] = "_ipc_handle_reserved",
	[A_ALLOC_OFFSET] = "_alloc_offset",
	[A_RAW_NBYTES] = "_nbytes",
	[A_EXPORT_ID] = "_export_id",
	[A_KIND] = "_kind",
	[A_FABRIC_BLOB] = "_fabric_blob",
	[A_FD] = "_fd",
	[A_ALLOC_SIZE] = "_alloc_size",
	[A_SHM_NAME] = "shm_name",
	[A_SHM_NBYTES] = "nbytes",
};

struct reader {
	const struct pk_space *s;
	const struct pk_val *attr[A_COUNT]; /* NULL: absent */
	struct why *why;
};

/* Python lets the last of two equal keys win, so do we. */
static void collect(struct reader *rd, const struct pk_val *state)
{
	struct pk_walk w = pk_walk_start(rd->s, state);
	const struct pk_val *key;

	while ((key = pk_walk_next(&w)) != NULL) {
		struct slice name = pk_bytes_of(key);
		const struct pk_val *value = pk_walk_next(&w);

		for (int a = 0; a < A_COUNT; a++) {
			if (slice_is(name, attr_names[a]))
				rd->attr[a] = value;
		}
	}
}

static int missing(struct reader *rd, enum attr a)
{
	return why_set(rd->why, -EPROTO, "attribute %s is missing", attr_names[a]);
}

static int want_uint(struct reader *rd, enum attr a, uint64_t *out)
{
	return rd->attr[a] ? pk_uint(rd->attr[a], attr_names[a], out, rd->why) : missing(rd, a);
}

static int bytes_value(struct reader *rd, const struct pk_val *v, const char *what, size_t n, struct slice *out)
{
	if (v->kind != V_BYTES)
		return why_set(rd->why, -EPROTO, "%s is %s, not bytes", what, pk_kind_name(v));
	*out = pk_bytes_of(v);
	if (n && out->n != n)
		return why_set(rd->why, -EPROTO, "%s has %zu bytes instead of %zu", what, out->n, n);
	return 0;
}

static int want_bytes(struct reader *rd, enum attr a, size_t n, struct slice *out)
{
	return rd->attr[a] ? bytes_value(rd, rd->attr[a], attr_names[a], n, out) : missing(rd, a);
}

/* Text for messages, file names and comparisons: printable ASCII without spaces, 1 to max bytes. */
static int check_text(struct reader *rd, struct slice s, const char *what, size_t max)
{
	const uint8_t *p = s.p;

	if (s.n == 0 || s.n > max)
		return why_set(rd->why, -EPROTO, "%s has %zu bytes; 1 to %zu are accepted", what, s.n, max);
	for (size_t i = 0; i < s.n; i++) {
		if (p[i] <= 0x20 || p[i] >= 0x7f)
			return why_set(rd->why, -EPROTO, "%s contains byte 0x%02x", what, p[i]);
	}
	return 0;
}

static int want_text(struct reader *rd, enum attr a, size_t max, struct slice *out)
{
	const struct pk_val *v = rd->attr[a];

	if (!v)
		return missing(rd, a);
	if (v->kind != V_STR)
		return why_set(rd->why, -EPROTO, "attribute %s is %s, not a str", attr_names[a], pk_kind_name(v));
	*out = pk_bytes_of(v);
	return check_text(rd, *out, attr_names[a], max);
}

/* dtype, shape, stride, storage_offset, device_uuid: the same in every kind. */
static int read_common(struct reader *rd, struct pk_geom *g, struct pk_wrapper *out)
{
	const struct pk_val *dtype = rd->attr[A_DTYPE];
	int r;

	if (!dtype)
		return missing(rd, A_DTYPE);
	if (dtype->kind != V_GLOBAL || pk_globals[dtype->tag].what != G_DTYPE)
		return why_set(rd->why, -EPROTO, "dtype is not a torch dtype but %s", pk_kind_name(dtype));
	if (!rd->attr[A_SHAPE])
		return missing(rd, A_SHAPE);
	g->dtype = (enum pk_dtype)pk_globals[dtype->tag].arg;
	r = pk_geom_read(rd->s, rd->attr[A_SHAPE], rd->attr[A_STRIDE], g, rd->why);
	if (r == 0)
		r = want_uint(rd, A_STORAGE_OFFSET, &g->offset);
	if (r == 0)
		r = want_text(rd, A_DEVICE_UUID, MAX_UUID, &out->device_uuid);
	if (r < 0)
		return r;
	if (g->ndim == 0)
		return why_set(rd->why, -EPROTO, "shape has no dimensions");
	out->dtype = g->dtype;
	out->ndim = g->ndim;
	out->storage_offset = g->offset;
	memcpy(out->shape, g->shape, g->ndim * sizeof(out->shape[0]));
	memcpy(out->stride, g->stride, g->ndim * sizeof(out->stride[0]));
	return 0;
}

/* torch's allocation handle: 64 bytes, or a version and a kind byte in front (StorageSharing.cpp). */
static int read_mem_handle(struct reader *rd, const struct pk_val *v, struct pk_wrapper *out)
{
	const uint8_t *p;
	struct slice h;
	int r = bytes_value(rd, v, "handle[1]", 0, &h);

	if (r < 0)
		return r;
	p = h.p;
	if (h.n == HANDLE_BYTES) {
		out->mem_handle = h;
		return 0;
	}
	if (h.n < 2 || p[0] < 1 || p[0] > 3)
		return why_set(rd->why, -EPROTO,
			       "handle[1] has %zu bytes and starts with 0x%02x; known are 64 bytes, or versions 1 to 3",
			       h.n, h.n ? p[0] : 0);
	if (p[1] == 'e')
		return why_set(
			rd->why, -EOPNOTSUPP,
			"the KV cache lies in an expandable segment, which CUDA IPC cannot share: remove "
			"expandable_segments:True from PYTORCH_CUDA_ALLOC_CONF (PYTORCH_ALLOC_CONF) of the engine");
	if (p[1] != 'c' || h.n != HANDLE_BYTES + 2)
		return why_set(rd->why, -EPROTO, "handle[1] is of kind 0x%02x and has %zu bytes", p[1], h.n);
	out->handle_version = p[0];
	out->mem_handle = slice_of(p + 2, HANDLE_BYTES);
	return 0;
}

static int read_refcount(struct reader *rd, const struct pk_val *name, const struct pk_val *index,
			 struct pk_wrapper *out)
{
	int r = bytes_value(rd, name, "handle[4]", 0, &out->refcount_name);

	if (r == 0)
		r = check_text(rd, out->refcount_name, "handle[4]", MAX_PATH);
	if (r == 0)
		r = pk_uint(index, "handle[5]", &out->refcount_index, rd->why);
	return r;
}

static int read_cuda(struct reader *rd, const struct pk_geom *g, struct pk_wrapper *out)
{
	const struct pk_val *h = rd->attr[A_HANDLE], *item;
	uint64_t ordinal;
	int r;

	if (!h)
		return missing(rd, A_HANDLE);
	if (h->kind != V_TUPLE || h->n != 8)
		return why_set(rd->why, -EPROTO, "handle is %s of %u values, not a tuple of 8", pk_kind_name(h), h->n);
	item = pk_items(rd->s, h);
	r = pk_uint(&item[0], "handle[0]", &ordinal, rd->why);
	out->ordinal = r == 0 && ordinal <= UINT32_MAX ? (uint32_t)ordinal : 0;
	if (r == 0)
		r = read_mem_handle(rd, &item[1], out);
	if (r == 0)
		r = pk_uint(&item[2], "handle[2]", &out->storage_bytes, rd->why);
	if (r == 0)
		r = pk_uint(&item[3], "handle[3]", &out->base_offset, rd->why);
	if (r == 0)
		r = read_refcount(rd, &item[4], &item[5], out);
	if (r == 0)
		r = bytes_value(rd, &item[6], "handle[6]", HANDLE_BYTES, &out->event_handle);
	if (r < 0)
		return r;
	if (item[7].kind != V_BOOL)
		return why_set(rd->why, -EPROTO, "handle[7] is %s, not a bool", pk_kind_name(&item[7]));
	out->event_sync = item[7].u.i != 0;
	if (out->storage_bytes > INT64_MAX - out->base_offset)
		return why_set(rd->why, -EPROTO, "handle[2] and handle[3] overflow");
	return pk_geom_within(g, out->storage_bytes, "handle[2]", rd->why);
}

/* `_nbytes` bytes at `_alloc_offset`. */
static int read_alloc(struct reader *rd, const struct pk_geom *g, struct pk_wrapper *out)
{
	int r = want_uint(rd, A_RAW_NBYTES, &out->nbytes);

	if (r == 0 && rd->attr[A_ALLOC_OFFSET])
		r = want_uint(rd, A_ALLOC_OFFSET, &out->alloc_offset);
	if (r < 0)
		return r;
	if (out->nbytes > INT64_MAX - out->alloc_offset)
		return why_set(rd->why, -EPROTO, "_alloc_offset and _nbytes overflow");
	return pk_geom_within(g, out->nbytes, "_nbytes", rd->why);
}

static int read_raw(struct reader *rd, const struct pk_geom *g, struct pk_wrapper *out)
{
	int r = want_bytes(rd, A_RAW_HANDLE, HANDLE_BYTES, &out->mem_handle);

	return r < 0 ? r : read_alloc(rd, g, out);
}

/* None, or the number that the descriptor has in the process that exports it. */
static int read_fd(struct reader *rd, struct pk_wrapper *out)
{
	uint64_t fd;
	int r;

	if (!rd->attr[A_FD] || rd->attr[A_FD]->kind == V_NONE)
		return 0;
	r = want_uint(rd, A_FD, &fd);
	if (r == 0 && fd > INT32_MAX)
		r = why_set(rd->why, -EPROTO, "_fd is no descriptor");
	out->has_fd = r == 0;
	out->fd = r == 0 ? (uint32_t)fd : 0;
	return r;
}

static int read_vmm(struct reader *rd, const struct pk_geom *g, struct pk_wrapper *out)
{
	struct slice kind;
	int r = want_bytes(rd, A_EXPORT_ID, EXPORT_ID, &out->export_id);

	if (r == 0)
		r = want_text(rd, A_KIND, 32, &kind);
	if (r < 0)
		return r;
	out->vmm_fabric = slice_is(kind, "fabric");
	if (!out->vmm_fabric && !slice_is(kind, "posix_fd"))
		return why_set(rd->why, -EPROTO, "_kind is %.*s; posix_fd and fabric are known", SLICE_FMT(kind));
	if (out->vmm_fabric)
		r = want_bytes(rd, A_FABRIC_BLOB, FABRIC_BYTES, &out->fabric_blob);
	else
		r = read_fd(rd, out);
	if (r == 0)
		r = want_uint(rd, A_ALLOC_SIZE, &out->alloc_bytes);
	if (r == 0 && !rd->attr[A_ALLOC_OFFSET])
		r = missing(rd, A_ALLOC_OFFSET);
	if (r == 0)
		r = read_alloc(rd, g, out);
	if (r == 0 && out->alloc_offset + out->nbytes > out->alloc_bytes)
		r = why_set(rd->why, -EPROTO, "_alloc_offset and _nbytes reach past _alloc_size");
	return r;
}

static int read_shm(struct reader *rd, const struct pk_geom *g, struct pk_wrapper *out)
{
	const char *name;
	int r = want_text(rd, A_SHM_NAME, MAX_PATH, &out->shm_name);

	if (r == 0)
		r = want_uint(rd, A_SHM_NBYTES, &out->nbytes);
	if (r < 0)
		return r;
	name = out->shm_name.p;
	if (name[0] != '/' || out->shm_name.n < 2 || memchr(name + 1, '/', out->shm_name.n - 1))
		return why_set(rd->why, -EPROTO, "shm_name %.*s is not a slash and one file name",
			       SLICE_FMT(out->shm_name));
	return pk_geom_within(g, out->nbytes, "nbytes", rd->why);
}

static int read_wrapper(struct reader *rd, const struct pk_val *obj, struct pk_wrapper *out)
{
	struct pk_val state = {.kind = V_DICT, .u.at = rd->s->cells[obj->u.at].head.first};
	struct pk_geom g = {0};
	int r;

	if (!state.u.at)
		return why_set(rd->why, -EPROTO, "no attributes");
	collect(rd, &state);
	r = read_common(rd, &g, out);
	if (r < 0)
		return r;
	switch (out->kind) {
	case PK_CUDA_IPC:
		return read_cuda(rd, &g, out);
	case PK_RAW_CUDA_IPC:
		return read_raw(rd, &g, out);
	case PK_VMM_CUDA_IPC:
		return read_vmm(rd, &g, out);
	case PK_CPU_SHM:
		return read_shm(rd, &g, out);
	}
	return why_set(rd->why, -EPROTO, "unknown kind");
}

int pk_wrapper_parse(struct slice pickle, struct pk_mem *m, struct pk_wrapper *out, struct why *why)
{
	struct reader rd = {.s = &m->small, .why = why};
	struct pk_val v;
	size_t used;
	int r;

	memset(out, 0, sizeof(*out));
	if (pickle.n > PK_MAX_WRAPPER)
		return why_set(why, -E2BIG, "a wrapper of %zu bytes; the limit is %d", pickle.n, PK_MAX_WRAPPER);
	r = pk_run(m, PK_IN_WRAPPER, pickle, &used, &v, why);
	if (r < 0)
		return r;
	if (used != pickle.n)
		return why_set(why, -EPROTO, "%zu bytes after the pickle", pickle.n - used);
	if (v.kind != V_OBJ)
		return why_set(why, -EPROTO, "the pickle is %s, not a wrapper", pk_kind_name(&v));
	out->kind = (enum pk_kind)pk_globals[v.tag].arg;
	r = read_wrapper(&rd, &v, out);
	if (r < 0)
		why_prefix(why, "%s", pk_globals[v.tag].name);
	return r;
}
