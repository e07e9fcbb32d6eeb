/* fs_index.c - what files there are, by stem and hash, and by use. The adapter's lock is held. */
#include "daemon/l2/fs_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define SLAB          4096u
#define FIRST_BUCKETS 16384u

int fs_index_init(struct fs_index *ix, uint64_t seed)
{
	*ix = (struct fs_index){.seed = seed, .nbuckets = FIRST_BUCKETS};
	ix->bucket = mem_calloc(ix->nbuckets, sizeof(*ix->bucket));
	return ix->bucket ? 0 : -ENOMEM;
}

void fs_index_free(struct fs_index *ix)
{
	for (uint32_t i = 0; i < ix->nslabs; i++)
		mem_free(ix->slab[i]);
	mem_free((void *)ix->slab);
	mem_free(ix->bucket);
}

struct fs_entry *fs_entry_at(const struct fs_index *ix, uint32_t id)
{
	return &ix->slab[(id - 1) / SLAB][(id - 1) % SLAB];
}

static uint32_t bucket_of(const struct fs_index *ix, uint32_t stem, const struct store_hash *hash)
{
	uint64_t h;

	memcpy(&h, hash->b, sizeof(h));
	unsigned __int128 m = (unsigned __int128)(h ^ ix->seed) * (0x9e3779b97f4a7c15u ^ ((uint64_t)stem << 1));
	return (uint32_t)((uint64_t)m ^ (uint64_t)(m >> 64)) & (ix->nbuckets - 1);
}

uint32_t fs_entry_find(const struct fs_index *ix, uint32_t stem, const struct store_hash *hash)
{
	if (!stem)
		return 0;
	for (uint32_t id = ix->bucket[bucket_of(ix, stem, hash)]; id; id = fs_entry_at(ix, id)->chain) {
		const struct fs_entry *e = fs_entry_at(ix, id);
		if (e->stem == stem && memcmp(&e->hash, hash, sizeof(*hash)) == 0)
			return id;
	}
	return 0;
}

/* Four times the buckets, when there are more entries than those; without memory for it chains just get longer. */
static void grow_buckets(struct fs_index *ix)
{
	uint32_t n = ix->nbuckets * 4, *bucket = ix->nbuckets < 1u << 28 ? mem_calloc(n, sizeof(*bucket)) : NULL;

	if (!bucket)
		return;
	mem_free(ix->bucket);
	ix->bucket = bucket;
	ix->nbuckets = n;
	for (uint32_t id = 1; id <= ix->used; id++) {
		struct fs_entry *e = fs_entry_at(ix, id);
		if (e->state == FS_FREE)
			continue;
		uint32_t *head = &ix->bucket[bucket_of(ix, e->stem, &e->hash)];
		e->chain = *head;
		*head = id;
	}
}

static uint32_t new_id(struct fs_index *ix)
{
	uint32_t id = ix->free;

	if (id) {
		ix->free = fs_entry_at(ix, id)->chain;
		return id;
	}
	if (ix->used == ix->nslabs * SLAB) {
		struct fs_entry **slab, *fresh;
		if (ix->used > UINT32_MAX - 2 * SLAB)
			return 0;
		slab = mem_realloc((void *)ix->slab, (ix->nslabs + 1) * sizeof(*slab));
		if (!slab)
			return 0;
		ix->slab = slab;
		fresh = mem_calloc(SLAB, sizeof(*fresh));
		if (!fresh)
			return 0;
		ix->slab[ix->nslabs++] = fresh;
	}
	return ++ix->used;
}

uint32_t fs_entry_add(struct fs_index *ix, uint32_t stem, const struct store_hash *hash)
{
	uint32_t id = new_id(ix);

	if (!id)
		return 0;
	uint32_t *head = &ix->bucket[bucket_of(ix, stem, hash)];
	*fs_entry_at(ix, id) = (struct fs_entry){
		.hash = *hash, .stem = stem, .number = ++ix->numbers, .chain = *head, .state = FS_WRITING};
	*head = id;
	if (++ix->objects > ix->nbuckets)
		grow_buckets(ix);
	return id;
}

static bool listed(const struct fs_index *ix, uint32_t id)
{
	return ix->oldest == id || fs_entry_at(ix, id)->older;
}

void fs_entry_unlist(struct fs_index *ix, uint32_t id)
{
	struct fs_entry *e = fs_entry_at(ix, id);

	if (!listed(ix, id))
		return;
	*(e->older ? &fs_entry_at(ix, e->older)->newer : &ix->oldest) = e->newer;
	*(e->newer ? &fs_entry_at(ix, e->newer)->older : &ix->newest) = e->older;
	e->older = e->newer = 0;
}

void fs_entry_newest(struct fs_index *ix, uint32_t id)
{
	struct fs_entry *e = fs_entry_at(ix, id);

	e->untouched = false;
	if (ix->newest == id)
		return;
	fs_entry_unlist(ix, id);
	e->older = ix->newest;
	*(e->older ? &fs_entry_at(ix, e->older)->newer : &ix->oldest) = id;
	ix->newest = id;
}

void fs_entry_oldest(struct fs_index *ix, uint32_t id)
{
	struct fs_entry *e = fs_entry_at(ix, id);

	if (ix->oldest == id)
		return;
	fs_entry_unlist(ix, id);
	e->newer = ix->oldest;
	*(e->newer ? &fs_entry_at(ix, e->newer)->older : &ix->newest) = id;
	ix->oldest = id;
}

void fs_entry_drop(struct fs_index *ix, uint32_t id)
{
	struct fs_entry *e = fs_entry_at(ix, id);
	uint32_t *at = &ix->bucket[bucket_of(ix, e->stem, &e->hash)];

	while (*at != id)
		at = &fs_entry_at(ix, *at)->chain;
	*at = e->chain;
	fs_entry_unlist(ix, id);
	*e = (struct fs_entry){.chain = ix->free};
	ix->free = id;
	ix->objects--;
}
