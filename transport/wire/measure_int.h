/* measure_int.h - the vector part of msgpack_run.c, included there once per vector width.
 *
 * For a second width the includer defines LANES (bytes per vector), TARGET (function attributes) and AS(name), which makes
 * names unique, before it includes this again; the first inclusion is the 16-byte form every CPU has.
 */
#ifndef TRANSPORT_WIRE_MEASURE_INT_H
#define TRANSPORT_WIRE_MEASURE_INT_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define WINDOW  512 /* bytes measured at a time */
#define GRAIN   32  /* the widest vector: windows are whole multiples */
#define LONGEST 5   /* bytes of ce xxxxxxxx */

struct window {
	uint8_t one[WINDOW + GRAIN]; /* width of an integer that starts here; 0 = none of the four forms */
	uint8_t two[WINDOW];         /* width of it and of the next; 0 = one of them is none of the four forms */
};

#define LANES 16
#define TARGET
#define AS(name) name##_16
#endif

typedef uint8_t AS(lanes) __attribute__((vector_size(LANES)));
typedef int8_t AS(signed_lanes) __attribute__((vector_size(LANES)));

TARGET static inline AS(lanes) AS(load)(const uint8_t *p)
{
	AS(lanes) v;

	memcpy(&v, p, sizeof(v));
	return v;
}

/* Width of the integer that starts at each byte, as if one did; 0 = none of the four forms. */
TARGET static inline AS(lanes) AS(width_of)(AS(lanes) b)
{
	return ((AS(lanes))((AS(signed_lanes))b >= 0) & 1) | ((AS(lanes))(b == 0xcc) & 2) |
	       ((AS(lanes))(b == 0xcd) & 3) | ((AS(lanes))(b == 0xce) & LONGEST);
}

/* Width of the integer that would follow, given the widths here. */
TARGET static inline AS(lanes) AS(width_of_next)(const uint8_t *at, AS(lanes) here)
{
	return ((AS(lanes))(here == 1) & AS(load)(at + 1)) | ((AS(lanes))(here == 2) & AS(load)(at + 2)) |
	       ((AS(lanes))(here == 3) & AS(load)(at + 3)) | ((AS(lanes))(here == LONGEST) & AS(load)(at + LONGEST));
}

/* Fills both tables for p[0..n), n a multiple of LANES. */
TARGET static void AS(measure)(struct window *w, const uint8_t *p, size_t n)
{
	AS(lanes) v = {0};

	memcpy(w->one + n, &v, sizeof(v));
	for (size_t i = 0; i < n; i += LANES) {
		v = AS(width_of)(AS(load)(p + i));
		memcpy(w->one + i, &v, sizeof(v));
	}
	for (size_t i = 0; i < n; i += LANES) {
		AS(lanes) here = AS(load)(w->one + i);
		AS(lanes) next = AS(width_of_next)(w->one + i, here);

		v = (here + next) & (AS(lanes))(next != 0);
		memcpy(w->two + i, &v, sizeof(v));
	}
}

#undef LANES
#undef TARGET
#undef AS
