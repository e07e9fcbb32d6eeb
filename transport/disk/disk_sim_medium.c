#include "transport/disk/disk_sim_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

uint64_t sim_chance(struct disk_sim *s, enum chance which)
{
	uint64_t z = s->rnd[which] += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

uint64_t sim_below(struct disk_sim *s, enum chance which, uint64_t n)
{
	return n ? sim_chance(s, which) % n : 0;
}

bool sim_strikes(struct disk_sim *s, enum chance which, double p)
{
	return p > 0 && (double)(sim_chance(s, which) >> 11) * 0x1p-53 < p;
}

/* ---- the medium and its volatile cache ---------------------------------------------------------------------------------- */

static void mark(struct disk_sim *s, uint64_t offset, uint64_t bytes, uint8_t value)
{
	if (bytes)
		memset(s->damage + offset / DISK_ALIGN, value,
		       (offset + bytes - 1) / DISK_ALIGN - offset / DISK_ALIGN + 1);
}

static uint64_t ring_tail(const struct disk_sim *s)
{
	return s->undo_first == s->undo_end ? s->ring_end : s->undo[s->undo_first % s->undo_cap].at;
}

/* The oldest writes up to number `last` become durable. */
void sim_settle(struct disk_sim *s, uint64_t last)
{
	while (s->undo_first != s->undo_end && s->undo[s->undo_first % s->undo_cap].number <= last)
		s->undo_first++;
}

/* Remembers what [offset, offset + bytes) holds before it is overwritten. */
static void remember(struct disk_sim *s, uint64_t offset, uint32_t bytes)
{
	uint64_t blocks = bytes / DISK_ALIGN, need = bytes + blocks;
	struct undo *u;

	check(need <= s->ring_bytes);
	if (s->ring_end % s->ring_bytes + need > s->ring_bytes)
		s->ring_end += s->ring_bytes - s->ring_end % s->ring_bytes;
	/* A full cache writes its oldest data out. */
	while (s->undo_first != s->undo_end &&
	       (s->ring_end + need - ring_tail(s) > s->ring_bytes || s->undo_end - s->undo_first == s->undo_cap))
		s->undo_first++;
	u = &s->undo[s->undo_end++ % s->undo_cap];
	*u = (struct undo){.offset = offset, .at = s->ring_end, .number = s->writes, .bytes = bytes};
	memcpy(s->ring + u->at % s->ring_bytes, s->medium + offset, bytes);
	memcpy(s->ring + u->at % s->ring_bytes + bytes, s->damage + offset / DISK_ALIGN, blocks);
	s->ring_end += need;
}

/* Copies a random part of `bytes` in pieces of 512 bytes or 4 KiB: the front, the back, or any pieces. */
static void copy_part(struct disk_sim *s, enum chance which, uint8_t *to, const uint8_t *from, uint64_t bytes)
{
	uint64_t grain = sim_chance(s, which) & 1 ? 512 : DISK_ALIGN, n = bytes / grain,
		 cut = sim_below(s, which, n + 1);
	uint64_t style = sim_below(s, which, 3);

	for (uint64_t i = 0; i < n; i++) {
		bool copied = style == 0 ? i < cut : style == 1 ? i >= cut : sim_chance(s, which) & 1;
		if (copied)
			memcpy(to + i * grain, from + i * grain, grain);
	}
}

/* Takes a write back, or a part of it. */
static void take_back(struct disk_sim *s, const struct undo *u, bool torn)
{
	const uint8_t *old = s->ring + u->at % s->ring_bytes;

	if (torn) {
		copy_part(s, CHANCE_CRASH, s->medium + u->offset, old, u->bytes);
		s->n.torn_writes++;
		return;
	}
	memcpy(s->medium + u->offset, old, u->bytes);
	memcpy(s->damage + u->offset / DISK_ALIGN, old + u->bytes, u->bytes / DISK_ALIGN);
	s->n.lost_writes++;
}

void sim_store(struct disk_sim *s, const struct flight *f, bool cached)
{
	const struct disk_sub *sub = f->sub;
	uint64_t at = sub->offset, bytes = sim_bytes(sub);

	if (f->fault == SIM_DROPPED) {
		mark(s, at, bytes, 1);
		return;
	}
	if (f->fault == SIM_MISDIRECTED) {
		mark(s, at, bytes, 1);
		at = DISK_ALIGN * sim_below(s, CHANCE_FAULT, (s->conf.bytes - bytes) / DISK_ALIGN + 1);
	}
	s->writes++;
	if (cached)
		remember(s, at, (uint32_t)bytes);
	if (at + bytes > s->n.highest_byte)
		s->n.highest_byte = at + bytes;
	if (f->fault == SIM_TORN || f->fault == SIM_WRITE_ERROR)
		copy_part(s, CHANCE_FAULT, s->medium + at, sub->buf, bytes);
	else
		memcpy(s->medium + at, sub->buf, bytes);
	if (f->fault == SIM_ROT_WRITE)
		s->medium[at + sim_below(s, CHANCE_FAULT, bytes)] ^= (uint8_t)(1u << sim_below(s, CHANCE_FAULT, 8));
	mark(s, at, bytes,
	     f->fault == SIM_ROT_WRITE || f->fault == SIM_MISDIRECTED || f->fault == SIM_TORN ||
		     f->fault == SIM_WRITE_ERROR);
}

/* What a discarded range reads as is up to the device. It is not taken back by a crash: older undo data may come over it, which is as good
 * a content as any. */
void sim_discard(struct disk_sim *s, const struct disk_sub *sub)
{
	if (sim_chance(s, CHANCE_FAULT) & 1)
		memset(s->medium + sub->offset, 0, sim_bytes(sub));
	s->n.discarded_bytes += sim_bytes(sub);
	s->n.discards++;
}

void sim_lose(struct disk_sim *s)
{
	static const double kept[] = {0, 0.2, 0.5, 0.9, 1};
	double whole = kept[sim_below(s, CHANCE_CRASH, 5)], torn = kept[sim_below(s, CHANCE_CRASH, 5)];

	/* Newest first: each piece then holds one of the contents that it had since the last flush. */
	while (s->undo_end != s->undo_first) {
		const struct undo *u = &s->undo[--s->undo_end % s->undo_cap];
		if (!sim_strikes(s, CHANCE_CRASH, whole))
			take_back(s, u, sim_strikes(s, CHANCE_CRASH, torn));
	}
}

static void *memory(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return p == MAP_FAILED ? NULL : p;
}

int sim_medium_create(struct disk_sim *s)
{
	/* Room for the largest write wherever the ring's end is. */
	s->ring_bytes = s->conf.cache_bytes + 2 * (DISK_SUB_MAX + DISK_SUB_MAX / DISK_ALIGN);
	s->undo_cap = (uint32_t)(s->conf.cache_bytes / DISK_ALIGN) + 64;
	s->medium = memory(s->conf.bytes);
	s->ring = memory(s->ring_bytes);
	s->damage = mem_calloc(s->conf.bytes / DISK_ALIGN, 1);
	s->undo = mem_calloc(s->undo_cap, sizeof(*s->undo));
	return s->medium && s->ring && s->damage && s->undo ? 0 : -ENOMEM;
}

void sim_medium_destroy(struct disk_sim *s)
{
	if (s->medium)
		munmap(s->medium, s->conf.bytes);
	if (s->ring)
		munmap(s->ring, s->ring_bytes);
	mem_free(s->damage);
	mem_free(s->undo);
}

uint8_t *disk_sim_medium(struct disk_sim *s)
{
	return s->medium;
}

bool disk_sim_damaged(const struct disk_sim *s, uint64_t offset, uint64_t bytes)
{
	check(bytes && bytes <= s->conf.bytes && offset <= s->conf.bytes - bytes);
	return memchr(s->damage + offset / DISK_ALIGN, 1, (offset + bytes - 1) / DISK_ALIGN - offset / DISK_ALIGN + 1);
}

void disk_sim_mark_damaged(struct disk_sim *s, uint64_t offset, uint64_t bytes)
{
	check(bytes && bytes <= s->conf.bytes && offset <= s->conf.bytes - bytes);
	mark(s, offset, bytes, 1);
}
