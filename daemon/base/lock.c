#include "daemon/base/lock.h"

#include <stdio.h>
#include <stdlib.h>

/* Bit r set: this thread holds a lock of rank r. */
static _Thread_local unsigned held_ranks;

_Static_assert(LK_RANKS < 32, "ranks fit one word");

void lk_init(struct lk *lk, enum lk_rank rank)
{
	pthread_mutex_init(&lk->m, NULL);
	lk->rank = rank;
}

void lk_destroy(struct lk *lk)
{
	pthread_mutex_destroy(&lk->m);
}

void lk_lock(struct lk *lk)
{
	if (held_ranks >> lk->rank) {
		fprintf(stderr, "lock order: rank %d taken while holding mask %#x\n", (int)lk->rank, held_ranks);
		abort();
	}
	pthread_mutex_lock(&lk->m);
	held_ranks |= 1u << lk->rank;
}

void lk_unlock(struct lk *lk)
{
	held_ranks &= ~(1u << lk->rank);
	pthread_mutex_unlock(&lk->m);
}

bool lk_held(const struct lk *lk)
{
	return (held_ranks >> lk->rank) & 1u;
}
