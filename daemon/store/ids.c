#include "daemon/store/ids_int.h"

#include "daemon/store/varray_int.h"

#include <errno.h>
#include <string.h>

int ids_create(struct ids *t, uint32_t max)
{
	uint64_t n = (uint64_t)max + 1;

	memset(t, 0, sizeof(*t));
	t->max = max;
	do {
		n = (n + 63) / 64;
		t->words[t->levels] = n;
		t->map[t->levels] = varray_map(n, sizeof(uint64_t));
		if (!t->map[t->levels++]) {
			ids_destroy(t);
			return -ENOMEM;
		}
	} while (n > 1);
	return 0;
}

void ids_destroy(struct ids *t)
{
	for (uint32_t l = 0; l < t->levels; l++)
		varray_unmap(t->map[l], t->words[l], sizeof(uint64_t));
	memset(t, 0, sizeof(*t));
}

/* The first set bit at or after `at` on a level; UINT64_MAX when there is none. */
static uint64_t next_in_level(const struct ids *t, uint32_t level, uint64_t at)
{
	uint64_t word = at / 64, bits;

	if (word >= t->words[level])
		return UINT64_MAX;
	bits = t->map[level][word] & (~(uint64_t)0 << (at % 64));
	return bits ? word * 64 + (uint64_t)__builtin_ctzll(bits) : UINT64_MAX;
}

/* Up while the word has nothing more to the right, then down along the first set bits. */
static uint32_t next_free(const struct ids *t, uint32_t from)
{
	uint64_t at = from, bit = UINT64_MAX;
	uint32_t level = 0;

	for (; level < t->levels; level++, at = at / 64 + 1) {
		bit = next_in_level(t, level, at);
		if (bit != UINT64_MAX)
			break;
	}
	if (bit == UINT64_MAX)
		return 0;
	while (level-- > 0)
		bit = next_in_level(t, level, bit * 64);
	return (uint32_t)bit;
}

uint32_t ids_take(struct ids *t)
{
	uint32_t id = next_free(t, t->next);

	if (!id)
		id = next_free(t, 1);
	if (!id)
		return t->hi < t->max ? ++t->hi : 0;
	t->next = id + 1;
	for (uint64_t level = 0, at = id; level < t->levels; level++, at /= 64) {
		t->map[level][at / 64] &= ~((uint64_t)1 << (at % 64));
		if (t->map[level][at / 64])
			break;
	}
	return id;
}

void ids_put(struct ids *t, uint32_t id)
{
	for (uint64_t level = 0, at = id; level < t->levels; level++, at /= 64) {
		uint64_t before = t->map[level][at / 64];
		t->map[level][at / 64] = before | (uint64_t)1 << (at % 64);
		if (before)
			break;
	}
}

bool ids_is_free(const struct ids *t, uint32_t id)
{
	return id > t->hi || (t->map[0][id / 64] >> (id % 64) & 1);
}
