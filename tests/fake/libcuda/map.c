/* map.c - the device addresses of this process, and its handles. */
#include "tests/fake/libcuda/fake.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

bool is_device(uint64_t va)
{
	return va >= self.base && va - self.base < self.room;
}

/* The first range whose end is above va. */
static uint32_t range_index(uint64_t va)
{
	uint32_t lo = 0, hi = self.nranges;

	while (lo < hi) {
		uint32_t mid = (lo + hi) / 2;

		if (self.range[mid]->va + self.range[mid]->bytes <= va)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

struct range *range_at(uint64_t va)
{
	uint32_t i = range_index(va);

	return i < self.nranges && self.range[i]->va <= va ? self.range[i] : NULL;
}

struct reservation *reservation_at(uint64_t va)
{
	for (uint32_t i = 0; i < self.nreservations; i++)
		if (va >= self.reservation[i].va && va - self.reservation[i].va < self.reservation[i].bytes)
			return &self.reservation[i];
	return NULL;
}

/* The lowest hole: addresses come again soon after they were given back, as the real driver's do. A granule stays free behind. */
uint64_t va_take(uint64_t bytes, uint64_t align)
{
	uint64_t at = (self.base + align - 1) / align * align;
	bool moved = true;

	bytes = (bytes + GRANULE - 1) / GRANULE * GRANULE + GRANULE;
	while (moved) {
		uint32_t i = range_index(at);
		uint64_t next = at;

		moved = false;
		if (i < self.nranges && self.range[i]->va < at + bytes)
			next = self.range[i]->va + self.range[i]->bytes + GRANULE;
		for (i = 0; i < self.nreservations && next == at; i++)
			if (self.reservation[i].va < at + bytes &&
			    at < self.reservation[i].va + self.reservation[i].bytes + GRANULE)
				next = self.reservation[i].va + self.reservation[i].bytes + GRANULE;
		if (next != at) {
			at = (next + align - 1) / align * align;
			moved = true;
		}
	}
	return at + bytes <= self.base + self.room ? at : 0;
}

struct range *range_add(uint64_t va, uint64_t bytes, enum range_kind kind)
{
	struct range *r;
	uint32_t i;

	if (self.nranges == self.ranges_cap) {
		uint32_t cap = self.ranges_cap ? self.ranges_cap * 2 : 64;
		struct range **bigger = realloc(self.range, cap * sizeof(struct range *));

		if (!bigger)
			return NULL;
		self.range = bigger;
		self.ranges_cap = cap;
	}
	r = calloc(1, sizeof(*r));
	if (!r)
		return NULL;
	*r = (struct range){.va = va, .bytes = bytes, .kind = kind, .refs = 1};
	i = range_index(va);
	memmove(&self.range[i + 1], &self.range[i], (self.nranges - i) * sizeof(struct range *));
	self.range[i] = r;
	self.nranges++;
	return r;
}

void range_put(struct range *r)
{
	if (--r->refs)
		return;
	if (r->mapped)
		munmap(r->host, r->mapped);
	free(r);
}

void range_remove(struct range *r)
{
	uint32_t i = range_index(r->va);

	memmove(&self.range[i], &self.range[i + 1], (self.nranges - i - 1) * sizeof(struct range *));
	self.nranges--;
	r->gone = true;
	range_put(r);
}

bool device_range(uint64_t va, uint64_t bytes)
{
	bool ok = true;

	pthread_mutex_lock(&self.lk);
	do {
		struct range *r = range_at(va);
		uint64_t n;

		ok = r && r->access && (r->kind != RANGE_VMM || !current || r->gpus >> current->gpu & 1);
		if (!ok)
			break;
		n = r->va + r->bytes - va;
		n = n < bytes ? n : bytes;
		va += n;
		bytes -= n;
	} while (bytes);
	pthread_mutex_unlock(&self.lk);
	return ok;
}

char *device_hold(uint64_t va, uint64_t *bytes, struct range **held)
{
	struct range *r;
	char *p = NULL;

	pthread_mutex_lock(&self.lk);
	r = range_at(va);
	if (r && r->access) {
		uint64_t n = r->va + r->bytes - va;

		r->refs++;
		*held = r;
		*bytes = *bytes < n ? *bytes : n;
		p = r->host + (va - r->va);
	}
	pthread_mutex_unlock(&self.lk);
	return p;
}

void device_release(struct range *held)
{
	pthread_mutex_lock(&self.lk);
	range_put(held);
	pthread_mutex_unlock(&self.lk);
}

/* ---- handles: numbers that look like pointers and cannot be followed ------------------------------------------------------ */

uint64_t handle_make(enum object_kind kind, void *object)
{
	uint32_t i = self.free_hint;

	while (i < self.nhandles && self.handle[i].kind)
		i++;
	if (i == self.handles_cap) {
		uint32_t cap = self.handles_cap ? self.handles_cap * 2 : 256;
		struct handle_slot *bigger = realloc(self.handle, cap * sizeof(*bigger));

		if (!bigger)
			return 0;
		memset(bigger + self.handles_cap, 0, (cap - self.handles_cap) * sizeof(*bigger));
		self.handle = bigger;
		self.handles_cap = cap;
	}
	self.nhandles = i >= self.nhandles ? i + 1 : self.nhandles;
	self.free_hint = i + 1;
	self.handle[i].kind = kind;
	self.handle[i].gen = (self.handle[i].gen + 1) & 0xffff;
	self.handle[i].object = object;
	return 0x5a00000000000000ull | (uint64_t)self.handle[i].gen << 32 | (i + 1);
}

static struct handle_slot *slot_of(const void *handle)
{
	uint64_t h = (uint64_t)(uintptr_t)handle;
	uint32_t i = (uint32_t)h - 1;

	if (h >> 48 != 0x5a00 || i >= self.nhandles || self.handle[i].gen != (h >> 32 & 0xffff) || !self.handle[i].kind)
		return NULL;
	return &self.handle[i];
}

void *handle_find(enum object_kind kind, const void *handle)
{
	struct handle_slot *s = slot_of(handle);

	return s && s->kind == kind ? s->object : NULL;
}

void handle_free(const void *handle)
{
	struct handle_slot *s = slot_of(handle);
	uint32_t i;

	if (!s)
		return;
	s->kind = OBJ_NONE;
	s->object = NULL;
	i = (uint32_t)(s - self.handle);
	self.free_hint = i < self.free_hint ? i : self.free_hint;
}
