/* recover_super.c - which superblock counts: the newest epoch that two copies agree upon, else the newest that is whole.
 *
 * A clear writes copy after copy, so a crash may leave two epochs on the medium; the one with two copies is the one that was either
 * acknowledged or not yet begun. Copies 2 and 3 are where the geometry says: of the first two, else of the device.
 */
#include "daemon/seg/recover_int.h"

#include <errno.h>
#include <string.h>

#define FOUND_MAX 16u

struct found {
	uint32_t copy;
	struct format_super super;
};

struct finder {
	super_read read;
	void *ctx, *block;
	struct found found[FOUND_MAX];
	uint32_t n;
	bool any_read;
	uint32_t other_version;
};

static bool same(const struct format_super *a, const struct format_super *b)
{
	return memcmp(a->uuid, b->uuid, sizeof(a->uuid)) == 0 && a->epoch == b->epoch && a->bytes == b->bytes &&
	       a->segment_bytes == b->segment_bytes && a->created_s == b->created_s;
}

static bool look(struct finder *f, uint32_t copy, uint64_t offset)
{
	struct format_super s;

	if (f->read(f->ctx, offset, f->block))
		return false;
	f->any_read = true;
	int rc = format_super_decode(f->block, copy, &s);
	if (rc == -EPROTONOSUPPORT)
		f->other_version = format_super_version(f->block);
	if (rc || format_super_at(&s, copy) != offset || f->n == FOUND_MAX)
		return false;
	f->found[f->n++] = (struct found){copy, s};
	return true;
}

static bool seen(const struct finder *f, uint32_t copy, const struct format_super *like)
{
	for (uint32_t i = 0; i < f->n; i++)
		if (f->found[i].copy == copy &&
		    format_super_at(&f->found[i].super, copy) == format_super_at(like, copy))
			return true;
	return false;
}

/* Without copies 0 and 1 the geometry is unknown: the end of the device tells it, or trying the usual segment sizes. */
static void look_far(struct finder *f, uint64_t device_bytes)
{
	struct format_super s;

	device_bytes -= device_bytes % FORMAT_BLOCK;
	if (device_bytes < FORMAT_DATA + FORMAT_RESERVED || look(f, 3, device_bytes - FORMAT_RESERVED))
		return;
	for (uint64_t segment = FORMAT_MIN_SEGMENT; segment <= FORMAT_MAX_SEGMENT; segment *= 2)
		if (format_geometry(device_bytes, segment, &s) == 0 && look(f, 2, format_super_at(&s, 2)))
			return;
}

static uint32_t agreeing(const struct finder *f, const struct format_super *s)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < f->n; i++)
		n += same(&f->found[i].super, s);
	return n;
}

static bool newer(const struct format_super *a, const struct format_super *b)
{
	return a->epoch != b->epoch ? a->epoch > b->epoch : a->created_s > b->created_s;
}

/* Of one at least. */
static void choose(const struct finder *f, struct super_found *out)
{
	const struct format_super *best = &f->found[0].super;
	uint32_t best_n = agreeing(f, best);

	for (uint32_t i = 1; i < f->n; i++) {
		const struct format_super *s = &f->found[i].super;
		uint32_t n = agreeing(f, s);

		if ((n >= 2) > (best_n >= 2) || ((n >= 2) == (best_n >= 2) && newer(s, best))) {
			best = s;
			best_n = n;
		}
	}
	*out = (struct super_found){.super = *best, .good = best_n, .agreed = best_n >= 2};
	for (uint32_t i = 0; i < f->n; i++) {
		const struct found *c = &f->found[i];

		if (same(&c->super, best))
			out->is_good[c->copy] = true;
		if (memcmp(c->super.uuid, best->uuid, sizeof(best->uuid)) == 0 && c->super.epoch > out->newest)
			out->newest = c->super.epoch;
	}
}

int super_find(super_read read, void *ctx, uint64_t device_bytes, void *block, struct super_found *out)
{
	struct finder f = {.read = read, .ctx = ctx, .block = block};

	look(&f, 0, 0);
	look(&f, 1, FORMAT_DATA / 2);
	if (f.n == 0)
		look_far(&f, device_bytes);
	/* Each geometry that was met says where its other copies are; what they say is no new geometry, or they would not be there. */
	for (uint32_t i = 0, n = f.n; i < n; i++)
		for (uint32_t copy = 2; copy < FORMAT_SUPERS; copy++) {
			const struct format_super s = f.found[i].super;

			if (!seen(&f, copy, &s) && format_super_at(&s, copy) <= device_bytes - FORMAT_BLOCK)
				look(&f, copy, format_super_at(&s, copy));
		}
	*out = (struct super_found){.other_version = f.other_version};
	if (f.n == 0)
		return f.other_version ? -EPROTONOSUPPORT : f.any_read ? -ENOENT : -EIO;
	choose(&f, out);
	return 0;
}
