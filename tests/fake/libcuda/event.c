#include "tests/fake/libcuda/fake.h"

#include <stdlib.h>
#include <string.h>

/* ---- entries of the machine ------------------------------------------------------------------------------------------------- */

static bool shared(const struct event *e)
{
	return e->state != &e->own;
}

static void state_drop(struct event_state *st, uint32_t slot)
{
	st->holders[slot / 64] &= ~(1ull << slot % 64);
	for (uint32_t i = 0; i < PROCESSES / 64; i++)
		if (st->holders[i])
			return;
	st->id = 0;
}

void events_drop_dead(uint32_t slot)
{
	uint64_t started = atomic_load(&self.m->process[slot].started);

	for (uint32_t i = 0; i < self.m->nevents; i++) {
		struct event_state *st = &self.m->event[i];

		if (!st->id)
			continue;
		if (st->owner == slot)
			st->owner_started = 0;
		/* The slot, too: processes that began in the same tick have the same start time. */
		if (!self.m->dead_stuck && atomic_load(&st->recorder_slot) == slot &&
		    atomic_load(&st->recorder) == started)
			atomic_store(&st->done, atomic_load(&st->recorded));
		if (st->holders[slot / 64] >> slot % 64 & 1)
			state_drop(st, slot);
	}
}

void events_repair(void)
{
	for (uint32_t i = 0; i < self.m->nevents; i++) {
		struct event_state *st = &self.m->event[i];
		uint64_t holders = 0;

		for (uint32_t j = 0; j < PROCESSES / 64; j++)
			holders |= st->holders[j];
		if (!holders)
			atomic_store(&st->id, 0);
	}
}

/* machine locked */
static struct event_state *state_make(uint32_t gpu)
{
	for (uint32_t i = 0; i < EVENTS; i++) {
		struct event_state *st = &self.m->event[i];

		if (i < self.m->nevents && st->id)
			continue;
		atomic_store(&st->recorded, 0);
		atomic_store(&st->done, 0);
		atomic_store(&st->recorder, 0);
		memset(st->holders, 0, sizeof(st->holders));
		st->gpu = gpu;
		st->owner = self.slot;
		st->owner_started = self.started;
		st->holders[self.slot / 64] = 1ull << self.slot % 64;
		self.m->nevents = i >= self.m->nevents ? i + 1 : self.m->nevents;
		atomic_store(&st->id, self.m->next_id++);
		return st;
	}
	return NULL;
}

/* ---- of this process -------------------------------------------------------------------------------------------------------- */

/* Opened twice in one process: there is one bit for both. */
static bool open_elsewhere(const struct event *e)
{
	for (uint32_t i = 0; i < self.nhandles; i++)
		if (self.handle[i].kind == OBJ_EVENT && self.handle[i].object != e &&
		    ((struct event *)self.handle[i].object)->state_id == e->state_id)
			return true;
	return false;
}

static void unref(struct event *e)
{
	if (--e->refs)
		return;
	if (shared(e)) {
		machine_lock();
		if (e->state->id == e->state_id && !open_elsewhere(e))
			state_drop(e->state, self.slot);
		machine_unlock();
	}
	free(e);
}

void event_put(struct event *e)
{
	pthread_mutex_lock(&self.lk);
	unref(e);
	pthread_mutex_unlock(&self.lk);
}

static void forget(struct event *e)
{
	handle_free(e->handle);
	atomic_fetch_sub(e->imported ? &self.p->event_imports : &self.p->events, 1);
	if (shared(e) && !e->imported) {
		machine_lock();
		if (e->state->id == e->state_id)
			e->state->owner_started = 0; /* its handle is dead from now on */
		machine_unlock();
	}
	unref(e);
}

void events_of_context(struct context *c)
{
	for (uint32_t i = 0; i < self.nhandles; i++)
		if (self.handle[i].kind == OBJ_EVENT && ((struct event *)self.handle[i].object)->ctx == c)
			forget(self.handle[i].object);
}

bool event_reached(struct event *e, uint64_t n)
{
	struct event_state *st = e->state;
	uint32_t slot;

	if (atomic_load(&st->done) >= n)
		return true;
	if (!shared(e))
		return false;
	slot = atomic_load(&st->recorder_slot);
	if (slot != self.slot && !self.m->dead_stuck && !process_alive(slot, atomic_load(&st->recorder))) {
		machine_lock();
		machine_reap();
		machine_unlock();
	}
	return st->id != e->state_id || atomic_load(&st->done) >= n;
}

static struct event *find(CUevent handle, CUresult *rc)
{
	struct event *e;

	pthread_mutex_lock(&self.lk);
	e = handle_find(OBJ_EVENT, handle);
	if (e)
		e->refs++;
	pthread_mutex_unlock(&self.lk);
	*rc = e ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
	return e;
}

static CUresult publish(struct event *e, CUevent *out)
{
	e->handle = (CUevent)(uintptr_t)handle_make(OBJ_EVENT, e);
	*out = e->handle;
	atomic_fetch_add(e->imported ? &self.p->event_imports : &self.p->events, 1);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuEventCreate(CUevent *out, unsigned flags)
{
	CUresult rc = enter_ctx("cuEventCreate");
	struct event *e;

	if (rc)
		return rc;
	if (!out || flags & ~7u || (flags & CU_EVENT_INTERPROCESS && !(flags & CU_EVENT_DISABLE_TIMING)))
		return CUDA_ERROR_INVALID_VALUE;
	e = calloc(1, sizeof(*e));
	if (!e)
		return CUDA_ERROR_OUT_OF_MEMORY;
	e->ctx = current;
	e->flags = flags;
	e->refs = 1;
	e->state = &e->own;
	pthread_mutex_lock(&self.lk);
	if (flags & CU_EVENT_INTERPROCESS) {
		machine_lock();
		e->state = state_make(current->gpu);
		e->state_id = e->state ? e->state->id : 0;
		machine_unlock();
	}
	rc = e->state ? publish(e, out) : CUDA_ERROR_OUT_OF_MEMORY;
	pthread_mutex_unlock(&self.lk);
	if (rc)
		free(e);
	return rc;
}

FAKE_API CUresult cuEventDestroy_v2(CUevent handle)
{
	CUresult rc = enter_ctx("cuEventDestroy");
	struct event *e;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	e = handle_find(OBJ_EVENT, handle);
	if (e)
		forget(e);
	pthread_mutex_unlock(&self.lk);
	return e ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
}

FAKE_API CUresult cuEventRecord(CUevent handle, CUstream stream)
{
	CUresult rc = enter_ctx("cuEventRecord");
	struct event *e = rc ? NULL : find(handle, &rc);
	struct stream *s = e ? stream_find(stream, &rc) : NULL;
	struct op op = {.kind = OP_RECORD, .event = e};

	if (!s || e->ctx != s->ctx) {
		if (e)
			event_put(e);
		if (s)
			stream_put(s);
		return rc ? rc : CUDA_ERROR_INVALID_HANDLE; /* the event is another context's */
	}
	atomic_store(&e->state->recorder_slot, self.slot);
	atomic_store(&e->state->recorder, self.started);
	op.n = atomic_fetch_add(&e->state->recorded, 1) + 1;
	rc = stream_push(s, &op, NULL);
	stream_put(s);
	return rc;
}

FAKE_API CUresult cuEventQuery(CUevent handle)
{
	CUresult rc = enter_ctx("cuEventQuery");
	struct event *e = rc ? NULL : find(handle, &rc);

	if (!e)
		return rc;
	rc = event_reached(e, atomic_load(&e->state->recorded)) ? atomic_load(&e->ctx->error) : CUDA_ERROR_NOT_READY;
	event_put(e);
	return rc;
}

FAKE_API CUresult cuEventSynchronize(CUevent handle)
{
	CUresult rc = enter_ctx("cuEventSynchronize");
	struct event *e = rc ? NULL : find(handle, &rc);
	uint64_t n;

	if (!e)
		return rc;
	n = atomic_load(&e->state->recorded);
	for (;;) {
		uint32_t tick = atomic_load(&self.m->tick);

		rc = atomic_load(&e->ctx->error);
		if (rc || event_reached(e, n))
			break;
		machine_wait(tick, 5000000);
	}
	event_put(e);
	return rc;
}

static CUresult elapsed(struct event *a, struct event *b, float *ms)
{
	uint64_t na = atomic_load(&a->state->recorded), nb = atomic_load(&b->state->recorded);

	if ((a->flags | b->flags) & CU_EVENT_DISABLE_TIMING || !na || !nb)
		return CUDA_ERROR_INVALID_HANDLE;
	if (!event_reached(a, na) || !event_reached(b, nb))
		return CUDA_ERROR_NOT_READY;
	*ms = (float)((double)(int64_t)(atomic_load(&b->reached_ns) - atomic_load(&a->reached_ns)) * 1e-6);
	return CUDA_SUCCESS;
}

FAKE_API CUresult cuEventElapsedTime(float *ms, CUevent from, CUevent to)
{
	CUresult rc = enter_ctx("cuEventElapsedTime");
	struct event *a = rc ? NULL : find(from, &rc);
	struct event *b = a ? find(to, &rc) : NULL;

	if (b && ms)
		rc = elapsed(a, b, ms);
	else if (b)
		rc = CUDA_ERROR_INVALID_VALUE;
	if (a)
		event_put(a);
	if (b)
		event_put(b);
	return rc;
}

/* Waits for the record that is the last one now; one that was never recorded is none. */
FAKE_API CUresult cuStreamWaitEvent(CUstream stream, CUevent handle, unsigned flags)
{
	CUresult rc = enter_ctx("cuStreamWaitEvent");
	struct event *e = rc ? NULL : find(handle, &rc);
	struct stream *s = e ? stream_find(stream, &rc) : NULL;
	struct op op = {.kind = OP_WAIT_EVENT, .event = e};

	if (!s || flags & ~1u) {
		if (e)
			event_put(e);
		if (s)
			stream_put(s);
		return rc ? rc : CUDA_ERROR_INVALID_VALUE;
	}
	op.n = atomic_load(&e->state->recorded);
	if (op.n)
		rc = stream_push(s, &op, NULL);
	else
		event_put(e);
	stream_put(s);
	return rc;
}

/* ---- between processes ------------------------------------------------------------------------------------------------------- */

struct event_handle {
	uint64_t magic, id, index, owner_started;
	uint64_t proof[4];
};
_Static_assert(sizeof(struct event_handle) == sizeof(CUipcEventHandle), "64 bytes");
#define EVENT_MAGIC 0x544e45564543504cull

static void fill(struct event_handle *h, const struct event_state *st)
{
	*h = (struct event_handle){EVENT_MAGIC, st->id, (uint64_t)(st - self.m->event), st->owner_started, {0}};
	for (uint32_t i = 0; i < 4; i++)
		h->proof[i] = machine_hash(h->id, h->index * 8 + i);
}

FAKE_API CUresult cuIpcGetEventHandle(CUipcEventHandle *out, CUevent handle)
{
	CUresult rc = enter_ctx("cuIpcGetEventHandle");
	struct event *e = rc ? NULL : find(handle, &rc);
	struct event_handle h;

	if (!e)
		return rc;
	if (self.m->gpu[e->ctx->gpu].mig)
		rc = CUDA_ERROR_NOT_SUPPORTED;
	else if (!(e->flags & CU_EVENT_INTERPROCESS) || e->imported)
		rc = CUDA_ERROR_INVALID_HANDLE;
	else if (!out)
		rc = CUDA_ERROR_INVALID_VALUE;
	if (!rc) {
		fill(&h, e->state);
		memcpy(out, &h, sizeof(h));
	}
	event_put(e);
	return rc;
}

static CUresult check(const struct event_handle *h)
{
	struct event_state *st;
	struct event_handle want;

	if (h->magic != EVENT_MAGIC || h->index >= EVENTS)
		return CUDA_ERROR_INVALID_VALUE;
	for (uint32_t i = 0; i < 4; i++)
		if (h->proof[i] != machine_hash(h->id, h->index * 8 + i))
			return CUDA_ERROR_INVALID_VALUE;
	st = &self.m->event[h->index];
	fill(&want, st);
	if (st->id != h->id || memcmp(&want, h, sizeof(want)) != 0 || !process_alive(st->owner, st->owner_started))
		return CUDA_ERROR_INVALID_HANDLE; /* destroyed, or its process is gone */
	return st->owner == self.slot ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS;
}

FAKE_API CUresult cuIpcOpenEventHandle(CUevent *out, CUipcEventHandle handle)
{
	CUresult rc = enter_ctx("cuIpcOpenEventHandle");
	struct event_handle h;
	struct event *e;

	if (rc)
		return rc;
	if (!out)
		return CUDA_ERROR_INVALID_VALUE;
	e = calloc(1, sizeof(*e));
	if (!e)
		return CUDA_ERROR_OUT_OF_MEMORY;
	memcpy(&h, &handle, sizeof(h));
	pthread_mutex_lock(&self.lk);
	machine_lock();
	rc = check(&h);
	if (!rc) {
		e->state = &self.m->event[h.index];
		e->state_id = h.id;
		e->state->holders[self.slot / 64] |= 1ull << self.slot % 64;
	}
	machine_unlock();
	e->ctx = current;
	e->flags = CU_EVENT_DISABLE_TIMING;
	e->imported = true;
	e->refs = 1;
	rc = rc ? rc : publish(e, out);
	pthread_mutex_unlock(&self.lk);
	if (rc)
		free(e);
	return rc;
}
