/* request_fuzz - requests and replies of every dialect. What decodes must survive being written and read again.
 *
 * Input: dialect, request number, options, then frames, each behind two bytes of length (little-endian; the last may be
 * short). Options: bits 0-2 choose the marks, bit 6 a prefix hook that believes nothing it says, bit 7 means a reply.
 */
#include "daemon/base/check.h"
#include "tests/fuzz/request_equal.h"

#include <errno.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MAX_FRAMES (WIRE_MAX_PAYLOAD_FRAMES + 4) /* a few more than any request has */
#define MAX_TOKENS 20000

struct tools {
	struct wire_scratch *first[8], *second[8];
	uint8_t *out, *out2;
	size_t cap;
};

static void liar(void *ctx, const uint8_t *raw, size_t avail, uint32_t count, uint32_t *tokens, size_t *bytes)
{
	const uint8_t *lie = ctx;

	(void)raw;
	*tokens = lie[0] & 1 ? count + lie[1] : lie[1] * 4u;
	*bytes = lie[0] & 2 ? avail + lie[2] : lie[2];
}

static struct tools *open_tools(void)
{
	static const uint32_t marks[8] = {0, 1, 2, 4, 16, 17, 256, 5000};
	struct tools *t = calloc(1, sizeof(*t));

	for (int i = 0; i < 8; i++) {
		check(wire_scratch_create(MAX_TOKENS, marks[i], &t->first[i]) == 0);
		check(wire_scratch_create(MAX_TOKENS, marks[i], &t->second[i]) == 0);
	}
	t->cap = 4u << 20;
	t->out = malloc(t->cap);
	t->out2 = malloc(t->cap);
	return t;
}

/* Frames as blocks of their own, so that ASan sees a read past any of them. */
static size_t split(const uint8_t *data, size_t size, struct slice frames[MAX_FRAMES])
{
	size_t n = 0;

	while (size >= 2 && n < MAX_FRAMES) {
		size_t len = (size_t)data[0] | (size_t)data[1] << 8;
		uint8_t *copy;

		data += 2;
		size -= 2;
		len = len < size ? len : size;
		copy = malloc(len ? len : 1);
		memcpy(copy, data, len);
		frames[n++] = slice_of(copy, len);
		data += len;
		size -= len;
	}
	return n;
}

static void check_ids(const struct wire_req *r, const struct wire_scratch *s)
{
	const struct wire_tokens *t = &r->key.tokens;

	check(s->u32_used <= s->u32_cap);
	if (!r->has_key)
		return;
	check(t->skipped <= t->count && t->skipped_bytes <= t->raw_bytes);
	check(t->count == 0 || t->ids + (t->count - t->skipped) <= s->u32 + s->u32_used);
	check(s->mark_every == 0 || t->nmarks == (t->count - t->skipped) / s->mark_every);
	for (uint32_t k = 0; k < t->nmarks; k++)
		check(t->marks[k] > (k ? t->marks[k - 1] : t->skipped_bytes) && t->marks[k] <= t->raw_bytes);
}

static void try_request(struct tools *t, enum wire_dialect d, enum wire_op op, unsigned options,
			const struct slice *frames, size_t n)
{
	struct wire_scratch *s = t->first[options & 7];
	struct slice out[WIRE_MAX_PAYLOAD_FRAMES + 2];
	struct wire_req a, b;
	struct why why = {0};
	uint8_t lie[3] = {(uint8_t)options, (uint8_t)n, (uint8_t)(n ? frames[0].n : 0)};
	int rc;

	s->prefix = options & 0x40 ? liar : NULL;
	s->prefix_ctx = lie;
	rc = wire_request_decode(d, op, frames, n, s, &a, &why);
	check(rc == why.err);
	if (rc) {
		check(rc == -EPROTO || rc == -E2BIG || rc == -EOPNOTSUPP);
		return;
	}
	check_ids(&a, s);
	if (a.has_key && a.key.tokens.skipped)
		return;
	check(wire_request_encode(d, 7, &a, n ? n : WIRE_FRAMES_NONE, t->out, t->cap, out) == (ssize_t)n + 2);
	check(wire_request_decode(d, op, out + 2, n, t->second[options & 7], &b, &why) == 0);
	check(same_request(&a, &b));
}

static void try_reply(struct tools *t, enum wire_dialect d, enum wire_op op, struct slice payload)
{
	struct wire_reply a, b;
	struct why why = {0};
	ssize_t n, m;

	int rc = wire_reply_decode(d, op, payload, t->first[0], &a, &why);
	check(rc == why.err);
	if (rc)
		return;
	n = wire_reply_encode(&a, t->out, t->cap);
	check(n >= 0 && (size_t)n <= wire_reply_bound(&a));
	check(wire_reply_decode(d, op, n ? slice_of(t->out, (size_t)n) : (struct slice){0}, t->second[0], &b, &why) ==
	      0);
	check(a.kind == b.kind);
	m = wire_reply_encode(&b, t->out2, t->cap);
	check(m == n && memcmp(t->out, t->out2, (size_t)n) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct tools *tools;
	struct slice frames[MAX_FRAMES];

	if (!tools)
		tools = open_tools();
	if (size < 3)
		return 0;
	enum wire_dialect d = (enum wire_dialect)(data[0] % WIRE_DIALECT_COUNT);
	enum wire_op op = wire_dialect_op(d, data[1]);
	size_t n = split(data + 3, size - 3, frames);
	if (data[2] & 0x80)
		try_reply(tools, d, op, n ? frames[0] : (struct slice){0});
	else
		try_request(tools, d, op, data[2], frames, n);
	if (n > 0) {
		uint64_t number;
		struct slice name;
		wire_uid_decode(frames[0], &number);
		wire_type_decode(frames[0], &number, &name);
	}
	for (size_t i = 0; i < n; i++)
		free((void *)(uintptr_t)frames[i].p);
	return 0;
}
