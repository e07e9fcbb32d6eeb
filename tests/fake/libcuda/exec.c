/* exec.c - what a stream's thread does with one piece of work. */
#include "tests/fake/libcuda/fake.h"

#include <stdlib.h>
#include <string.h>

static bool meant(const _Atomic int64_t *pid)
{
	int64_t p = atomic_load(pid);

	return !p || p == self.pid;
}

/* The GPU takes its time: later than the caller would like, at random, or as slowly as a test told it to be. */
static bool begin(struct stream *s)
{
	struct gpu_state *g = &self.m->gpu[s->ctx->gpu];

	while (atomic_load(&g->stuck) && meant(&g->stuck_pid)) {
		uint32_t tick = atomic_load(&self.m->tick);

		if (!wait_allowed(s))
			return false;
		control_poll();
		if (atomic_load(&g->stuck))
			machine_wait(tick, 5000000);
	}
	if (meant(&g->slow_pid))
		sleep_ns(atomic_load(&g->latency_ns));
	if (self.delay_us > 0 && rand_r(&s->seed) % 4 == 0)
		sleep_ns((int64_t)(rand_r(&s->seed) % (unsigned)self.delay_us) * 1000);
	if (atomic_load(&g->lost))
		context_break(s->ctx, CUDA_ERROR_UNKNOWN);
	return wait_allowed(s);
}

static void pace(struct stream *s, uint64_t bytes)
{
	struct gpu_state *g = &self.m->gpu[s->ctx->gpu];
	int64_t rate = atomic_load(&g->bytes_per_s);

	if (rate > 0 && meant(&g->slow_pid))
		sleep_ns((int64_t)((double)bytes * 1e9 / (double)rate));
	atomic_fetch_add(&self.p->copies, 1);
	atomic_fetch_add(&self.p->copied_bytes, (int64_t)bytes);
}

/* A place that was mapped when the work was put in may be gone by now: then the GPU faults. */
static CUresult move(const struct copy *c, uint64_t dst, uint64_t src, uint64_t n)
{
	while (n) {
		struct range *dheld = NULL, *sheld = NULL;
		uint64_t k = n;
		char *d = c->dst_host ? (char *)(uintptr_t)dst : device_hold(dst, &k, &dheld);
		char *s = !d ? NULL : c->src_host ? (char *)(uintptr_t)src : device_hold(src, &k, &sheld);

		if (s)
			memmove(d, s, k);
		if (dheld)
			device_release(dheld);
		if (sheld)
			device_release(sheld);
		if (!s)
			return CUDA_ERROR_ILLEGAL_ADDRESS;
		dst += k;
		src += k;
		n -= k;
	}
	return CUDA_SUCCESS;
}

static CUresult run_copy(struct stream *s, const struct copy *c)
{
	CUresult rc = CUDA_SUCCESS;

	for (uint64_t y = 0; y < c->height && !rc; y++)
		rc = move(c, c->dst + y * c->dst_pitch, c->src + y * c->src_pitch, c->width);
	pace(s, c->width * c->height);
	return rc;
}

static CUresult run_batch(struct stream *s, const struct op *op)
{
	CUresult rc = CUDA_SUCCESS;

	for (size_t i = 0; i < op->nbatch && !rc && wait_allowed(s); i++)
		rc = run_copy(s, &op->batch[i]);
	atomic_fetch_add(&self.p->batches, 1);
	return rc;
}

static CUresult run_set(const struct op *op)
{
	uint64_t va = op->va, n = op->n;

	while (n) {
		struct range *held = NULL;
		uint64_t k = n;
		char *p = device_hold(va, &k, &held);

		if (!p)
			return CUDA_ERROR_ILLEGAL_ADDRESS;
		memset(p, (int)op->value, k);
		device_release(held);
		va += k;
		n -= k;
	}
	return CUDA_SUCCESS;
}

static CUresult run_value(struct stream *s, const struct op *op)
{
	struct range *held = NULL;
	uint64_t k = 8;
	_Atomic uint64_t *p = (_Atomic uint64_t *)device_hold(op->va, &k, &held);

	if (!p || k < 8) {
		if (held)
			device_release(held);
		return CUDA_ERROR_ILLEGAL_ADDRESS;
	}
	if (op->kind == OP_WRITE_VALUE) {
		atomic_store(p, op->value);
		machine_tick();
	}
	while (op->kind == OP_WAIT_VALUE && wait_allowed(s)) {
		uint32_t tick = atomic_load(&self.m->tick);
		uint64_t v = atomic_load(p);

		if (op->flags == CU_STREAM_WAIT_VALUE_EQ ? v == op->value : (int64_t)(v - op->value) >= 0)
			break;
		machine_wait(tick, 1000000); /* the value may also be written by a copy, which makes no tick */
	}
	device_release(held);
	return CUDA_SUCCESS;
}

static void run_wait_event(struct stream *s, const struct op *op)
{
	while (wait_allowed(s)) {
		uint32_t tick = atomic_load(&self.m->tick);

		if (event_reached(op->event, op->n))
			break;
		machine_wait(tick, 5000000);
	}
}

static void run_record(const struct op *op)
{
	struct event_state *st = op->event->state;
	uint64_t done = atomic_load(&st->done);

	atomic_store(&op->event->reached_ns, now_ns());
	if (op->event->state_id == st->id)
		while (done < op->n && !atomic_compare_exchange_weak(&st->done, &done, op->n))
			;
	machine_tick();
}

static void run_wait_stream(struct stream *s, const struct op *op)
{
	while (wait_allowed(s) && atomic_load(&op->stream->done) < op->n) {
		struct timespec t;

		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += 10000000;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		pthread_mutex_lock(&op->stream->lk);
		if (atomic_load(&op->stream->done) < op->n)
			pthread_cond_timedwait(&op->stream->less, &op->stream->lk, &t);
		pthread_mutex_unlock(&op->stream->lk);
	}
}

/* In a context that broke nothing is done any more, but records are reached, so that nobody waits for ever. */
CUresult op_run(struct stream *s, struct op *op)
{
	CUresult rc = CUDA_SUCCESS;

	if (!begin(s)) {
		if (op->kind == OP_RECORD)
			run_record(op);
		return rc;
	}
	switch (op->kind) {
	case OP_COPY:
		return run_copy(s, &op->copy);
	case OP_BATCH:
		return run_batch(s, op);
	case OP_SET:
		return run_set(op);
	case OP_KERNEL:
		atomic_fetch_add(&self.p->launches, 1);
		rc = kernel_run(s->ctx, op);
		if (rc)
			atomic_fetch_add(&self.p->kernel_faults, 1);
		return rc;
	case OP_WAIT_EVENT:
		run_wait_event(s, op);
		break;
	case OP_RECORD:
		run_record(op);
		break;
	case OP_WAIT_VALUE:
	case OP_WRITE_VALUE:
		return run_value(s, op);
	case OP_WAIT_STREAM:
		run_wait_stream(s, op);
		break;
	case OP_CALL:
		op->call(op->call_arg);
		break;
	}
	return rc;
}
