#include "tests/fake/libcuda/fake.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void stream_put(struct stream *s)
{
	bool last;

	pthread_mutex_lock(&self.lk);
	last = --s->refs == 0;
	pthread_mutex_unlock(&self.lk);
	if (last) {
		pthread_cond_destroy(&s->more);
		pthread_cond_destroy(&s->less);
		pthread_mutex_destroy(&s->lk);
		free(s);
	}
}

void op_free(struct op *op)
{
	if (op->event)
		event_put(op->event);
	if (op->stream)
		stream_put(op->stream);
	free(op->batch);
	free(op->staged);
	free(op);
}

bool wait_allowed(struct stream *s)
{
	return !atomic_load(&s->ctx->dying) && !atomic_load(&s->ctx->error);
}

static struct op *next_op(struct stream *s)
{
	struct op *op;

	pthread_mutex_lock(&s->lk);
	while (!s->first && !s->ended)
		pthread_cond_wait(&s->more, &s->lk);
	op = s->first;
	pthread_mutex_unlock(&s->lk);
	return op;
}

static void *work(void *arg)
{
	struct stream *s = arg, **at;
	struct op *op;

	while ((op = next_op(s))) {
		CUresult rc = op_run(s, op);

		if (rc)
			context_break(s->ctx, rc);
		pthread_mutex_lock(&s->lk);
		s->first = op->next;
		if (!s->first)
			s->last = &s->first;
		s->waiting--;
		atomic_store(&s->done, op->seq);
		pthread_cond_broadcast(&s->less);
		pthread_mutex_unlock(&s->lk);
		op_free(op);
	}
	pthread_mutex_lock(&self.lk);
	for (at = &s->ctx->streams; *at != s; at = &(*at)->next)
		;
	*at = s->next;
	pthread_cond_broadcast(&self.idle);
	pthread_mutex_unlock(&self.lk);
	stream_put(s);
	return NULL;
}

/* self.lk */
CUresult stream_make(struct context *c, unsigned flags, int priority, struct stream **out)
{
	struct stream *s = atomic_load(&c->active) ? calloc(1, sizeof(*s)) : NULL;
	pthread_attr_t a;
	pthread_t t;
	int rc;

	if (!s)
		return CUDA_ERROR_CONTEXT_IS_DESTROYED;
	s->ctx = c;
	s->flags = flags;
	s->priority = priority;
	s->last = &s->first;
	s->refs = 1; /* its thread's */
	s->seed = (unsigned)(now_ns() ^ (uint64_t)(uintptr_t)s >> 4);
	pthread_mutex_init(&s->lk, NULL);
	pthread_cond_init(&s->more, NULL);
	pthread_cond_init(&s->less, NULL);
	s->next = c->streams;
	c->streams = s;
	pthread_attr_init(&a);
	pthread_attr_setdetachstate(&a, PTHREAD_CREATE_DETACHED);
	rc = pthread_create(&t, &a, work, s);
	pthread_attr_destroy(&a);
	if (rc) {
		c->streams = s->next;
		free(s);
		return CUDA_ERROR_OUT_OF_MEMORY;
	}
	*out = s;
	return CUDA_SUCCESS;
}

struct stream *stream_find(CUstream handle, CUresult *rc)
{
	struct context *c = current;
	struct stream *s = NULL;

	pthread_mutex_lock(&self.lk);
	*rc = CUDA_SUCCESS;
	/* NULL and CU_STREAM_LEGACY are one, per context */
	if ((uintptr_t)handle > 1) {
		s = handle_find(OBJ_STREAM, handle);
		*rc = s ? CUDA_SUCCESS : CUDA_ERROR_INVALID_HANDLE;
	} else {
		if (!c->null_stream)
			*rc = stream_make(c, 0, 0, &c->null_stream);
		s = c->null_stream;
	}
	if (s)
		s->refs++;
	pthread_mutex_unlock(&self.lk);
	return s;
}

/* ---- putting work in ------------------------------------------------------------------------------------------------------------ */

/* What the op holds goes with it, also when it cannot be put in. */
static CUresult push_one(struct stream *s, const struct op *op, uint64_t *seq)
{
	struct op *mine = malloc(sizeof(*mine));
	bool ended;

	if (!mine)
		abort();
	*mine = *op;
	mine->next = NULL;
	pthread_mutex_lock(&s->lk);
	/* A full queue makes the caller wait, in the real driver too. */
	while (s->waiting >= self.depth && !s->ended && wait_allowed(s))
		pthread_cond_wait(&s->less, &s->lk);
	ended = s->ended;
	if (!ended) {
		mine->seq = ++s->queued;
		if (seq)
			*seq = mine->seq;
		s->waiting++;
		*s->last = mine;
		s->last = &mine->next;
		pthread_cond_signal(&s->more);
	}
	pthread_mutex_unlock(&s->lk);
	if (ended)
		op_free(mine);
	return ended ? CUDA_ERROR_INVALID_HANDLE : CUDA_SUCCESS;
}

static uint64_t queued(struct stream *s)
{
	uint64_t n;

	pthread_mutex_lock(&s->lk);
	n = s->queued;
	pthread_mutex_unlock(&s->lk);
	return n > atomic_load(&s->done) ? n : 0;
}

#define OTHERS 256u

/* The default stream and streams that are not CU_STREAM_NON_BLOCKING wait for each other. */
static CUresult wait_for_others(struct stream *s)
{
	struct context *c = s->ctx;
	struct stream *other[OTHERS];
	CUresult rc = CUDA_SUCCESS;
	uint32_t n = 0;

	if (s->flags & CU_STREAM_NON_BLOCKING)
		return rc;
	pthread_mutex_lock(&self.lk);
	if (s != c->null_stream) {
		if (c->null_stream)
			other[n++] = c->null_stream;
	} else {
		for (struct stream *t = c->streams; t && n < OTHERS; t = t->next)
			if (t != s && !(t->flags & CU_STREAM_NON_BLOCKING))
				other[n++] = t;
	}
	for (uint32_t i = 0; i < n; i++)
		other[i]->refs++;
	pthread_mutex_unlock(&self.lk);
	for (uint32_t i = 0; i < n; i++) {
		struct op op = {.kind = OP_WAIT_STREAM, .stream = other[i], .n = queued(other[i])};

		if (!op.n || rc)
			stream_put(other[i]);
		else
			rc = push_one(s, &op, NULL);
	}
	return rc;
}

CUresult stream_push(struct stream *s, const struct op *op, uint64_t *seq)
{
	CUresult rc = wait_for_others(s);

	return push_one(s, op, seq) ? CUDA_ERROR_INVALID_HANDLE : rc;
}

void stream_join(struct stream *s, uint64_t seq)
{
	pthread_mutex_lock(&s->lk);
	while (atomic_load(&s->done) < seq)
		pthread_cond_wait(&s->less, &s->lk);
	pthread_mutex_unlock(&s->lk);
}

CUresult context_sync(struct context *c)
{
	uint64_t made = ~0ull;

	/* One after the other, newest first: the list may change while we wait for one. */
	for (;;) {
		struct stream *s, *best = NULL;
		uint64_t n;

		pthread_mutex_lock(&self.lk);
		for (s = c->streams; s; s = s->next)
			if ((uint64_t)(uintptr_t)s < made && (!best || s > best))
				best = s;
		if (best)
			best->refs++;
		pthread_mutex_unlock(&self.lk);
		if (!best)
			return atomic_load(&c->error);
		made = (uint64_t)(uintptr_t)best;
		n = queued(best);
		if (n)
			stream_join(best, n);
		stream_put(best);
	}
}

/* self.lk; the context is dying, so nothing waits. */
static bool free_handle_of(struct stream *s)
{
	if (!s->handle)
		return false;
	handle_free(s->handle);
	s->handle = NULL;
	return true;
}

static void end(struct stream *s)
{
	pthread_mutex_lock(&s->lk);
	s->ended = true;
	pthread_cond_broadcast(&s->more);
	pthread_cond_broadcast(&s->less);
	pthread_mutex_unlock(&s->lk);
}

void streams_end(struct context *c)
{
	for (struct stream *s = c->streams; s; s = s->next) {
		if (free_handle_of(s))
			atomic_fetch_sub(&self.p->streams, 1);
		end(s);
	}
	c->null_stream = NULL;
	while (c->streams)
		pthread_cond_wait(&self.idle, &self.lk);
}

/* ---- what clients call ------------------------------------------------------------------------------------------------------------ */

FAKE_API CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
	CUresult rc = enter_ctx("cuStreamCreateWithPriority");
	struct stream *s;

	if (rc)
		return rc;
	if (!out || flags & ~1u)
		return CUDA_ERROR_INVALID_VALUE;
	pthread_mutex_lock(&self.lk);
	rc = stream_make(current, flags, priority, &s);
	if (!rc) {
		s->handle = (CUstream)(uintptr_t)handle_make(OBJ_STREAM, s);
		*out = s->handle;
		atomic_fetch_add(&self.p->streams, 1);
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuStreamCreate(CUstream *out, unsigned flags)
{
	return cuStreamCreateWithPriority(out, flags, 0);
}

/* What is queued still runs. */
FAKE_API CUresult cuStreamDestroy_v2(CUstream handle)
{
	CUresult rc = enter_ctx("cuStreamDestroy");
	struct stream *s;

	if (rc)
		return rc;
	pthread_mutex_lock(&self.lk);
	s = handle_find(OBJ_STREAM, handle);
	if (s) {
		free_handle_of(s);
		atomic_fetch_sub(&self.p->streams, 1);
		end(s);
	} else {
		rc = CUDA_ERROR_INVALID_HANDLE;
	}
	pthread_mutex_unlock(&self.lk);
	return rc;
}

FAKE_API CUresult cuStreamSynchronize(CUstream handle)
{
	CUresult rc = enter_ctx("cuStreamSynchronize");
	struct stream *s = rc ? NULL : stream_find(handle, &rc);
	uint64_t n;

	if (!s)
		return rc;
	n = queued(s);
	if (n)
		stream_join(s, n);
	rc = atomic_load(&s->ctx->error);
	stream_put(s);
	return rc;
}

FAKE_API CUresult cuStreamQuery(CUstream handle)
{
	CUresult rc = enter_ctx("cuStreamQuery");
	struct stream *s = rc ? NULL : stream_find(handle, &rc);

	if (!s)
		return rc;
	rc = queued(s) ? CUDA_ERROR_NOT_READY : atomic_load(&s->ctx->error);
	stream_put(s);
	return rc;
}

FAKE_API CUresult cuStreamGetPriority(CUstream handle, int *priority)
{
	CUresult rc = enter_ctx("cuStreamGetPriority");
	struct stream *s = rc ? NULL : stream_find(handle, &rc);

	if (!s)
		return rc;
	*priority = s->priority;
	stream_put(s);
	return rc;
}

FAKE_API CUresult cuLaunchHostFunc(CUstream handle, void (*call)(void *), void *arg)
{
	CUresult rc = enter_ctx("cuLaunchHostFunc");
	struct op op = {.kind = OP_CALL, .call = call, .call_arg = arg};
	struct stream *s = rc ? NULL : stream_find(handle, &rc);

	if (!s)
		return rc;
	rc = call ? stream_push(s, &op, NULL) : CUDA_ERROR_INVALID_VALUE;
	stream_put(s);
	return rc;
}
