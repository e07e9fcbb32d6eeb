/* recover_load.c - sealed segments by their summaries, newest first, several under way; removals; the turns of recovery.
 *
 * Summaries are looked at in the order they were asked for, so their memory is a ring. Of what a removal record says only its place is
 * in the summary: the record itself is read, and until all is loaded its keys are remembered, since older segments come later.
 */
#include "daemon/seg/recover_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/* A power cut may have taken a segment's header and left records of its generation, or damage hides a header: no number that was given
 * out may be given out again, or those records would count in their segment's next life. The time makes it so also when a device lost all
 * headers of a life although it acknowledged them. */
#define GENERATIONS_LOST 4096u

#define BATCH            32u
#define BATCHES_PER_TURN 128u /* about a millisecond: reads are served in between */

/* ---- what was found --------------------------------------------------------------------------------------------------- */

static void saw(struct recovery *r, uint32_t segment, uint64_t sequence)
{
	struct segment *g = recover_segment(r, segment);

	if (sequence > g->sequence)
		g->sequence = sequence;
	if (sequence > r->s->sequence)
		r->s->sequence = sequence;
}

void recover_object(struct recovery *r, uint32_t segment, const struct format_entry *e)
{
	struct seg *s = r->s;
	const struct seg_key key = {.name = e->name, .hash = e->hash};

	const struct removed_slot *removed = NULL;

	saw(r, segment, e->sequence);
	if (e->name == 0)
		return;
	if (r->removed.n)
		removed = removed_after(&r->removed, seg_name_digest(s->names, e->name), &e->hash, e->sequence);
	if (removed) {
		/* The removal has work to do for as long as this record is there. */
		seg_enter_removal(s, &key, removed->offset, removed->sequence);
		return;
	}
	if (seg_enter(s, &key, format_segment_at(&s->super, segment) + e->at, e->bytes, e->crc, e->sequence))
		r->objects++;
}

void recover_keys(struct recovery *r, uint32_t segment, const struct format_record *removal)
{
	saw(r, segment, removal->sequence);
	recover_segment(r, segment)->removals++;
	for (uint32_t i = 0; i < removal->nremoved; i++) {
		struct seg_key key = {.name = seg_name_by_digest(r->s->names, removal->removed[i].name),
				      .hash = removal->removed[i].hash};

		removed_add(&r->removed, removal->removed[i].name, &key.hash, removal->sequence, removal->offset);
		if (key.name && seg_forget(r->s, &key, removal->sequence))
			seg_enter_removal(r->s, &key, removal->offset, removal->sequence);
	}
}

/* ---- removal records of sealed segments ------------------------------------------------------------------------------- */

static void removal_done(struct disk_io *io)
{
	struct removal *m = io->owner;
	struct recovery *r = m->r;

	if (io->result == 0 && format_record_decode(io->buf, &r->s->super, m->segment, io->offset, r->keys) == 0 &&
	    r->keys->kind == FORMAT_REMOVAL && r->keys->generation == m->generation)
		recover_keys(r, m->segment, r->keys);
	else
		r->torn++;
	r->removal_busy &= ~(1ull << (m - r->removal));
}

/* False: as many are being read as can be. */
static bool read_removal(struct recovery *r, uint32_t segment, uint64_t at)
{
	if (~r->removal_busy == 0)
		return false;
	uint32_t i = (uint32_t)__builtin_ctzll(~r->removal_busy);
	struct removal *m = &r->removal[i];

	*m = (struct removal){.r = r, .segment = segment, .generation = recover_segment(r, segment)->generation};
	m->io = (struct disk_io){.op = DISK_READ,
				 .urgent = true,
				 .offset = format_segment_at(&r->s->super, segment) + at,
				 .bytes = FORMAT_BLOCK,
				 .buf = r->blocks + (size_t)i * FORMAT_BLOCK,
				 .done = removal_done,
				 .owner = m};
	r->removal_busy |= 1ull << i;
	disk_submit(r->s->disk, &m->io);
	return true;
}

/* ---- summaries ---------------------------------------------------------------------------------------------------------- */

static void load_done(struct disk_io *io)
{
	((struct load *)io->owner)->done = true;
}

/* Room for `bytes` in one piece: at the ring's head, or at its start when what is left behind the head is too short. */
static bool take_ring(struct recovery *r, uint32_t bytes, uint8_t **at, uint32_t *taken)
{
	uint64_t in = r->ring_head % LOAD_RING, skip = LOAD_RING - in < bytes ? LOAD_RING - in : 0;

	if (r->ring_head + skip + bytes - r->ring_tail > LOAD_RING)
		return false;
	*at = r->ring + (in + skip) % LOAD_RING;
	*taken = (uint32_t)skip + bytes;
	r->ring_head += *taken;
	return true;
}

static void start_loads(struct recovery *r)
{
	while (r->next < r->norder && r->load_head - r->load_tail < LOADS) {
		uint32_t segment = r->order[r->next], taken;
		const struct seal_place *seal = &r->seal[segment];
		uint8_t *at;

		if (!take_ring(r, seal->bytes, &at, &taken))
			return;
		struct load *l = &r->load[r->load_head++ % LOADS];
		*l = (struct load){.r = r, .segment = segment, .taken = taken};
		l->io = (struct disk_io){.op = DISK_READ,
					 .offset = format_segment_at(&r->s->super, segment) +
						   (uint64_t)seal->at_blocks * FORMAT_BLOCK,
					 .bytes = seal->bytes,
					 .buf = at,
					 .done = load_done,
					 .owner = l};
		r->next++;
		disk_submit(r->s->disk, &l->io);
	}
}

static bool open_summary(struct recovery *r, struct load *l)
{
	const struct seal_place *p = &r->seal[l->segment];
	const struct format_seal seal = {.id = l->segment,
					 .generation = recover_segment(r, l->segment)->generation,
					 .summary_bytes = p->bytes,
					 .records = p->records,
					 .summary_crc = p->crc};

	return l->io.result == 0 && format_summary_open(l->io.buf, p->bytes, &seal, &r->s->super, r->s->names,
							r->numbers, SEG_NAMES_MAX, &l->reader) == 0;
}

/* Decodes the next entries and brings what entering them will touch closer: a million cache misses one after another would be most of a
 * restart. */
static uint32_t next_batch(struct recovery *r, const struct load *l, struct format_entry *e)
{
	uint32_t n = l->reader.count - l->next < BATCH ? l->reader.count - l->next : BATCH;
	struct seg_key key;

	for (uint32_t i = 0; i < n; i++) {
		if (format_summary_entry(&l->reader, l->next + i, &r->s->super, &e[i]))
			e[i].kind = 0;
		key = (struct seg_key){.name = e[i].name, .hash = e[i].hash};
		seg_index_warm_bucket(&r->s->ix, &key);
	}
	for (uint32_t i = 0; i < n; i++) {
		key = (struct seg_key){.name = e[i].name, .hash = e[i].hash};
		seg_index_warm_entry(&r->s->ix, &key);
	}
	return n;
}

/* False: no more now (removals to wait for). */
static bool take_batch(struct recovery *r, struct load *l)
{
	struct format_entry e[BATCH];
	uint32_t n = next_batch(r, l, e);

	for (uint32_t i = 0; i < n; i++, l->next++) {
		if (e[i].kind == FORMAT_OBJECT)
			recover_object(r, l->segment, &e[i]);
		else if (e[i].kind == FORMAT_REMOVAL && read_removal(r, l->segment, e[i].at))
			saw(r, l->segment, e[i].sequence);
		else if (e[i].kind == FORMAT_REMOVAL)
			return false;
	}
	return true;
}

static void take_loads(struct recovery *r)
{
	uint32_t budget = BATCHES_PER_TURN;

	while (r->load_tail != r->load_head && r->load[r->load_tail % LOADS].done) {
		struct load *l = &r->load[r->load_tail % LOADS];

		if (!l->opened && !open_summary(r, l)) {
			r->to_scan[r->nscan++] = l->segment;
			r->bad_summaries++;
		} else {
			l->opened = true;
			while (l->next < l->reader.count)
				if (budget-- == 0 || !take_batch(r, l))
					return;
			r->segments++;
		}
		r->ring_tail += l->taken;
		r->load_tail++;
	}
}

/* ---- turns ------------------------------------------------------------------------------------------------------------- */

static int newest_first(const void *a, const void *b, void *ctx)
{
	const struct segment *t = ctx;
	uint64_t x = t[*(const uint32_t *)a].generation, y = t[*(const uint32_t *)b].generation;

	return x < y ? 1 : x > y ? -1 : 0;
}

int recover_start(struct seg *s)
{
	struct recovery *r = s->recovery;

	uint64_t expected = 0;

	for (uint32_t id = 0; id < s->super.segments; id++) {
		const struct segment *g = &s->segment[id];

		expected += r->seal[id].records;
		if (g->state == SEGMENT_SEALED && r->seal[id].bytes)
			r->order[r->norder++] = id;
		else if (g->state == SEGMENT_OPEN)
			r->to_scan[r->nscan++] = id;
	}
	qsort_r(r->order, r->norder, sizeof(*r->order), newest_first, s->segment);
	qsort_r(r->to_scan, r->nscan, sizeof(*r->to_scan), newest_first, s->segment);
	seg_index_expect(&s->ix, expected);
	start_loads(r);
	return 0;
}

static void finish(struct seg *s)
{
	struct recovery *r = s->recovery;
	const char *path = disk_facts(s->disk)->path;

	for (uint32_t i = 0; i < r->nadopted; i++) {
		struct adopted *a = &r->adopted[i];

		writer_adopt(s, a->segment, a->summary, a->end);
		a->summary = NULL;
	}
	if (r->bad_summaries)
		log_warn("%s: %u segments had no usable summary; their records were looked for one by one", path,
			 r->bad_summaries);
	if (r->removed.dropped)
		log_warn("%s: %u removals could not be kept in mind; what they removed may be back", path,
			 r->removed.dropped);
	log_info("%s: recovered %" PRIu64 " objects of %" PRIu64 " segments in %" PRIu64 " ms; %" PRIu64
		 " segments were read whole, %u torn records left out",
		 path, s->n.recovered_objects, s->n.recovered_segments, s->n.recovery_ns / 1000000,
		 s->n.scanned_segments, r->torn);
	s->generation += GENERATIONS_LOST + (uint32_t)((disk_now(s->disk) * 0x9e3779b97f4a7c15u) >> 32);
	s->recovery = NULL;
	recover_destroy(r);
}

static void publish(struct seg *s, const struct recovery *r)
{
	lk_lock(&s->lk);
	s->n.recovered_objects = r->objects;
	s->n.recovered_segments = r->segments;
	s->n.scanned_segments = r->scanned;
	s->n.recovery_ns = disk_now(s->disk) - r->started_ns;
	lk_unlock(&s->lk);
}

bool recover_ready(const struct seg *s)
{
	const struct recovery *r = s->recovery;

	if (r->removal_busy)
		return false;
	if (r->load_tail != r->load_head)
		return r->load[r->load_tail % LOADS].done;
	return scan_ready(r);
}

bool recover_step(struct seg *s)
{
	struct recovery *r = s->recovery;

	take_loads(r);
	start_loads(r);
	publish(s, r);
	/* The scan reads whole segments: it would take the device's time from the summaries, which bring far more for each byte. */
	if (r->next < r->norder || r->load_tail != r->load_head)
		return false;
	if (scan_turn(r) || r->removal_busy)
		return false;
	publish(s, r);
	finish(s);
	return true;
}
