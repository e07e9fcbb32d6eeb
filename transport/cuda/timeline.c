/* Timelines: events without the kernel's help. A slot is eight bytes of GPU memory that only grow; an event is a slot and the number that
 * it is to reach. The handle: version 1, the memory's handle, the slot's offset, the number, big-endian.
 *
 * Ours: every stream has a slot of its own, and the stream's order makes the number grow. The buffer belongs to one engine, which could
 * write into it: others must not depend on it. It is a whole 2 MiB, because the driver exports no less, and what else lay there
 * would be exported with it.
 * Clients': mapped once, and read by copies of eight bytes to pinned memory. A stream that waited for one would wait for ever when its
 * process dies.
 */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define VERSION     1u
#define SLOTS       4096u
#define EXPORTED    (2u << 20)
#define MAX_STREAMS 64u
#define MAX_MAPS    8u /* timelines of clients that one engine uses at a time */

struct foreign {
	struct mapping *mapping;
	uint32_t waits;
	uint64_t used;
	uint8_t handle[64];
};

struct timelines {
	struct gpu *gpu;
	CUstream side;
	CUdeviceptr base;
	CUipcMemHandle handle;
	_Atomic uint64_t *words; /* pinned, one per lane: what was read from clients' slots */
	struct {
		CUstream stream;
		uint64_t sequence;
	} streams[MAX_STREAMS]; /* slot i + 1; slot 0 is the idle one */
	uint32_t nstreams;
	struct foreign maps[MAX_MAPS];
	uint64_t uses;
};

static void put_u64(uint8_t *p, uint64_t v)
{
	for (int i = 7; i >= 0; i--, v >>= 8)
		p[i] = (uint8_t)v;
}

static uint64_t get_u64(const uint8_t *p)
{
	uint64_t v = 0;

	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

/* ---- ours -------------------------------------------------------------------------------------------------------------------- */

static void write_handle(const struct timelines *t, uint64_t offset, uint64_t sequence, uint8_t out[GPU_TIMELINE])
{
	out[0] = VERSION;
	memcpy(out + 1, &t->handle, 64);
	put_u64(out + 65, offset);
	put_u64(out + 73, sequence);
}

static int make(struct timelines *t)
{
	struct gpu *g = t->gpu;
	const struct cuda_driver *cu = g->door->cu;
	void *words = NULL;
	int rc = gpu_result(g, cu->cuMemAllocHost(&words, EVENT_LANES * sizeof(*t->words)));

	t->words = rc ? NULL : words;
	if (!rc)
		rc = gpu_result(g, cu->cuMemAlloc(&t->base, EXPORTED));
	if (!rc)
		rc = gpu_result(g, cu->cuMemsetD8Async(t->base, 0, EXPORTED, t->side));
	if (!rc)
		rc = gpu_result(g, cu->cuIpcGetMemHandle(&t->handle, t->base));
	if (!rc)
		rc = gpu_result(g, cu->cuStreamWriteValue64(t->side, t->base, 1, CU_STREAM_WRITE_VALUE_DEFAULT));
	if (!rc)
		rc = gpu_result(g, cu->cuStreamSynchronize(t->side));
	return rc;
}

int timelines_create(struct gpu *g, CUstream side, struct timelines **out, struct why *why)
{
	struct timelines *t = mem_calloc(1, sizeof(*t));
	int rc;

	if (!t)
		return why_set(why, -ENOMEM, "out of memory");
	t->gpu = g;
	t->side = side;
	rc = make(t);
	if (rc) {
		timelines_destroy(t);
		return why_set(why, rc, "GPU %u: no memory for events of isolated engines", g->index);
	}
	*out = t;
	return 0;
}

void timelines_destroy(struct timelines *t)
{
	const struct cuda_driver *cu;

	if (!t)
		return;
	cu = t->gpu->door->cu;
	cu->cuStreamSynchronize(t->side); /* small reads only */
	for (uint32_t i = 0; i < MAX_MAPS; i++)
		mapping_put(t->maps[i].mapping);
	if (t->base)
		cu->cuMemFree(t->base);
	if (t->words)
		cu->cuMemFreeHost((void *)t->words);
	mem_free(t);
}

int timelines_record(struct timelines *t, CUstream s, uint8_t out[GPU_TIMELINE])
{
	uint32_t i = 0;
	uint64_t offset;
	int rc;

	while (i < t->nstreams && t->streams[i].stream != s)
		i++;
	if (i == MAX_STREAMS)
		return -ENOSPC;
	if (i == t->nstreams) {
		t->streams[i].stream = s;
		t->nstreams++;
	}
	offset = (i + 1) * 8ull;
	rc = gpu_result(t->gpu, t->gpu->door->cu->cuStreamWriteValue64(s, t->base + offset, t->streams[i].sequence + 1,
								       CU_STREAM_WRITE_VALUE_DEFAULT));
	if (!rc)
		write_handle(t, offset, ++t->streams[i].sequence, out);
	return rc;
}

void timelines_idle(const struct timelines *t, uint8_t out[GPU_TIMELINE])
{
	write_handle(t, 0, 1, out);
}

/* ---- clients' ---------------------------------------------------------------------------------------------------------------- */

/* The place for another one: free, or the one not used for longest. */
static struct foreign *place(struct timelines *t)
{
	struct foreign *best = NULL;

	for (uint32_t i = 0; i < MAX_MAPS; i++) {
		struct foreign *f = &t->maps[i];

		if (!f->mapping)
			return f;
		if (!f->waits && (!best || f->used < best->used))
			best = f;
	}
	if (best) {
		t->gpu->door->cu->cuStreamSynchronize(t->side); /* nobody waits, but a read may still be under way */
		mapping_put(best->mapping);
		*best = (struct foreign){0};
	}
	return best;
}

static int find(struct timelines *t, const uint8_t *handle, struct foreign **out)
{
	struct foreign *f;
	int rc;

	for (uint32_t i = 0; i < MAX_MAPS; i++)
		if (t->maps[i].mapping && !memcmp(t->maps[i].handle, handle, 64)) {
			*out = &t->maps[i];
			return 0;
		}
	f = place(t);
	if (!f)
		return -ENOSPC;
	rc = mapping_open(t->gpu, handle, &f->mapping, NULL);
	if (rc) {
		f->mapping = NULL;
		return rc;
	}
	memcpy(f->handle, handle, 64);
	*out = f;
	return 0;
}

int timelines_open(struct timelines *t, const uint8_t handle[GPU_TIMELINE], struct event_wait *w)
{
	uint64_t offset = get_u64(handle + 65);
	struct foreign *f = NULL;
	int rc;

	if (handle[0] != VERSION || offset % 8 || offset >= SLOTS * 8ull)
		return -EINVAL;
	rc = find(t, handle + 1, &f);
	if (rc)
		return rc;
	f->used = ++t->uses;
	if (offset + 8 > mapping_bytes(f->mapping)) /* what was mapped stays for the next one: it is the client's own */
		return -EINVAL;
	f->waits++;
	w->map = (uint32_t)(f - t->maps) + 1;
	w->at = mapping_base(f->mapping) + offset;
	w->sequence = get_u64(handle + 73);
	return 0;
}

int timelines_reached(struct timelines *t, struct event_wait *w, uint32_t lane)
{
	struct gpu *g = t->gpu;
	const struct cuda_driver *cu = g->door->cu;
	int rc;

	if (!w->reading) {
		rc = gpu_result(g,
				cu->cuMemcpyDtoHAsync((void *)&t->words[lane], w->at, sizeof(t->words[lane]), t->side));
		if (rc)
			return rc == -ENODEV ? rc : -EIO;
		w->reading = true;
	}
	rc = gpu_result(g, cu->cuStreamQuery(t->side));
	if (rc)
		return rc == -EAGAIN ? 0 : rc == -ENODEV ? rc : -EIO;
	w->reading = false;
	return atomic_load(&t->words[lane]) >= w->sequence;
}

void timelines_close(struct timelines *t, struct event_wait *w)
{
	t->maps[w->map - 1].waits--;
}
