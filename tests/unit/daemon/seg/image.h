/* image.h - stores made by hand, record by record, on any memory: for tests of recovery and tools. */
#ifndef TESTS_SEG_IMAGE_H
#define TESTS_SEG_IMAGE_H

#include "daemon/base/crc32c.h"
#include "daemon/seg/format.h"

#include <stdlib.h>
#include <string.h>

struct image {
	uint8_t *m;
	struct format_super super;
	struct seg_names *names;
	uint64_t generation, sequence;
	/* the segment being filled */
	uint32_t segment;
	uint64_t at; /* of the next record */
	struct format_summary *summary;
	struct format_record *record;
};

static inline void image_die(bool bad)
{
	if (bad)
		abort();
}

static inline void image_supers(struct image *im)
{
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++)
		format_super_encode(&im->super, c, im->m + format_super_at(&im->super, c));
}

/* `m`: `bytes` zeroed bytes. */
static inline void image_start(struct image *im, void *m, uint64_t bytes, uint64_t segment_bytes)
{
	*im = (struct image){.m = m};
	image_die(format_geometry(bytes, segment_bytes, &im->super) || seg_names_create(&im->names));
	memset(im->super.uuid, 0x5a, 16);
	im->super.epoch = 3;
	im->super.created_s = 1790000000;
	im->summary = calloc(1, format_summary_size((uint32_t)(segment_bytes / 8192)));
	im->record = calloc(1, sizeof(*im->record));
	image_die(!im->summary || !im->record);
	image_supers(im);
}

static inline void image_end(struct image *im)
{
	seg_names_destroy(im->names);
	free(im->summary);
	free(im->record);
}

static inline uint8_t *image_segment(const struct image *im, uint32_t id)
{
	return im->m + format_segment_at(&im->super, id);
}

static inline void image_open(struct image *im, uint32_t id)
{
	struct format_segment h = {.id = id, .generation = ++im->generation, .epoch = im->super.epoch};

	memcpy(h.uuid, im->super.uuid, 16);
	format_segment_encode(&h, image_segment(im, id));
	im->segment = id;
	im->at = FORMAT_RECORDS;
	format_summary_start(im->summary, (uint32_t)(im->super.segment_bytes / 8192), im->names);
}

static inline struct seg_name image_name(uint32_t model)
{
	static const char *const models[] = {"llama", "qwen", "mistral", ""};
	struct seg_name n = {slice_str(models[model % 4]), slice_str(model & 4 ? "salt" : ""), model, 0, {0}};

	n.layout[0] = (uint8_t)model;
	return n;
}

static inline struct store_hash image_hash(uint64_t key)
{
	struct store_hash h = {{0}};

	key *= 0x9e3779b97f4a7c15u;
	for (unsigned i = 0; i < STORE_HASH_BYTES; i++)
		h.b[i] = (uint8_t)(key >> 8 * (i % 8)) ^ (uint8_t)i;
	return h;
}

static inline void image_payload(uint8_t *p, uint64_t bytes, uint64_t seed)
{
	uint64_t x = seed * 2 + 1;

	for (uint64_t i = 0; i < bytes; i++) {
		if (i % 8 == 0)
			x = x * 6364136223846793005u + 1442695040888963407u;
		p[i] = (uint8_t)(x >> (8 * (i % 8)));
	}
}

static inline void image_head(struct image *im, enum format_kind kind)
{
	struct format_record *r = im->record;

	r->kind = kind;
	memcpy(r->uuid, im->super.uuid, 16);
	r->segment = im->segment;
	r->generation = im->generation;
	r->offset = format_segment_at(&im->super, im->segment) + im->at;
	r->sequence = ++im->sequence;
	r->bytes = 0;
}

/* Object `key` of name `model`; its payload follows from `seed`. Returns where its header is, in the segment. */
static inline uint64_t image_put(struct image *im, uint32_t model, uint64_t key, uint64_t bytes, uint64_t seed)
{
	struct format_record *r = im->record;
	struct format_entry e = {.kind = FORMAT_OBJECT, .at = im->at, .bytes = bytes, .hash = image_hash(key)};
	uint8_t *at = image_segment(im, im->segment) + im->at;

	image_die(im->at + format_record_bytes(bytes) > im->super.segment_bytes);
	image_head(im, FORMAT_OBJECT);
	r->bytes = bytes;
	r->name = image_name(model);
	r->hash = e.hash;
	image_payload(at + FORMAT_BLOCK, bytes, seed);
	crc32c_blocks(at + FORMAT_BLOCK, bytes, r->sums);
	format_record_encode(r, at);
	e.sequence = r->sequence;
	e.crc = crc32c_join(r->sums, bytes);
	e.name = seg_name_get(im->names, &r->name);
	image_die(!format_summary_add(im->summary, &e));
	im->at += format_record_bytes(bytes);
	return e.at;
}

/* One removal record for keys first to last of name `model`. */
static inline void image_remove(struct image *im, uint32_t model, uint64_t first, uint64_t last)
{
	struct format_record *r = im->record;
	struct seg_name name = image_name(model);
	uint32_t number = seg_name_get(im->names, &name);
	struct format_entry e = {.kind = FORMAT_REMOVAL, .at = im->at};

	image_head(im, FORMAT_REMOVAL);
	r->nremoved = (uint32_t)(last - first + 1);
	for (uint64_t k = first; k <= last; k++) {
		memcpy(r->removed[k - first].name, seg_name_digest(im->names, number), SEG_DIGEST);
		r->removed[k - first].hash = image_hash(k);
	}
	format_record_encode(r, image_segment(im, im->segment) + im->at);
	e.sequence = r->sequence;
	image_die(!format_summary_add(im->summary, &e));
	im->at += FORMAT_BLOCK;
}

/* Summary and seal of the segment being filled. */
static inline void image_seal(struct image *im)
{
	uint64_t need = format_summary_need(im->summary), at = im->super.segment_bytes - need;
	struct format_seal seal = {.id = im->segment, .generation = im->generation, .summary_at = at};
	uint8_t *segment = image_segment(im, im->segment);

	image_die(at < im->at);
	memcpy(seal.uuid, im->super.uuid, 16);
	format_summary_finish(im->summary, segment + at, &seal);
	format_seal_encode(&seal, segment + FORMAT_BLOCK);
}

#endif
