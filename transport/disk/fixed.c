/* fixed.c - which memory is registered as fixed buffers. A ring's table has an entry for each piece of the caller's buffers from the start;
 * a piece is registered once all of it is there, since registering a page commits it, and until then its IO goes without.
 */
#include "transport/disk/disk_int.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#define PIECE_MIN (64ull << 20) /* of a buffer that grows, of small pages: a millisecond of registering */
#define MANY      (DISK_MAX_FIXED / 2)
#define SLICE_NS  1000000ull /* of registering at a time; then IO is served for */
#define REST      3u         /* times as long */
#define LOOK_NS   1000000ull /* how soon to look for more: at first, and at last */
#define LOOK_MAX  1000000000ull

static int by_address(const void *a, const void *b)
{
	const struct disk_growing *x = a, *y = b;
	uintptr_t m = (uintptr_t)x->buffer.base, n = (uintptr_t)y->buffer.base;

	return m < n ? -1 : m > n;
}

/* Kernels before 6.12 keep a registered buffer as single pages of 4 KiB, whatever it is made of, so its IO has a segment for each. */
static bool kernel_joins_pages(void)
{
	struct utsname u;
	unsigned major = 0, minor = 0;

	return uname(&u) == 0 && sscanf(u.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 6 || (major == 6 && minor >= 12));
}

/* Page size of the mapping that holds `p`, as the kernel says; what it does not say is DISK_ALIGN. Transparent huge pages are not
 * looked for: they may be split at any time. */
static uint64_t page_bytes(const void *p)
{
	FILE *f = fopen("/proc/self/smaps", "re");
	char line[512];
	unsigned long long from, to, kb, found = DISK_ALIGN;
	bool here = false;

	if (!f)
		return found;
	while (fgets(line, sizeof line, f)) {
		if (sscanf(line, "%llx-%llx ", &from, &to) == 2)
			here = (uintptr_t)p >= from && (uintptr_t)p < to;
		else if (here && sscanf(line, "KernelPageSize: %llu kB", &kb) == 1) {
			found = kb << 10;
			break;
		}
	}
	fclose(f);
	return found;
}

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

static uint64_t there(const struct disk_buffer *b)
{
	return b->there ? b->there(b->ctx, b->index) : b->bytes;
}

static uint64_t count(const struct disk *d, uint64_t piece)
{
	uint64_t sum = 0;

	for (uint32_t i = 0; i < d->ngrowing; i++) {
		uint64_t each = d->growing[i].small ? piece : DISK_FIXED;

		sum += (d->growing[i].buffer.bytes + each - 1) / each;
	}
	return sum;
}

static int take_buffers(struct disk *d, const struct disk_conf *conf, struct why *why)
{
	d->growing = mem_calloc(conf->nbuffers, sizeof *d->growing);
	if (!d->growing)
		return why_set(why, -ENOMEM, "no memory for a table of buffers");
	for (uint32_t i = 0; i < conf->nbuffers; i++) {
		const struct disk_buffer *b = &conf->buffers[i];

		if (!b->base || !b->bytes || ((uintptr_t)b->base | b->bytes) % DISK_ALIGN || b->bytes >> 46)
			return why_set(why, -EINVAL, "buffer %u of the disk is not made of whole pages of 4 KiB", i);
		d->growing[i] = (struct disk_growing){.buffer = *b, .small = there(b) < b->bytes};
		d->asked_total += b->bytes;
	}
	d->ngrowing = conf->nbuffers;
	qsort(d->growing, d->ngrowing, sizeof *d->growing, by_address);
	if (count(d, DISK_FIXED) > DISK_MAX_FIXED)
		return why_set(why, -E2BIG, "%llu GiB are more than the %u GiB a ring can register",
			       (unsigned long long)count(d, DISK_FIXED), DISK_MAX_FIXED);
	return 0;
}

static void add_pieces(struct disk *d, struct disk_growing *g, uint64_t piece, uint32_t step)
{
	uint8_t *base = g->buffer.base;

	g->next = d->nfixed;
	for (uint64_t left = g->buffer.bytes, n; left; left -= n, base += n) {
		n = left < piece ? left : piece;
		d->fixed[d->nfixed++] = (struct disk_fixed){.base = base, .bytes = n, .step = step};
	}
	g->end = d->nfixed;
}

int disk_fixed_make(struct disk *d, const struct disk_conf *conf, struct why *why)
{
	bool joins = kernel_joins_pages();
	uint64_t piece = PIECE_MIN;
	int rc = conf->nbuffers ? take_buffers(d, conf, why) : 0;

	if (rc || !conf->nbuffers)
		return rc;
	while (piece < DISK_FIXED && count(d, piece) > MANY)
		piece *= 2;
	d->fixed = mem_calloc(count(d, piece), sizeof *d->fixed);
	if (!d->fixed)
		return why_set(why, -ENOMEM, "no memory for a table of buffers");
	for (uint32_t i = 0; i < d->ngrowing; i++) {
		struct disk_growing *g = &d->growing[i];

		add_pieces(d, g, g->small ? piece : DISK_FIXED,
			   disk_step(&d->facts, d->sub_bytes, joins ? page_bytes(g->buffer.base) : DISK_ALIGN));
	}
	return 0;
}

void disk_fixed_drop(struct disk *d)
{
	mem_free(d->fixed);
	mem_free(d->growing);
	d->fixed = NULL;
	d->growing = NULL;
	d->nfixed = d->ngrowing = 0;
}

/* ---- registering ---------------------------------------------------------------------------------------------------------- */

/* The next piece of a buffer, where all of it is there. */
static struct disk_fixed *next_of(const struct disk *d, const struct disk_growing *g)
{
	struct disk_fixed *f = &d->fixed[g->next];

	return (uint64_t)(f->base - (uint8_t *)g->buffer.base) + f->bytes <= there(&g->buffer) ? f : NULL;
}

static int fix(struct disk *d, struct disk_fixed *f, struct why *why)
{
	int rc = d->ops->fix ? d->ops->fix(d->engine, (uint32_t)(f - d->fixed), f->base, f->bytes, why) : 0;

	if (rc)
		return rc;
	f->registered = true;
	disk_add(&d->n.fixed_memory, f->bytes);
	return 0;
}

static void give_up(struct disk *d, const struct why *why)
{
	log_warn("%s: only %.1f of %.1f MiB are registered as fixed buffers, IO elsewhere goes without: %s",
		 d->facts.path,
		 (double)atomic_load_explicit(&d->n.fixed_memory, memory_order_relaxed) / (double)(1u << 20),
		 (double)d->asked_total / (double)(1u << 20), why->text);
	d->ngrowing = 0;
}

/* The next piece of this buffer. False: there is none to take now. */
static bool step_on(struct disk *d, struct disk_growing *g)
{
	struct disk_fixed *f = next_of(d, g);
	struct why why = {0};

	if (!f)
		return false;
	if (fix(d, f, &why))
		give_up(d, &why);
	else if (++g->next == g->end)
		*g = d->growing[--d->ngrowing];
	return true;
}

void disk_fixed_begin(struct disk *d)
{
	for (uint32_t i = 0; i < d->ngrowing;)
		if (d->growing[i].buffer.there || !step_on(d, &d->growing[i]))
			i++;
	d->look_ns = LOOK_NS;
}

void disk_fixed_grow(struct disk *d)
{
	uint64_t start, now;
	bool some = false;

	if (!d->ngrowing)
		return;
	start = now = disk_now(d);
	if (now < d->fix_at)
		return;
	for (uint32_t i = 0; i < d->ngrowing && now - start < SLICE_NS; now = disk_now(d))
		if (step_on(d, &d->growing[i]))
			some = true;
		else
			i++;
	if (some) {
		d->look_ns = LOOK_NS;
		d->look_at = d->fix_at = now + (d->pending ? REST * (now - start) : 0);
	} else if (now >= d->look_at) {
		d->look_ns = d->look_ns * 2 < LOOK_MAX ? d->look_ns * 2 : LOOK_MAX;
		d->look_at = now + d->look_ns;
	}
}

uint64_t disk_fixed_due(const struct disk *d)
{
	return d->ngrowing ? d->look_at : UINT64_MAX;
}
