/* msgpack.h - a bounded streaming msgpack reader and a writer with msgspec's choices of encoding.
 *
 * Reader: never allocates, never recurses more than MP_MAX_DEPTH (in mp_skip), checks every length against what is
 * left before using it. The first failure sticks: `err` is set, every later call returns false/zero, so a decoder may
 * check once at its end. Integers are accepted in any width; bool, str, bin are strict.
 * Writer: writes the most compact form (as msgspec 0.21 does); `overflow` sticks instead of writing past `end`.
 * Source: msgpack specification; shared protocol reference section 3. Threads: any, one reader per thread.
 */
#ifndef TRANSPORT_WIRE_MSGPACK_H
#define TRANSPORT_WIRE_MSGPACK_H

#include "daemon/base/slice.h"

#include <stdbool.h>
#include <stdint.h>

#define MP_MAX_DEPTH 16

enum mp_type { MP_END, MP_UINT, MP_INT, MP_BOOL, MP_NIL, MP_FLOAT, MP_STR, MP_BIN, MP_ARRAY, MP_MAP, MP_EXT, MP_BAD };

struct mp_in {
	const uint8_t *p;
	const uint8_t *end;
	const char *err; /* NULL while good; else what was wrong (constant text) */
};

/* Value of `err` when something well formed was larger than the caller allows; compare by address. */
extern const char mp_err_bound[];

static inline struct mp_in mp_in(struct slice s)
{
	const uint8_t *p = s.p;
	return (struct mp_in){p, s.n ? p + s.n : p, NULL};
}

/* Type of the next item without consuming it. MP_INT only for negative fixint and signed forms. */
enum mp_type mp_peek(const struct mp_in *in);

bool mp_uint(struct mp_in *in, uint64_t max, uint64_t *out); /* non-negative, <= max; signed forms accepted when >= 0 */
bool mp_int(struct mp_in *in, int64_t *out);
bool mp_bool(struct mp_in *in, bool *out);
bool mp_nil(struct mp_in *in);                 /* consumes a nil or fails */
bool mp_double(struct mp_in *in, double *out); /* float32, float64 and integers */
bool mp_str(struct mp_in *in, size_t max, struct slice *out);
bool mp_bin(struct mp_in *in, size_t max, struct slice *out);
bool mp_ext(struct mp_in *in, int8_t code, size_t max, struct slice *out);
/* Element counts are checked against the bytes left (each element takes at least one). */
bool mp_array(struct mp_in *in, uint32_t max, uint32_t *out);
bool mp_map(struct mp_in *in, uint32_t max, uint32_t *out);
bool mp_skip(struct mp_in *in); /* one item of any type, nested to MP_MAX_DEPTH */
/* True when everything was consumed and nothing failed. */
bool mp_done(struct mp_in *in);
bool mp_fail(struct mp_in *in, const char *err); /* sets err if unset; returns false */

/* Decodes `n` non-negative integers below 2^32 in a row: the hot loop for token ids and block ids. */
bool mp_u32_run(struct mp_in *in, uint32_t n, uint32_t *out);

struct mp_out {
	uint8_t *p;
	uint8_t *end;
	bool overflow;
};

static inline struct mp_out mp_out(void *buf, size_t cap)
{
	return (struct mp_out){buf, (uint8_t *)buf + cap, false};
}

void mp_put_uint(struct mp_out *out, uint64_t v);
void mp_put_int(struct mp_out *out, int64_t v);
void mp_put_bool(struct mp_out *out, bool v);
void mp_put_nil(struct mp_out *out);
void mp_put_double(struct mp_out *out, double v);
void mp_put_str(struct mp_out *out, struct slice s);
void mp_put_cstr(struct mp_out *out, const char *s);
void mp_put_bin(struct mp_out *out, struct slice s);
void mp_put_bin_head(struct mp_out *out, size_t n); /* the caller appends n bytes itself */
void mp_put_ext(struct mp_out *out, int8_t code, struct slice s);
void mp_put_array(struct mp_out *out, uint32_t n);
void mp_put_map(struct mp_out *out, uint32_t n);
void mp_put_raw(struct mp_out *out, struct slice s);

#endif
