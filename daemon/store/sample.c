#include "daemon/store/sample_int.h"

#include "daemon/base/check.h"
#include "daemon/base/mem.h"

#include <errno.h>
#include <string.h>

#define MAX_ROWS 65536u

int samples_create(struct samples *t, double rate, uint32_t max_objects)
{
	uint32_t rows = 64;

	memset(t, 0, sizeof(*t));
	if (!(rate > 0))
		return 0;
	while (rows < MAX_ROWS && rows < 2 * rate * max_objects)
		rows *= 2;
	t->row = mem_calloc(rows, sizeof(*t->row));
	if (!t->row)
		return -ENOMEM;
	t->mask = rows - 1;
	t->threshold = rate >= 1 ? UINT64_MAX : (uint64_t)(rate * 0x1p64);
	return 0;
}

void samples_destroy(struct samples *t)
{
	mem_free(t->row);
	memset(t, 0, sizeof(*t));
}

static uint32_t home(const struct samples *t, uint32_t obj)
{
	return (uint32_t)((obj * 0x9e3779b97f4a7c15u) >> 32) & t->mask;
}

bool samples_add(struct samples *t, uint32_t obj, uint64_t now_ms)
{
	uint32_t i = home(t, obj);

	if (t->n > t->mask / 4 * 3)
		return false;
	while (t->row[i].obj)
		i = (i + 1) & t->mask;
	t->row[i] = (struct sample){obj, now_ms, now_ms};
	t->n++;
	return true;
}

struct sample *samples_get(struct samples *t, uint32_t obj)
{
	uint32_t i = home(t, obj);

	while (t->row[i].obj != obj) {
		check(t->row[i].obj != 0);
		i = (i + 1) & t->mask;
	}
	return &t->row[i];
}

/* Closes the gap: every row behind it moves up unless that would put it before its home. */
void samples_remove(struct samples *t, uint32_t obj)
{
	uint32_t gap = (uint32_t)(samples_get(t, obj) - t->row);

	for (uint32_t i = (gap + 1) & t->mask; t->row[i].obj; i = (i + 1) & t->mask) {
		if (((i - home(t, t->row[i].obj)) & t->mask) < ((i - gap) & t->mask))
			continue;
		t->row[gap] = t->row[i];
		gap = i;
	}
	t->row[gap].obj = 0;
	t->n--;
}
