/* remove.c - removals: records that say which older ones do not count any more. */
#include "daemon/seg/write_int.h"

#include <errno.h>
#include <string.h>

static void removal_done(struct disk_io *io)
{
	struct slot *slot = io->owner;
	struct seg *s = slot->w->s;
	struct seg_op *op = slot->ops, *next;
	bool carried = !op;

	write_put_slot(slot, io->result, FORMAT_BLOCK);
	for (; op; op = next) {
		next = op->next;
		seg_finish(s, op, write_error(io->result));
	}
	if (carried)
		evictor_carried(s, io->result);
}

static void encode_removal(struct writer *w, const struct stream *st, const struct seg_key *keys, uint32_t n)
{
	struct format_record *r = &w->record;

	memcpy(r->uuid, w->s->super.uuid, sizeof(r->uuid));
	r->kind = FORMAT_REMOVAL;
	r->segment = st->segment;
	r->generation = st->generation;
	r->offset = format_segment_at(&w->s->super, st->segment) + st->end;
	r->sequence = ++w->s->sequence;
	r->bytes = 0;
	r->nremoved = n;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(r->removed[i].name, seg_name_digest(w->s->names, keys[i].name), SEG_DIGEST);
		r->removed[i].hash = keys[i].hash;
		seg_enter_removal(w->s, &keys[i], r->offset, r->sequence);
	}
}

/* One record that removes these. NULL: not now. */
static struct slot *send_removal(struct writer *w, const struct seg_key *keys, uint32_t n)
{
	struct format_entry e = {.kind = FORMAT_REMOVAL, .sequence = w->s->sequence + 1};
	struct stream *st = w->nfree && write_index_room(w, n) ? write_stream(w, &e, FORMAT_BLOCK) : NULL;
	struct slot *slot;

	if (!st)
		return NULL;
	encode_removal(w, st, keys, n);
	slot = write_take_slot(w, st, FORMAT_BLOCK);
	w->s->segment[st->segment].removals++;
	format_record_encode(&w->record, slot->block);
	slot->io = (struct disk_io){.op = DISK_WRITE,
				    .offset = w->record.offset,
				    .bytes = FORMAT_BLOCK,
				    .buf = slot->block,
				    .done = removal_done,
				    .owner = slot};
	disk_submit(w->s->disk, &slot->io);
	return slot;
}

bool writer_carry(struct seg *s, const struct seg_key *keys, uint32_t n)
{
	return send_removal(s->writer, keys, n) != NULL;
}

static bool known(const struct seg *s, const struct seg_op *op)
{
	return seg_index_find(&s->ix, &op->key) || writer_has(s, &op->key);
}

/* All removals at the head of the queue go into one record. */
bool removals_start(struct writer *w)
{
	struct seg *s = w->s;
	struct seg_key keys[FORMAT_REMOVALS];
	struct slot *slot;
	struct seg_op *op = w->waiting.first;
	uint32_t n = 0;

	if (!known(s, op)) {
		seg_count(s, &s->n.queued, (uint64_t)-1);
		seg_finish(s, queue_take(&w->waiting), -ENOENT);
		return true;
	}
	for (; op && op->kind == SEG_REMOVE && n < FORMAT_REMOVALS && known(s, op); op = op->next)
		keys[n++] = op->key;
	slot = send_removal(w, keys, n);
	if (!slot)
		return false;
	seg_count(s, &s->n.queued, 0 - (uint64_t)n);
	seg_count(s, &s->n.removed, n);
	for (struct seg_op **end = &slot->ops; n; n--) {
		*end = queue_take(&w->waiting);
		(*end)->next = NULL;
		end = &(*end)->next;
	}
	return true;
}
