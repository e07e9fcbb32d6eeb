#include "transport/disk/disk_int.h"

#include "daemon/base/mem.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

static int by_address(const void *a, const void *b)
{
	const struct disk_fixed *x = a, *y = b;

	return x->base < y->base ? -1 : x->base > y->base;
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

static uint32_t pieces(uint64_t bytes)
{
	return (uint32_t)((bytes + DISK_FIXED - 1) / DISK_FIXED);
}

static int count(const struct disk_conf *conf, uint32_t *out, struct why *why)
{
	uint64_t n = 0;

	for (uint32_t i = 0; i < conf->nbuffers; i++) {
		const struct disk_buffer *b = &conf->buffers[i];

		if (!b->base || !b->bytes || ((uintptr_t)b->base | b->bytes) % DISK_ALIGN || b->bytes >> 46)
			return why_set(why, -EINVAL, "buffer %u of the disk is not made of whole pages of 4 KiB", i);
		n += pieces(b->bytes);
	}
	if (n > DISK_MAX_FIXED)
		return why_set(why, -E2BIG, "%llu GiB are more than the %u GiB a ring can register",
			       (unsigned long long)n, DISK_MAX_FIXED);
	*out = (uint32_t)n;
	return 0;
}

int disk_fixed_make(const struct disk_conf *conf, const struct disk_facts *facts, uint32_t sub_bytes,
		    struct disk_fixed **out, uint32_t *n, struct why *why)
{
	bool joins = kernel_joins_pages();
	uint32_t k = 0;
	int rc = count(conf, n, why);

	*out = NULL;
	if (rc || !*n)
		return rc;
	*out = mem_calloc(*n, sizeof **out);
	if (!*out)
		return why_set(why, -ENOMEM, "no memory for a table of %u buffers", *n);
	for (uint32_t i = 0; i < conf->nbuffers; i++) {
		uint8_t *base = conf->buffers[i].base;
		uint64_t left = conf->buffers[i].bytes;
		uint32_t step = disk_step(facts, sub_bytes, joins ? page_bytes(base) : DISK_ALIGN);

		while (left) {
			uint64_t bytes = left < DISK_FIXED ? left : DISK_FIXED;

			(*out)[k++] = (struct disk_fixed){.base = base, .bytes = bytes, .step = step};
			base += bytes;
			left -= bytes;
		}
	}
	qsort(*out, k, sizeof **out, by_address);
	return 0;
}
