/* recover_removed.c - removals that were met while older segments were still to come. */
#include "daemon/seg/recover_int.h"

#include "daemon/base/mem.h"

#include <string.h>

static uint64_t key_of(const uint8_t *name, const struct store_hash *hash)
{
	uint64_t a, b, c;

	memcpy(&a, name, 8);
	memcpy(&b, hash->b, 8);
	memcpy(&c, hash->b + 8, 8);
	a = (a ^ b ^ (c << 29 | c >> 35)) * 0x9e3779b97f4a7c15u;
	a ^= a >> 32;
	return a ? a : 1;
}

static struct removed_slot *find(const struct removed *t, uint64_t key)
{
	uint64_t i = key & (t->cap - 1);

	while (t->slot[i].key && t->slot[i].key != key)
		i = (i + 1) & (t->cap - 1);
	return &t->slot[i];
}

/* At most three quarters full, so that a search ends. */
static bool make_room(struct removed *t)
{
	if (t->cap && t->n < t->cap / 4 * 3)
		return true;
	uint32_t cap = t->cap ? t->cap * 2 : 1024;
	if (cap > REMOVED_MAX)
		return false;
	struct removed bigger = {.slot = mem_calloc(cap, sizeof(*bigger.slot)), .n = t->n, .cap = cap};
	if (!bigger.slot)
		return false;
	for (uint32_t i = 0; i < t->cap; i++)
		if (t->slot[i].key)
			*find(&bigger, t->slot[i].key) = t->slot[i];
	mem_free(t->slot);
	t->slot = bigger.slot;
	t->cap = cap;
	return true;
}

void removed_add(struct removed *t, const uint8_t *name, const struct store_hash *hash, uint64_t sequence,
		 uint64_t offset)
{
	uint64_t key = key_of(name, hash);
	bool room = make_room(t);
	struct removed_slot *at = t->cap ? find(t, key) : NULL;

	if (!at || (!at->key && !room)) {
		t->dropped++;
		return;
	}
	t->n += !at->key;
	at->key = key;
	if (sequence > at->sequence) {
		at->sequence = sequence;
		at->offset = offset;
	}
}

const struct removed_slot *removed_after(const struct removed *t, const uint8_t *name, const struct store_hash *hash,
					 uint64_t sequence)
{
	const struct removed_slot *at = t->n ? find(t, key_of(name, hash)) : NULL;

	return at && at->sequence > sequence ? at : NULL;
}

void removed_free(struct removed *t)
{
	mem_free(t->slot);
	*t = (struct removed){0};
}
