/* recover_scan.c - a segment without a usable summary: every block is asked whether it is a record, and payloads are checked.
 *
 * The segment passes by once, in windows of 1 MiB that are read ahead. The extent of a record whose header is whole is known, so what a torn
 * payload hides is skipped and the next record is found behind it. A block that is no header costs a step of one block. A window that
 * cannot be read is tried again in pieces; what stays unreadable is zeros, which no checksum takes for a payload.
 */
#include "daemon/seg/recover_int.h"

#include "daemon/base/crc32c.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define PIECE            (64u << 10)
#define WINDOWS_PER_TURN 2u

int scan_create(struct recovery *r)
{
	r->scan.record = mem_calloc(1, sizeof(*r->scan.record));
	r->keys = mem_calloc(1, sizeof(*r->keys));
	return r->scan.record && r->keys ? 0 : -ENOMEM;
}

void scan_destroy(struct recovery *r)
{
	mem_free(r->keys);
	mem_free(r->scan.record);
	mem_free(r->scan.summary);
}

/* ---- reading ahead ---------------------------------------------------------------------------------------------------- */

static void submit(struct window *w, uint32_t from, uint32_t bytes)
{
	struct recovery *r = w->r;
	size_t slot = (size_t)(w - r->scan.window);

	w->io = (struct disk_io){.op = DISK_READ,
				 .offset = format_segment_at(&r->s->super, r->scan.segment) + w->at + from,
				 .bytes = bytes,
				 .buf = r->windows + slot * DISK_SUB_MAX + from,
				 .done = w->io.done,
				 .owner = w};
	disk_submit(r->s->disk, &w->io);
}

static void window_done(struct disk_io *io)
{
	struct window *w = io->owner;

	if (io->result == 0 && !w->pieces) {
		w->done = true;
		return;
	}
	if (!w->pieces) {
		w->pieces = true;
		w->piece = 0;
	} else {
		if (io->result)
			memset(io->buf, 0, io->bytes);
		w->piece += (uint32_t)io->bytes;
	}
	if (w->piece < w->bytes)
		submit(w, w->piece, w->bytes - w->piece < PIECE ? w->bytes - w->piece : PIECE);
	else
		w->done = true;
}

static void read_ahead(struct recovery *r)
{
	struct scan *sc = &r->scan;
	uint64_t segment_bytes = r->s->super.segment_bytes;

	while (sc->reads - sc->head < SCAN_WINDOWS && (uint64_t)sc->reads * DISK_SUB_MAX < segment_bytes) {
		struct window *w = &sc->window[sc->reads % SCAN_WINDOWS];
		uint64_t at = (uint64_t)sc->reads++ * DISK_SUB_MAX, left = segment_bytes - at;

		*w = (struct window){.r = r, .at = (uint32_t)at};
		w->bytes = left < DISK_SUB_MAX ? (uint32_t)left : DISK_SUB_MAX;
		w->io.done = window_done;
		submit(w, 0, w->bytes);
	}
}

/* ---- looking ------------------------------------------------------------------------------------------------------------ */

static void keep(struct recovery *r, const struct format_entry *e, uint64_t end)
{
	struct scan *sc = &r->scan;

	sc->records++;
	sc->end = end;
	/* Too many for a summary: no writer of ours makes such a segment. They are served, and missed after the next start. */
	if (sc->summary && (e->kind == FORMAT_REMOVAL || e->name))
		(void)format_summary_add(sc->summary, e);
}

static void payload_ends(struct recovery *r)
{
	struct scan *sc = &r->scan;
	const struct format_record *rec = sc->record;
	uint64_t at = rec->offset - format_segment_at(&r->s->super, sc->segment);

	sc->inside = false;
	sc->pos = at + format_record_bytes(rec->bytes);
	if (sc->torn) {
		r->torn++;
		return;
	}
	const struct format_entry e = {.kind = FORMAT_OBJECT,
				       .name = seg_name_get(r->s->names, &rec->name),
				       .hash = rec->hash,
				       .at = at,
				       .bytes = rec->bytes,
				       .sequence = rec->sequence,
				       .crc = crc32c_join(rec->sums, rec->bytes)};
	recover_object(r, sc->segment, &e);
	keep(r, &e, sc->pos);
}

/* The next `n` bytes of the payload; none of them crosses a sub-block unseen. */
static void payload_passes(struct recovery *r, const uint8_t *p, uint64_t n)
{
	struct scan *sc = &r->scan;

	while (n) {
		uint64_t done = sc->record->bytes - sc->left, to_next = CRC_BLOCK - done % CRC_BLOCK;
		uint64_t step = n < to_next ? n : to_next;

		if (!sc->torn)
			sc->crc = crc32c(sc->crc, p, step);
		sc->left -= step;
		p += step;
		n -= step;
		if (step < to_next && sc->left)
			return;
		if (sc->crc != sc->record->sums[sc->sub++])
			sc->torn = true;
		sc->crc = 0;
	}
}

static void look(struct recovery *r, const uint8_t *block)
{
	struct scan *sc = &r->scan;
	struct seg *s = r->s;
	uint64_t offset = format_segment_at(&s->super, sc->segment) + sc->pos;

	sc->pos += FORMAT_BLOCK;
	if (format_record_decode(block, &s->super, sc->segment, offset, sc->record) ||
	    sc->record->generation != recover_segment(r, sc->segment)->generation)
		return;
	if (sc->record->kind == FORMAT_REMOVAL) {
		const struct format_entry e = {
			.kind = FORMAT_REMOVAL, .at = sc->pos - FORMAT_BLOCK, .sequence = sc->record->sequence};

		recover_keys(r, sc->segment, sc->record);
		keep(r, &e, sc->pos);
		return;
	}
	/* The block may be gone when the payload has passed, and the texts with it. */
	sc->inside = true;
	sc->torn = false;
	sc->left = sc->record->bytes;
	sc->crc = 0;
	sc->sub = 0;
	memcpy(sc->header, block, FORMAT_BLOCK);
	const uint8_t *old = block;
	struct seg_name *name = &sc->record->name;
	name->model.p = sc->header + ((const uint8_t *)name->model.p - old);
	name->salt.p = sc->header + ((const uint8_t *)name->salt.p - old);
}

static void look_at_window(struct recovery *r, const struct window *w, const uint8_t *p)
{
	struct scan *sc = &r->scan;
	uint64_t end = (uint64_t)w->at + w->bytes;

	while (sc->pos < end) {
		const uint8_t *at = p + (sc->pos - w->at);

		if (sc->inside) {
			uint64_t n = end - sc->pos < sc->left ? end - sc->pos : sc->left;

			payload_passes(r, at, n);
			sc->pos += n;
			if (sc->left == 0)
				payload_ends(r);
		} else {
			look(r, at);
		}
	}
}

/* ---- turns ------------------------------------------------------------------------------------------------------------- */

static void start(struct recovery *r)
{
	struct scan *sc = &r->scan;
	struct format_record *record = sc->record;
	uint32_t segment = r->to_scan[r->scanned], max = (uint32_t)(r->s->super.segment_bytes / (2u * FORMAT_BLOCK));

	*sc = (struct scan){.active = true, .segment = segment, .record = record, .pos = FORMAT_RECORDS};
	sc->sealed = recover_segment(r, segment)->state == SEGMENT_SEALED;
	if (sc->sealed || r->nadopted == ADOPTED_MAX)
		return;
	sc->summary = mem_calloc(1, format_summary_size(max));
	if (sc->summary)
		format_summary_start(sc->summary, max, r->s->names);
}

static void set_state(struct recovery *r, enum segment_state state)
{
	lk_lock(&r->s->lk);
	recover_segment(r, r->scan.segment)->state = state;
	lk_unlock(&r->s->lk);
}

static void end(struct recovery *r)
{
	struct scan *sc = &r->scan;

	sc->active = false;
	r->scanned++;
	r->segments++;
	if (sc->sealed)
		return;
	if (sc->records == 0) {
		set_state(r, SEGMENT_FREE);
	} else if (sc->summary) {
		r->adopted[r->nadopted++] = (struct adopted){sc->segment, sc->summary, sc->end};
		sc->summary = NULL;
	} else {
		set_state(r, SEGMENT_SEALED);
	}
	mem_free(sc->summary);
	sc->summary = NULL;
}

bool scan_ready(const struct recovery *r)
{
	const struct scan *sc = &r->scan;

	return !sc->active || sc->head == sc->reads || sc->window[sc->head % SCAN_WINDOWS].done;
}

bool scan_turn(struct recovery *r)
{
	struct scan *sc = &r->scan;

	if (!sc->active && r->scanned == r->nscan)
		return false;
	if (!sc->active)
		start(r);
	read_ahead(r);
	for (uint32_t i = 0; i < WINDOWS_PER_TURN && sc->head != sc->reads; i++) {
		size_t slot = sc->head % SCAN_WINDOWS;

		if (!sc->window[slot].done)
			break;
		look_at_window(r, &sc->window[slot], r->windows + slot * DISK_SUB_MAX);
		sc->head++;
		read_ahead(r);
	}
	if (sc->head == sc->reads)
		end(r);
	return true;
}
