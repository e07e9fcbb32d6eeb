#include "daemon/tier/sketch_int.h"

#include "daemon/base/mem.h"

#include <stdatomic.h>
#include <string.h>

#define ROWS  4u
#define WIDTH (1u << 18)
#define MOST  15u
#define ALIVE (ROWS * (uint64_t)WIDTH / 2)

struct sketch {
	_Atomic uint64_t touches;
	_Atomic uint8_t cell[ROWS][WIDTH];
};

struct sketch *sketch_create(void)
{
	return mem_calloc(1, sizeof(struct sketch));
}

void sketch_destroy(struct sketch *s)
{
	mem_free(s);
}

static void halve(struct sketch *s)
{
	for (uint32_t r = 0; r < ROWS; r++) {
		for (uint32_t i = 0; i < WIDTH; i++) {
			uint8_t v = atomic_load_explicit(&s->cell[r][i], memory_order_relaxed);
			if (v)
				atomic_store_explicit(&s->cell[r][i], v / 2, memory_order_relaxed);
		}
	}
}

/* The hash is a good one already (or its first 8 bytes are): each row takes other bits of it, stirred with the name. */
uint32_t sketch_touch(struct sketch *s, uint32_t name, const struct store_hash *hash)
{
	uint32_t least = MOST;
	uint64_t w[2], mix;

	memcpy(w, hash->b, sizeof(w));
	mix = (w[0] ^ name) * 0x9e3779b97f4a7c15u ^ w[1];
	for (uint32_t r = 0; r < ROWS; r++) {
		_Atomic uint8_t *c = &s->cell[r][(mix >> 40) % WIDTH];
		uint32_t v = atomic_load_explicit(c, memory_order_relaxed);

		if (v < MOST)
			atomic_store_explicit(c, (uint8_t)++v, memory_order_relaxed);
		least = v < least ? v : least;
		mix = (mix ^ (mix >> 32)) * 0xd6e8feb86659fd93u;
	}
	if (atomic_fetch_add_explicit(&s->touches, 1, memory_order_relaxed) % ALIVE == ALIVE - 1)
		halve(s);
	return least;
}
