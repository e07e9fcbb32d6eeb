/* recover_fixture.h - recovery above a simulated disk, with an index that is a plain list: what came to light is looked at, not how it is
 * kept. The functions of index.c and write.c that recovery calls are these. */
#ifndef TESTS_SEG_RECOVER_FIXTURE_H
#define TESTS_SEG_RECOVER_FIXTURE_H

#include "daemon/seg/recover_int.h"
#include "tests/unit/daemon/seg/image.h"
#include "transport/disk/disk_sim.h"

#include "daemon/base/mem.h"

#define LIST_MAX 65536u

struct listed {
	struct seg_key key;
	uint64_t offset, bytes, sequence;
	uint32_t crc;
};

struct rig {
	struct seg s; /* first: the fakes are given it */
	struct disk_sim *sim;
	struct image im;
	struct seg_names *names;
	struct listed *list;
	uint32_t n;
	uint32_t adopted, adopted_records;
	uint64_t adopted_end;
	uint32_t adopted_segment;
	void *memory;
};

static struct listed *rig_at(struct rig *g, const struct seg_key *key)
{
	for (uint32_t i = 0; i < g->n; i++)
		if (g->list[i].key.name == key->name &&
		    memcmp(&g->list[i].key.hash, &key->hash, sizeof(key->hash)) == 0)
			return &g->list[i];
	return NULL;
}

bool seg_enter(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t bytes, uint32_t crc,
	       uint64_t sequence)
{
	struct rig *g = (struct rig *)s;
	struct listed *l = rig_at(g, key);

	if (l && l->sequence >= sequence)
		return false;
	if (!l) {
		image_die(g->n == LIST_MAX);
		l = &g->list[g->n++];
	}
	*l = (struct listed){*key, device_offset, bytes, sequence, crc};
	return true;
}

bool seg_forget(struct seg *s, const struct seg_key *key, uint64_t sequence)
{
	struct rig *g = (struct rig *)s;
	struct listed *l = rig_at(g, key);

	if (!l || l->sequence >= sequence)
		return false;
	*l = g->list[--g->n];
	return true;
}

bool seg_enter_removal(struct seg *s, const struct seg_key *key, uint64_t device_offset, uint64_t sequence)
{
	(void)device_offset;
	seg_forget(s, key, sequence);
	return true;
}

void seg_index_expect(struct seg_index *ix, uint64_t n)
{
	(void)ix;
	(void)n;
}

void seg_index_warm_bucket(const struct seg_index *ix, const struct seg_key *key)
{
	(void)ix;
	(void)key;
}

void seg_index_warm_entry(const struct seg_index *ix, const struct seg_key *key)
{
	(void)ix;
	(void)key;
}

void writer_adopt(struct seg *s, uint32_t segment, struct format_summary *summary, uint64_t end)
{
	struct rig *g = (struct rig *)s;

	g->adopted++;
	g->adopted_segment = segment;
	g->adopted_records = format_summary_count(summary);
	g->adopted_end = end;
	mem_free(summary);
}

/* A medium with an empty store on it, to be filled through g->im. */
static void rig_start(struct rig *g, uint64_t bytes, uint64_t segment_bytes)
{
	const struct disk_sim_conf conf = {.bytes = bytes, .seed = 7, .reorder = true, .read_ns = 50000};

	memset(g, 0, sizeof(*g));
	image_die(disk_sim_create(&conf, &g->sim));
	image_start(&g->im, disk_sim_medium(g->sim), bytes, segment_bytes);
	g->list = calloc(LIST_MAX, sizeof(*g->list));
	g->memory = aligned_alloc(DISK_ALIGN, SEG_MEMORY);
	image_die(!g->list || !g->memory);
}

static int rig_open(struct rig *g, struct why *why)
{
	struct disk_conf conf = {.write = true};

	memset(&g->s, 0, sizeof(g->s));
	g->n = 0;
	g->adopted = 0;
	image_die(seg_names_create(&g->names));
	image_die(disk_sim_open(g->sim, &conf, &g->s.disk, why));
	lk_init(&g->s.lk, LK_SEG);
	g->s.names = g->names;
	g->s.conf = (struct seg_conf){.disk = g->s.disk, .memory = g->memory, .names = g->names};
	return recover_open(&g->s, why);
}

/* To the end; returns how many turns it took. */
static uint32_t rig_load(struct rig *g)
{
	uint32_t turns = 1;

	image_die(recover_start(&g->s));
	for (; !recover_step(&g->s); turns++) {
		disk_run(g->s.disk, 1000000);
		image_die(turns > 1000000);
	}
	return turns;
}

static void rig_close(struct rig *g)
{
	disk_close(g->s.disk, 0);
	recover_destroy(g->s.recovery);
	mem_free(g->s.segment);
	lk_destroy(&g->s.lk);
	seg_names_destroy(g->names);
	g->s.recovery = NULL;
}

static void rig_end(struct rig *g)
{
	image_end(&g->im);
	disk_sim_destroy(g->sim);
	free(g->list);
	free(g->memory);
}

/* The object as it was found; NULL: it was not. */
__attribute__((unused)) static const struct listed *rig_find(struct rig *g, uint32_t model, uint64_t key)
{
	struct seg_name name = image_name(model);
	struct seg_key k = {.name = seg_name_find(g->names, &name), .hash = image_hash(key)};

	return k.name ? rig_at(g, &k) : NULL;
}

/* Its bytes on the medium are those of `seed`, and its checksum is theirs. */
__attribute__((unused)) static bool rig_has(struct rig *g, uint32_t model, uint64_t key, uint64_t seed)
{
	const struct listed *l = rig_find(g, model, key);

	if (!l)
		return false;
	const uint8_t *at = disk_sim_medium(g->sim) + l->offset + FORMAT_BLOCK;
	uint8_t *right = malloc(l->bytes);
	image_die(!right);
	image_payload(right, l->bytes, seed);
	bool same = memcmp(at, right, l->bytes) == 0 && crc32c(0, right, l->bytes) == l->crc;
	free(right);
	return same;
}

#endif
