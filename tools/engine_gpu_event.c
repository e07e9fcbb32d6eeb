/* engine_gpu_event.c - events between a pretended engine and the server: CUDA's interprocess events, and the timelines of engines that
 * share no namespace with it (64-bit slots in exported GPU memory that streams write and wait for). */
#include "tools/engine_gpu_int.h"

#include <errno.h>
#include <string.h>

#define TIMELINE_VERSION 1
#define SLOT_BYTES       8u

/* ---- interprocess events -------------------------------------------------------------------------------------------- */

/* An event lives until the ring comes round: the server opens it before it answers. */
static int next_event(struct egpu *g, uint32_t i, struct why *why)
{
	struct egpu_ring *r = &g->ring;
	if (r->event[i])
		return 0;
	int rc = egpu_result(g, g->cu->cuEventCreate(&r->event[i], CU_EVENT_INTERPROCESS | CU_EVENT_DISABLE_TIMING),
			     "cuEventCreate", why);
	if (rc)
		r->event[i] = NULL;
	return rc ? rc
		  : egpu_result(g, g->cu->cuIpcGetEventHandle(&r->handle[i], r->event[i]), "cuIpcGetEventHandle", why);
}

static int record_event(struct egpu *g, struct slice *handle, struct why *why)
{
	uint32_t i = (uint32_t)(g->ring.taken++ % EGPU_RING);
	int rc = next_event(g, i, why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuEventRecord(g->ring.event[i], g->stream), "cuEventRecord", why);
	*handle = slice_of(&g->ring.handle[i], sizeof(g->ring.handle[i]));
	return rc;
}

static int await_event(struct egpu *g, struct slice handle, struct why *why)
{
	CUipcEventHandle h;
	CUevent event;
	memcpy(&h, handle.p, sizeof(h));
	int rc = egpu_result(g, g->cu->cuIpcOpenEventHandle(&event, h), "cuIpcOpenEventHandle of the reply", why);
	if (rc)
		return rc;
	rc = egpu_result(g, g->cu->cuStreamWaitEvent(g->stream, event, 0), "cuStreamWaitEvent", why);
	g->cu->cuEventDestroy(event); /* our side of it; the wait stays */
	return rc;
}

/* ---- timelines ---------------------------------------------------------------------------------------------------------- */

static void put_be64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t get_be64(const uint8_t *p)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | p[i];
	return v;
}

static int open_timeline(struct egpu *g, struct why *why)
{
	struct egpu_timeline *t = &g->timeline;
	if (!g->cu->cuStreamWriteValue64 || !g->cu->cuStreamWaitValue64)
		return why_set(why, -EOPNOTSUPP, "this driver cannot write and wait for values on streams");
	int rc = egpu_result(g, g->cu->cuMemAlloc(&t->slots, EGPU_GRAIN), "cuMemAlloc", why);
	if (rc) {
		t->slots = 0;
		return rc;
	}
	rc = egpu_result(g, g->cu->cuIpcGetMemHandle(&t->handle, t->slots), "cuIpcGetMemHandle", why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuMemsetD8Async(t->slots, 0, EGPU_SLOTS * SLOT_BYTES, g->stream),
				 "cuMemsetD8Async", why);
	return rc ? rc : egpu_sync(g, why);
}

static int record_timeline(struct egpu *g, struct slice *handle, struct why *why)
{
	struct egpu_timeline *t = &g->timeline;
	uint64_t at = t->sequence++ % EGPU_SLOTS * SLOT_BYTES;
	uint8_t *h = t->sent[t->sequence % EGPU_RING];
	h[0] = TIMELINE_VERSION;
	memcpy(h + 1, &t->handle, 64);
	put_be64(h + 65, at);
	put_be64(h + 73, t->sequence);
	*handle = slice_of(h, EGPU_TIMELINE_BYTES);
	return egpu_result(
		g, g->cu->cuStreamWriteValue64(g->stream, t->slots + at, t->sequence, CU_STREAM_WRITE_VALUE_DEFAULT),
		"cuStreamWriteValue64", why);
}

/* The server has few of them; it is opened again only when another one comes. */
static int open_theirs(struct egpu *g, const uint8_t *handle, struct why *why)
{
	struct egpu_timeline *t = &g->timeline;
	if (t->theirs && memcmp(&t->their_handle, handle, 64) == 0)
		return 0;
	if (t->theirs)
		g->cu->cuIpcCloseMemHandle(t->theirs);
	memcpy(&t->their_handle, handle, 64);
	int rc = egpu_result(g,
			     g->cu->cuIpcOpenMemHandle(&t->theirs, t->their_handle, CU_IPC_MEM_LAZY_ENABLE_PEER_ACCESS),
			     "cuIpcOpenMemHandle of the reply's timeline", why);
	if (rc)
		t->theirs = 0;
	return rc;
}

static int await_timeline(struct egpu *g, struct slice handle, struct why *why)
{
	const uint8_t *h = handle.p;
	CUdeviceptr base;
	size_t bytes;
	uint64_t at = get_be64(h + 65);
	if (h[0] != TIMELINE_VERSION)
		return why_set(why, -EPROTO, "the reply's event has version %u", h[0]);
	int rc = open_theirs(g, h + 1, why);
	if (!rc)
		rc = egpu_result(g, g->cu->cuMemGetAddressRange(&base, &bytes, g->timeline.theirs),
				 "cuMemGetAddressRange", why);
	if (rc)
		return rc;
	if (at % SLOT_BYTES || bytes < SLOT_BYTES || at > bytes - SLOT_BYTES)
		return why_set(why, -EPROTO, "the reply's event is slot %llu of %zu bytes", (unsigned long long)at,
			       bytes);
	return egpu_result(g,
			   g->cu->cuStreamWaitValue64(g->stream, g->timeline.theirs + at, get_be64(h + 73),
						      CU_STREAM_WAIT_VALUE_GEQ),
			   "cuStreamWaitValue64", why);
}

/* ---- both ------------------------------------------------------------------------------------------------------------------ */

int egpu_events_open(struct egpu *g, struct why *why)
{
	return g->host->conf.events == EGPU_TIMELINE ? open_timeline(g, why) : 0;
}

void egpu_events_close(struct egpu *g)
{
	for (uint32_t i = 0; i < EGPU_RING; i++)
		if (g->ring.event[i])
			g->cu->cuEventDestroy(g->ring.event[i]);
	if (g->timeline.theirs)
		g->cu->cuIpcCloseMemHandle(g->timeline.theirs);
	if (g->timeline.slots)
		g->cu->cuMemFree(g->timeline.slots);
}

int egpu_record(struct egpu *g, struct slice *handle, struct why *why)
{
	int rc = egpu_enter(g, why);
	if (rc)
		return rc;
	return g->host->conf.events == EGPU_TIMELINE ? record_timeline(g, handle, why) : record_event(g, handle, why);
}

int egpu_await(struct egpu *g, struct slice handle, struct why *why)
{
	bool timeline = g->host->conf.events == EGPU_TIMELINE;
	size_t expected = timeline ? EGPU_TIMELINE_BYTES : sizeof(CUipcEventHandle);
	if (handle.n != expected)
		return why_set(why, -EPROTO, "the reply carries %zu bytes of event, not %zu", handle.n, expected);
	int rc = egpu_enter(g, why);
	if (rc)
		return rc;
	return timeline ? await_timeline(g, handle, why) : await_event(g, handle, why);
}

int egpu_sync(struct egpu *g, struct why *why)
{
	int rc = egpu_enter(g, why);
	return rc ? rc : egpu_result(g, g->cu->cuStreamSynchronize(g->stream), "cuStreamSynchronize", why);
}
