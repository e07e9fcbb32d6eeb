/* seg_tool_verify.c - every record of a store that is not in operation: found by summary, or by looking where there is none.
 *
 * Segments that are not sealed end somewhere, and what a crash tore there is no damage: it is counted as unfinished.
 */
#include "daemon/seg/tool_int.h"

#include "daemon/base/crc32c.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct verifier {
	struct tool t;
	bool payload, stop;
	seg_visit visit;
	void *ctx;
	struct seg_verify_result *out;
	struct seg_names *names; /* of summaries */
	uint32_t *numbers;
	uint8_t *summary;
	struct format_record *record;
	uint8_t block[FORMAT_BLOCK]; /* header of `record` */
};

/* ---- telling ------------------------------------------------------------------------------------------------------------ */

static void tell(struct verifier *v, const struct seg_record *r)
{
	if (v->visit && !v->stop)
		v->stop = !v->visit(v->ctx, r);
}

static void count(struct verifier *v, int error)
{
	v->out->bad_headers += error == -EBADMSG;
	v->out->bad_payloads += error == -EILSEQ;
	v->out->io_errors += error == -EIO;
}

static void tell_record(struct verifier *v, int error)
{
	const struct format_record *f = v->record;
	struct seg_record r = {.name = f->name,
			       .hash = f->hash,
			       .offset = f->offset,
			       .bytes = f->bytes,
			       .sequence = f->sequence,
			       .generation = f->generation,
			       .segment = f->segment,
			       .error = error};

	v->out->records++;
	v->out->bytes += f->bytes;
	count(v, error);
	if (f->kind == FORMAT_OBJECT) {
		tell(v, &r);
		return;
	}
	/* Its keys; the name only where a summary or a record has told what the digest stands for. */
	r.removed = true;
	for (uint32_t i = 0; i < f->nremoved && !v->stop; i++) {
		uint32_t number = seg_name_by_digest(v->names, f->removed[i].name);

		r.name = number ? *seg_name_of(v->names, number) : (struct seg_name){0};
		r.hash = f->removed[i].hash;
		tell(v, &r);
	}
}

/* ---- a record ----------------------------------------------------------------------------------------------------------- */

/* 0, -EBADMSG, -EIO. */
static int read_header(struct verifier *v, uint32_t segment, uint64_t generation, uint64_t at)
{
	uint64_t offset = format_segment_at(&v->t.found.super, segment) + at;

	if (tool_read(&v->t, offset, v->t.buf, FORMAT_BLOCK))
		return -EIO;
	memcpy(v->block, v->t.buf, FORMAT_BLOCK);
	if (format_record_decode(v->block, &v->t.found.super, segment, offset, v->record) ||
	    v->record->generation != generation)
		return -EBADMSG;
	/* Removals that come later name it by digest. */
	if (v->record->kind == FORMAT_OBJECT)
		(void)seg_name_get(v->names, &v->record->name);
	return 0;
}

/* 0, -EILSEQ, -EIO. */
static int read_payload(struct verifier *v)
{
	const struct format_record *r = v->record;

	for (uint32_t i = 0; v->payload && i < crc_blocks(r->bytes); i++) {
		uint64_t at = (uint64_t)i * CRC_BLOCK, left = r->bytes - at, n = left < CRC_BLOCK ? left : CRC_BLOCK;
		uint64_t padded = (n + FORMAT_BLOCK - 1) / FORMAT_BLOCK * FORMAT_BLOCK;

		if (tool_read(&v->t, r->offset + FORMAT_BLOCK + at, v->t.buf, padded))
			return -EIO;
		if (crc32c(0, v->t.buf, n) != r->sums[i])
			return -EILSEQ;
	}
	return 0;
}

/* ---- a segment ---------------------------------------------------------------------------------------------------------- */

static void look(struct verifier *v, uint32_t id, const struct tool_segment *g)
{
	const uint64_t end = v->t.found.super.segment_bytes;

	for (uint64_t at = FORMAT_RECORDS; at < end && !v->stop;) {
		int rc = read_header(v, id, g->generation, at);

		if (rc) {
			v->out->io_errors += rc == -EIO;
			at += FORMAT_BLOCK;
			continue;
		}
		at += format_record_bytes(v->record->bytes);
		rc = v->record->kind == FORMAT_OBJECT ? read_payload(v) : 0;
		if (rc == -EILSEQ && g->state == SEGMENT_OPEN)
			v->out->unfinished++;
		else
			tell_record(v, rc);
	}
}

static bool agrees(const struct format_record *r, const struct format_entry *e)
{
	return r->kind == e->kind && r->sequence == e->sequence && r->bytes == e->bytes &&
	       (e->kind == FORMAT_REMOVAL ||
		(memcmp(&r->hash, &e->hash, sizeof(r->hash)) == 0 && crc32c_join(r->sums, r->bytes) == e->crc));
}

/* What the summary says of a record whose header is gone. */
static void tell_entry(struct verifier *v, uint32_t id, uint64_t generation, const struct format_entry *e, int error)
{
	struct seg_record r = {.hash = e->hash,
			       .offset = format_segment_at(&v->t.found.super, id) + e->at,
			       .bytes = e->bytes,
			       .sequence = e->sequence,
			       .generation = generation,
			       .segment = id,
			       .removed = e->kind == FORMAT_REMOVAL,
			       .error = error};

	if (e->name)
		r.name = *seg_name_of(v->names, e->name);
	v->out->records++;
	v->out->bytes += e->bytes;
	count(v, error);
	tell(v, &r);
}

static void by_summary(struct verifier *v, uint32_t id, const struct tool_segment *g,
		       const struct format_reader *reader)
{
	struct format_entry e;

	for (uint32_t i = 0; i < reader->count && !v->stop; i++) {
		if (format_summary_entry(reader, i, &v->t.found.super, &e)) {
			v->out->bad_headers++;
			continue;
		}
		int rc = read_header(v, id, g->generation, e.at);
		if (!rc && !agrees(v->record, &e))
			rc = -EBADMSG;
		if (rc)
			tell_entry(v, id, g->generation, &e, rc);
		else
			tell_record(v, e.kind == FORMAT_OBJECT ? read_payload(v) : 0);
	}
}

static void segment(struct verifier *v, uint32_t id)
{
	struct tool_segment g;
	struct format_reader reader;
	const struct format_super *super = &v->t.found.super;

	if (tool_segment(&v->t, id, &g)) {
		v->out->bad_segments++;
		v->out->io_errors++;
		return;
	}
	if (g.state == SEGMENT_FREE)
		return;
	v->out->segments++;
	if (g.state == SEGMENT_SEALED) {
		uint64_t at = format_segment_at(super, id) + g.seal.summary_at;

		if (tool_read(&v->t, at, v->summary, g.seal.summary_bytes) == 0 &&
		    format_summary_open(v->summary, g.seal.summary_bytes, &g.seal, super, v->names, v->numbers,
					SEG_NAMES_MAX, &reader) == 0) {
			by_summary(v, id, &g, &reader);
			return;
		}
		v->out->bad_summaries++;
	}
	look(v, id, &g);
}

/* ---- all ---------------------------------------------------------------------------------------------------------------- */

static int prepare(struct verifier *v, struct why *why)
{
	v->numbers = mem_calloc(SEG_NAMES_MAX, sizeof(*v->numbers));
	v->summary = aligned_alloc(DISK_ALIGN, FORMAT_MAX_SUMMARY);
	v->record = mem_calloc(1, sizeof(*v->record));
	if (!v->numbers || !v->summary || !v->record || seg_names_create(&v->names))
		return why_set(why, -ENOMEM, "out of memory");
	int rc = tool_super(&v->t);
	if (rc == -ENOENT)
		return why_set(why, rc, "%s holds no store", v->t.path);
	if (rc == -EPROTONOSUPPORT)
		return why_set(why, rc, "%s: its store is of format version %u, this is version %u", v->t.path,
			       v->t.found.other_version, FORMAT_VERSION);
	if (rc)
		return why_set(why, rc, "%s: read error", v->t.path);
	if (v->t.found.super.bytes > v->t.bytes)
		return why_set(why, -EIO, "%s is shorter than the store on it", v->t.path);
	v->out->good_superblocks = v->t.found.good;
	return 0;
}

int seg_verify(const char *path, bool payload, seg_visit visit, void *ctx, struct seg_verify_result *out,
	       struct why *why)
{
	struct verifier *v = mem_calloc(1, sizeof(*v));

	*out = (struct seg_verify_result){0};
	if (!v)
		return why_set(why, -ENOMEM, "out of memory");
	v->payload = payload;
	v->visit = visit;
	v->ctx = ctx;
	v->out = out;
	int rc = tool_open(&v->t, path, TOOL_SHARED, why);
	if (!rc)
		rc = prepare(v, why);
	for (uint32_t id = 0; !rc && !v->stop && id < v->t.found.super.segments; id++)
		segment(v, id);
	seg_names_destroy(v->names);
	mem_free(v->numbers);
	free(v->summary);
	mem_free(v->record);
	tool_close(&v->t);
	mem_free(v);
	return rc;
}
