/* The scratch is one mapping: header, marks, wrapper slices, then the integers, with an inaccessible page behind them.
 * Nothing is touched before it is used, so capacity for the longest prompt costs address space only.
 */
#include "transport/wire/wire_int.h"

#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

/* Integers beside token and block ids: layer indices, at most one per tensor and group. */
#define OTHER_U32 (WIRE_MAX_TENSORS * 4)

static size_t round_up(size_t n, size_t to)
{
	return (n + to - 1) / to * to;
}

int wire_scratch_create(uint32_t max_tokens, uint32_t mark_every, struct wire_scratch **out)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	uint32_t cap = max_tokens < WIRE_MAX_TOKENS ? max_tokens : WIRE_MAX_TOKENS;
	size_t marks_cap = mark_every ? cap / mark_every + 1 : 0;
	size_t items_at = round_up(sizeof(struct wire_scratch), 64);
	size_t marks_at = items_at + WIRE_MAX_TENSORS * sizeof(struct slice);
	size_t u32_cap = round_up(2 * (size_t)cap + OTHER_U32, page / sizeof(uint32_t));
	size_t u32_at = round_up(marks_at + marks_cap * sizeof(uint32_t), page);
	size_t bytes = u32_at + u32_cap * sizeof(uint32_t) + page;
	uint8_t *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	struct wire_scratch *s;

	if (map == MAP_FAILED)
		return -ENOMEM;
	if (mprotect(map + bytes - page, page, PROT_NONE) != 0) {
		munmap(map, bytes);
		return -ENOMEM;
	}
	s = (struct wire_scratch *)map;
	s->u32 = (uint32_t *)(map + u32_at);
	s->u32_cap = u32_cap;
	s->items = (struct slice *)(map + items_at);
	s->mark_every = mark_every;
	s->marks = (uint32_t *)(map + marks_at);
	s->marks_cap = marks_cap;
	s->max_tokens = cap;
	s->map_bytes = bytes;
	*out = s;
	return 0;
}

void wire_scratch_destroy(struct wire_scratch *s)
{
	if (s)
		munmap(s, s->map_bytes);
}

void wire_scratch_reset(struct wire_scratch *s)
{
	s->u32_used = 0;
}

void *wire_take(struct wire_cur *c, size_t n, size_t size)
{
	struct wire_scratch *s = c->scratch;
	size_t at = round_up(s->u32_used, 2);
	size_t free_bytes = at < s->u32_cap ? (s->u32_cap - at) * sizeof(uint32_t) : 0;

	if (n > free_bytes / size) {
		mp_fail(&c->in, mp_err_bound);
		return NULL;
	}
	s->u32_used = at + (n * size + sizeof(uint32_t) - 1) / sizeof(uint32_t);
	return s->u32 + at;
}

bool wire_get_u32s(struct wire_cur *c, uint32_t n, const uint32_t **out)
{
	uint32_t *v = wire_take(c, n, sizeof(*v));

	*out = v;
	return v && mp_u32_run(&c->in, n, v);
}

void wire_put_u32s(struct wire_pen *pen, const uint32_t *v, uint32_t n)
{
	mp_put_array(&pen->out, n);
	for (uint32_t i = 0; i < n; i++)
		mp_put_uint(&pen->out, v[i]);
}
