/* fake_arena.h - the functions of numa/arena.h over plain address space, so that the store is tested alone: as large as
 * wanted (pages come with the first touch), any number of ranges and nodes, growth that can be made to fail.
 */
#ifndef TESTS_UNIT_DAEMON_STORE_FAKE_ARENA_H
#define TESTS_UNIT_DAEMON_STORE_FAKE_ARENA_H

#include "numa/arena.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>

struct arena {
	uint8_t *base;
	uint64_t bytes, step;
	uint32_t nranges;
	struct arena_range range[ARENA_MAX_RANGES];
	_Atomic uint64_t committed[ARENA_MAX_RANGES];
	_Atomic bool refuse;
	_Atomic int commits;
};

/* `init` bytes of each range are usable at once, the rest comes in steps. */
static struct arena *fake_arena(uint32_t nranges, uint64_t range_bytes, uint64_t init, uint64_t step)
{
	struct arena *a = calloc(1, sizeof(*a));

	a->bytes = nranges * range_bytes;
	a->step = step;
	a->nranges = nranges;
	a->base = mmap(NULL, a->bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (a->base == MAP_FAILED)
		abort();
	for (uint32_t i = 0; i < nranges; i++) {
		a->range[i] = (struct arena_range){{(int)i}, i * range_bytes, range_bytes, false};
		a->committed[i] = init;
	}
	return a;
}

static struct arena *fake_arena_full(uint64_t bytes)
{
	return fake_arena(1, bytes, bytes, bytes);
}

void arena_destroy(struct arena *a)
{
	munmap(a->base, a->bytes);
	free(a);
}

uint8_t *arena_base(const struct arena *a)
{
	return a->base;
}

uint64_t arena_bytes(const struct arena *a)
{
	return a->bytes;
}

uint32_t arena_nranges(const struct arena *a)
{
	return a->nranges;
}

const struct arena_range *arena_range(const struct arena *a, uint32_t i)
{
	return &a->range[i];
}

uint32_t arena_range_of(const struct arena *a, uint64_t offset)
{
	return (uint32_t)(offset / a->range[0].bytes);
}

uint64_t arena_committed(const struct arena *a, uint32_t i)
{
	return a->committed[i];
}

int arena_commit(struct arena *a, uint32_t i, uint64_t upto)
{
	uint64_t have = a->committed[i], want = (upto + a->step - 1) / a->step * a->step;

	if (upto <= have)
		return 0;
	a->commits++;
	if (a->refuse)
		return -ENOSPC;
	if (want > a->range[i].bytes)
		want = a->range[i].bytes;
	while (have < want && !atomic_compare_exchange_weak(&a->committed[i], &have, want))
		;
	return 0;
}

#endif
