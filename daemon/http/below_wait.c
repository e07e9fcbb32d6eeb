#include "daemon/http/below_wait.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <time.h>

struct below_batch {
	pthread_mutex_t m; /* a leaf: nothing is taken under it */
	pthread_cond_t wake;
	uint32_t left;   /* operations under way */
	bool waited_for; /* else the last operation frees it */
	int result;      /* of a flush */
	struct below_result sum;
	struct l2_io io[];
};

bool below_enter(const struct http_call *call)
{
	if (atomic_fetch_add(&call->h->waiting, 1) < BELOW_WAITERS)
		return true;
	atomic_fetch_sub(&call->h->waiting, 1);
	return false;
}

void below_leave(const struct http_call *call)
{
	atomic_fetch_sub(&call->h->waiting, 1);
}

static struct below_batch *make(uint32_t ios, uint32_t left)
{
	struct below_batch *b = mem_calloc(1, sizeof *b + ios * sizeof b->io[0]);
	pthread_condattr_t attr;

	if (!b)
		return NULL;
	pthread_mutex_init(&b->m, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&b->wake, &attr);
	pthread_condattr_destroy(&attr);
	b->left = left;
	b->waited_for = true;
	return b;
}

static void unmake(struct below_batch *b)
{
	pthread_cond_destroy(&b->wake);
	pthread_mutex_destroy(&b->m);
	mem_free(b);
}

/* One more is done; `r` NULL: of a flush. */
static void one_done(struct below_batch *b, int result)
{
	bool last;

	pthread_mutex_lock(&b->m);
	b->result = result;
	b->sum.ok += result == 0;
	b->sum.missing += result == -ENOENT;
	b->sum.failed += result != 0 && result != -ENOENT;
	last = --b->left == 0;
	if (last)
		pthread_cond_signal(&b->wake);
	last &= !b->waited_for;
	pthread_mutex_unlock(&b->m);
	if (last)
		unmake(b);
}

static void io_done(struct l2_io *io)
{
	one_done(io->owner, io->result);
}

static void flush_done(void *ctx, int result)
{
	one_done(ctx, result);
}

/* Frees the batch, or leaves that to its last operation. 0 or -ETIMEDOUT. */
static int wait_for(struct below_batch *b, struct below_result *sum, int *result)
{
	struct timespec until;
	bool over;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += BELOW_WAIT_MS / 1000;
	pthread_mutex_lock(&b->m);
	while (b->left && pthread_cond_timedwait(&b->wake, &b->m, &until) == 0)
		;
	over = b->left == 0;
	b->waited_for = false;
	sum->ok += b->sum.ok;
	sum->missing += b->sum.missing;
	sum->failed += b->sum.failed;
	*result = b->result;
	pthread_mutex_unlock(&b->m);
	if (over)
		unmake(b);
	return over ? 0 : -ETIMEDOUT;
}

int below_each(struct l2 *a, below_op op, const struct seg_key *keys, uint32_t n, struct below_result *sum)
{
	struct below_batch *b = make(n, n);
	int result;

	if (!b)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		b->io[i] = (struct l2_io){.done = io_done, .owner = b};
		if (keys)
			b->io[i].key = keys[i];
		op(a, &b->io[i]);
	}
	return wait_for(b, sum, &result);
}

int below_flush(struct tier *t)
{
	struct below_batch *b = make(0, 1);
	struct below_result sum = {0};
	int err, result;

	if (!b)
		return -ENOMEM;
	err = tier_flush(t, flush_done, b);
	if (err) {
		unmake(b);
		return err;
	}
	err = wait_for(b, &sum, &result);
	return err ? err : result;
}
