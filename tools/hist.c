#include "tools/hist.h"

#include <math.h>

#define SUB_BITS 6u /* log2 of HIST_STEPS */

static uint32_t bucket_of(uint64_t ns)
{
	if (ns < HIST_STEPS)
		return (uint32_t)ns;
	uint32_t top = 63u - (uint32_t)__builtin_clzll(ns), shift = top - SUB_BITS;
	uint64_t i = (uint64_t)(shift + 1) * HIST_STEPS + ((ns >> shift) - HIST_STEPS);
	return i < HIST_BUCKETS ? (uint32_t)i : HIST_BUCKETS - 1;
}

static uint64_t upper_end(uint32_t i)
{
	if (i < HIST_STEPS)
		return i;
	uint32_t shift = i / HIST_STEPS - 1;
	return ((uint64_t)(HIST_STEPS + i % HIST_STEPS + 1) << shift) - 1;
}

void hist_add(struct hist *h, uint64_t ns)
{
	h->bucket[bucket_of(ns)]++;
	h->count++;
	h->sum += ns;
	if (ns > h->max)
		h->max = ns;
}

void hist_merge(struct hist *to, const struct hist *from)
{
	for (uint32_t i = 0; i < HIST_BUCKETS; i++)
		to->bucket[i] += from->bucket[i];
	to->count += from->count;
	to->sum += from->sum;
	if (from->max > to->max)
		to->max = from->max;
}

uint64_t hist_percentile(const struct hist *h, double share)
{
	double wanted = ceil(share * (double)h->count);
	uint64_t seen = 0, rank = wanted < 1 ? 1 : (uint64_t)wanted;
	if (h->count == 0)
		return 0;
	for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
		seen += h->bucket[i];
		if (seen >= rank)
			return upper_end(i) < h->max ? upper_end(i) : h->max;
	}
	return h->max;
}
