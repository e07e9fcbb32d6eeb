/* format_summary.c - summaries of segments: put together record by record, and read back.
 *
 * On the medium: a head of FORMAT_ENTRY bytes, the entries, the names one after another, zeros to the end of the block. Its checksum is in
 * the seal.
 */
#include "daemon/seg/format.h"

#include "daemon/seg/format_bytes.h"
#include "daemon/seg/seg.h"

#include <errno.h>

#define NAME_HEAD 28u /* of a name on the medium, before its texts */

static const char summary_magic[8] = {'L', 'M', 'C', 'A', 'S', 'U', 'M', 'M'};

/* Entries are kept as they go to the medium. Names: numbers in order of first use, and a table from number to place in that order. */
struct format_summary {
	const struct seg_names *table;
	uint32_t max, count, nnames, nslots, last_number, last_index;
	uint64_t text;
	uint32_t *number; /* max_names(max) */
	uint32_t *slot;   /* nslots: index + 1, 0 = empty */
	uint8_t *entries; /* max * FORMAT_ENTRY */
};

static uint32_t max_names(uint32_t records)
{
	return records < SEG_NAMES_MAX ? records : SEG_NAMES_MAX;
}

/* At least twice the names, so that a search ends soon. */
static uint32_t slots_for(uint32_t records)
{
	uint32_t n = 16;

	while (n < 2 * max_names(records))
		n *= 2;
	return n;
}

static uint32_t bounded(uint32_t records)
{
	const uint32_t most = FORMAT_MAX_SUMMARY / FORMAT_ENTRY - 1;

	return records < most ? records : most;
}

uint64_t format_summary_bytes(uint32_t records, uint32_t names, uint64_t text)
{
	return round_up_block(FORMAT_ENTRY + (uint64_t)records * FORMAT_ENTRY + (uint64_t)names * NAME_HEAD + text);
}

size_t format_summary_size(uint32_t max_records)
{
	uint32_t n = bounded(max_records);

	return sizeof(struct format_summary) + sizeof(uint32_t) * ((size_t)max_names(n) + slots_for(n)) +
	       (size_t)n * FORMAT_ENTRY;
}

void format_summary_start(struct format_summary *s, uint32_t max_records, const struct seg_names *names)
{
	uint32_t n = bounded(max_records);

	*s = (struct format_summary){.table = names, .max = n, .nslots = slots_for(n)};
	s->number = (uint32_t *)(s + 1);
	s->slot = s->number + max_names(n);
	s->entries = (uint8_t *)(s->slot + s->nslots);
	memset(s->slot, 0, sizeof(uint32_t) * s->nslots);
}

/* The slot of a name's number, or the empty one where it belongs. */
static uint32_t *find_slot(const struct format_summary *s, uint32_t number)
{
	uint32_t i = number * 2654435761u & (s->nslots - 1);

	while (s->slot[i] && s->number[s->slot[i] - 1] != number)
		i = (i + 1) & (s->nslots - 1);
	return &s->slot[i];
}

/* Its index, entering it if need be. False: no room for it and the entry. */
static bool name_index(struct format_summary *s, uint32_t number, uint32_t *index)
{
	if (s->nnames && s->last_number == number) {
		*index = s->last_index;
		return true;
	}
	uint32_t *slot = find_slot(s, number);
	if (!*slot) {
		const struct seg_name *name = seg_name_of(s->table, number);
		uint64_t text = s->text + name->model.n + name->salt.n;

		if (s->nnames == max_names(s->max) ||
		    format_summary_bytes(s->count + 1, s->nnames + 1, text) > FORMAT_MAX_SUMMARY)
			return false;
		s->text = text;
		s->number[s->nnames++] = number;
		*slot = s->nnames;
	}
	*index = s->last_index = *slot - 1;
	s->last_number = number;
	return true;
}

bool format_summary_add(struct format_summary *s, const struct format_entry *e)
{
	uint32_t index = 0;

	if (s->count == s->max || format_summary_bytes(s->count + 1, s->nnames, s->text) > FORMAT_MAX_SUMMARY ||
	    (e->kind == FORMAT_OBJECT && !name_index(s, e->name, &index)))
		return false;
	uint8_t *b = s->entries + (size_t)s->count++ * FORMAT_ENTRY;
	memset(b, 0, FORMAT_ENTRY);
	put32(b, (uint32_t)e->kind);
	put32(b + 4, index);
	memcpy(b + 8, e->hash.b, STORE_HASH_BYTES);
	put64(b + 40, e->at);
	put64(b + 48, e->bytes);
	put64(b + 56, e->sequence);
	put32(b + 64, e->crc);
	return true;
}

uint32_t format_summary_count(const struct format_summary *s)
{
	return s->count;
}

uint64_t format_summary_need(const struct format_summary *s)
{
	return format_summary_bytes(s->count, s->nnames, s->text);
}

static uint8_t *put_name(uint8_t *b, const struct seg_name *name)
{
	put32(b, name->kv_rank);
	put32(b + 4, name->object_group);
	memcpy(b + 8, name->layout, SEG_DIGEST);
	put16(b + 24, (uint16_t)name->model.n);
	put16(b + 26, (uint16_t)name->salt.n);
	b += NAME_HEAD;
	if (name->model.n)
		memcpy(b, name->model.p, name->model.n);
	b += name->model.n;
	if (name->salt.n)
		memcpy(b, name->salt.p, name->salt.n);
	return b + name->salt.n;
}

void format_summary_finish(const struct format_summary *s, void *out, struct format_seal *seal)
{
	uint64_t need = format_summary_need(s);
	uint8_t *b = out, *at = b + FORMAT_ENTRY + (size_t)s->count * FORMAT_ENTRY;

	memset(b, 0, FORMAT_ENTRY);
	memcpy(b, summary_magic, 8);
	put32(b + 8, FORMAT_VERSION);
	put32(b + 12, seal->id);
	memcpy(b + 16, seal->uuid, 16);
	put64(b + 32, seal->generation);
	put32(b + 40, s->count);
	put32(b + 44, s->nnames);
	memcpy(b + FORMAT_ENTRY, s->entries, (size_t)s->count * FORMAT_ENTRY);
	for (uint32_t i = 0; i < s->nnames; i++)
		at = put_name(at, seg_name_of(s->table, s->number[i]));
	memset(at, 0, (size_t)(b + need - at));
	seal->summary_bytes = (uint32_t)need;
	seal->records = s->count;
	seal->summary_crc = crc32c(0, b, need);
}

/* ---- reading -------------------------------------------------------------------------------------------------------- */

/* Where the next name begins, or NULL when this one is not within [b, end). */
static const uint8_t *get_name(const uint8_t *b, const uint8_t *end, struct seg_name *out)
{
	if ((size_t)(end - b) < NAME_HEAD)
		return NULL;
	size_t model = get16(b + 24), salt = get16(b + 26);
	out->kv_rank = get32(b);
	out->object_group = get32(b + 4);
	memcpy(out->layout, b + 8, SEG_DIGEST);
	b += NAME_HEAD;
	if (model > SEG_MAX_MODEL || salt > SEG_MAX_SALT || (size_t)(end - b) < model + salt)
		return NULL;
	out->model = slice_of(b, model);
	out->salt = slice_of(b + model, salt);
	return b + model + salt;
}

static bool head_is_right(const uint8_t *b, const struct format_seal *seal, const struct format_super *super)
{
	return memcmp(b, summary_magic, 8) == 0 && get32(b + 8) == FORMAT_VERSION && get32(b + 12) == seal->id &&
	       memcmp(b + 16, super->uuid, 16) == 0 && get64(b + 32) == seal->generation &&
	       get32(b + 40) == seal->records;
}

int format_summary_open(const void *p, uint64_t bytes, const struct format_seal *seal, const struct format_super *super,
			struct seg_names *names, uint32_t *numbers, uint32_t names_cap, struct format_reader *out)
{
	const uint8_t *b = p, *end = b + bytes;

	if (bytes < FORMAT_BLOCK || bytes != seal->summary_bytes || bytes > FORMAT_MAX_SUMMARY ||
	    seal->records > bytes / FORMAT_ENTRY - 1 || crc32c(0, b, bytes) != seal->summary_crc ||
	    !head_is_right(b, seal, super))
		return -EBADMSG;
	uint32_t nnames = get32(b + 44);
	if (nnames > seal->records)
		return -EBADMSG;
	if (nnames > names_cap)
		return -E2BIG;
	const uint8_t *at = b + FORMAT_ENTRY + (size_t)seal->records * FORMAT_ENTRY;
	for (uint32_t i = 0; i < nnames; i++) {
		struct seg_name name;

		at = get_name(at, end, &name);
		if (!at)
			return -EBADMSG;
		numbers[i] = names ? seg_name_get(names, &name) : 0;
	}
	*out = (struct format_reader){
		.entries = b + FORMAT_ENTRY, .count = seal->records, .nnames = nnames, .names = numbers};
	return 0;
}

int format_summary_entry(const struct format_reader *r, uint32_t i, const struct format_super *super,
			 struct format_entry *out)
{
	if (i >= r->count)
		return -EBADMSG;
	const uint8_t *b = r->entries + (size_t)i * FORMAT_ENTRY;
	uint32_t kind = get32(b), name = get32(b + 4);
	uint64_t at = get64(b + 40), bytes = get64(b + 48), sequence = get64(b + 56);
	bool object = kind == FORMAT_OBJECT;

	if (sequence > FORMAT_MAX_COUNT || (!object && kind != FORMAT_REMOVAL) ||
	    (object ? name >= r->nnames : name != 0) || (object ? bytes == 0 || bytes > SEG_MAX_BYTES : bytes != 0) ||
	    at < FORMAT_RECORDS || at % FORMAT_BLOCK || at >= super->segment_bytes ||
	    format_record_bytes(bytes) > super->segment_bytes - at)
		return -EBADMSG;
	*out = (struct format_entry){.kind = (enum format_kind)kind,
				     .name = object ? r->names[name] : 0,
				     .at = at,
				     .bytes = bytes,
				     .sequence = sequence,
				     .crc = get32(b + 64)};
	memcpy(out->hash.b, b + 8, STORE_HASH_BYTES);
	return 0;
}
