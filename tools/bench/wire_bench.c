/* wire_bench - what decoding a request costs. Token ids are the bulk of every request: 128 k of them in a LOOKUP.
 * Compared with: a plain loop over the same reader, msgpack-c where it is installed, and a copy of the same bytes.
 */
#include "daemon/base/clock.h"
#include "daemon/base/mem.h"
#include "tools/bench/row.h"
#include "transport/wire/msgpack.h"
#include "transport/wire/wire.h"

#include <stdlib.h>

#if __has_include(<msgpack.h>)
#include <msgpack.h>
#define HAVE_MSGPACK_C 1
#endif

#define TOKENS 131072u
#define ROUNDS 40

struct bench {
	uint32_t *ids, *out;
	uint8_t *frame, *copy;
	struct slice key;      /* the key frame */
	struct slice ids_item; /* array header and ids, as one msgpack item */
	const uint8_t *raw;
	size_t raw_bytes;
	struct wire_scratch *scratch;
	struct wire_req req;
};

typedef void (*work_fn)(struct bench *b);

/* Nanoseconds of the fastest round. */
static double best_ns(struct bench *b, work_fn work, unsigned repeat)
{
	double best = 1e18;

	for (int r = 0; r < ROUNDS; r++) {
		uint64_t t = clock_ns();
		for (unsigned i = 0; i < repeat; i++)
			work(b);
		double ns = (double)(clock_ns() - t) / repeat;
		best = ns < best ? ns : best;
	}
	return best;
}

static void must(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "wire_bench: %s failed\n", what);
		exit(1);
	}
}

static void run_ours(struct bench *b)
{
	struct mp_in in = mp_in(slice_of(b->raw, b->raw_bytes));

	must(mp_u32_run(&in, TOKENS, b->out), "mp_u32_run");
}

static void run_loop(struct bench *b)
{
	struct mp_in in = mp_in(slice_of(b->raw, b->raw_bytes));
	uint64_t v = 0;

	for (uint32_t i = 0; i < TOKENS && mp_uint(&in, UINT32_MAX, &v); i++)
		b->out[i] = (uint32_t)v;
	must(mp_done(&in), "mp_uint");
}

static void run_copy(struct bench *b)
{
	memcpy(b->copy, b->raw, b->raw_bytes);
	__asm__ volatile("" : : "r"(b->copy) : "memory");
}

static void run_key(struct bench *b)
{
	struct slice frames[2] = {b->key, slice_of("\x01", 1)};

	must(wire_request_decode(WIRE_D5, WIRE_LOOKUP, frames, 2, b->scratch, &b->req, NULL) == 0, "LOOKUP");
}

#ifdef HAVE_MSGPACK_C
static void run_msgpack_c(struct bench *b)
{
	msgpack_unpacked got;
	size_t off = 0;

	msgpack_unpacked_init(&got);
	must(msgpack_unpack_next(&got, b->ids_item.p, b->ids_item.n, &off) == MSGPACK_UNPACK_SUCCESS, "msgpack-c");
	for (uint32_t i = 0; i < TOKENS; i++)
		b->out[i] = (uint32_t)got.data.via.array.ptr[i].via.u64;
	msgpack_unpacked_destroy(&got);
}
#endif

/* A LOOKUP of `n` tokens; b->key and, within it, the ids. */
static void make_key(struct bench *b, uint32_t n)
{
	static const char name[] = "token_ids";
	struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2];
	struct wire_req req = {.op = WIRE_LOOKUP, .tp_size = 1};

	req.key = (struct wire_key){.model = slice_str("meta-llama/Llama-3.1-8B-Instruct"),
				    .world_size = 1,
				    .worker_id = -1,
				    .end = n,
				    .request_id = slice_str("cmpl-8c1c2d3e4f"),
				    .has_salt = true};
	req.key.tokens.ids = b->ids;
	req.key.tokens.count = n;
	must(wire_request_encode(WIRE_D5, 1, &req, 0, b->frame, TOKENS * 5 + 4096, frames) == 4, "encode");
	b->key = frames[2];
	const uint8_t *at = memmem(b->key.p, b->key.n, name, sizeof(name) - 1);
	must(at != NULL, "token_ids");
	run_key(b);
	b->raw = b->req.key.tokens.raw;
	b->raw_bytes = b->req.key.tokens.raw_bytes;
	at += sizeof(name) - 1;
	b->ids_item = slice_of(at, (size_t)(b->raw - at) + b->raw_bytes);
}

static bool check_ids(const struct bench *b)
{
	return memcmp(b->ids, b->out, TOKENS * sizeof(*b->ids)) == 0;
}

static bool token_rows(struct bench *b)
{
	double ours = best_ns(b, run_ours, 1) / TOKENS;
	bool ok = check_ids(b);
	double loop = best_ns(b, run_loop, 1) / TOKENS;
	double copy = best_ns(b, run_copy, 1) / TOKENS;
	double key = best_ns(b, run_key, 1) / TOKENS;

	must(ok, "comparing the ids");
	ok &= bench_row("token ids, 128 k random below 128256", ours, 2.5, "ns each", "goal", ours / 2.5, "<= 1",
			ours <= 2.5);
	ok &= bench_row("token ids against a plain loop", ours, loop, "ns each", "mp_uint loop", ours / loop, "<= 0.5",
			ours <= 0.5 * loop);
#ifdef HAVE_MSGPACK_C
	double theirs = best_ns(b, run_msgpack_c, 1) / TOKENS;
	must(check_ids(b), "comparing the ids of msgpack-c");
	ok &= bench_row("token ids against msgpack-c", ours, theirs, "ns each", "msgpack-c", ours / theirs, "<= 0.5",
			ours <= 0.5 * theirs);
#endif
	ok &= bench_row("token ids against a copy of the bytes", ours, copy, "ns each", "memcpy", ours / copy, "shown",
			true);
	ok &= bench_row("whole LOOKUP request, marks included", key, ours, "ns each", "ids alone", key / ours, "<= 1.3",
			key <= 1.3 * ours);
	return ok;
}

/* ---- what does not depend on the prompt ------------------------------------------------------------------------------ */

static void put_event(struct bench *b)
{
	struct wire_reply r = {.kind = WIRE_REPLY_EVENT, .bytes = slice_str(WIRE_STUB_EVENT), .flag = true};

	must(wire_reply_encode(&r, b->copy, 256) > 0, "EVENT");
}

static void put_slots(struct bench *b)
{
	struct wire_slot slots[64];
	uint32_t indices[64];
	struct wire_reply r = {.kind = WIRE_REPLY_PREPARE_STORE};

	for (uint32_t i = 0; i < 64; i++) {
		slots[i] = (struct wire_slot){(uint64_t)i << 25, 1u << 25};
		indices[i] = i;
	}
	r.slots = (struct wire_slots){true, slots, indices, 64, {2, 32, 256, 1024}, 4, slice_str("bfloat16")};
	must(wire_reply_encode(&r, b->copy, 65536) > 0, "PREPARE_STORE");
}

static bool small_rows(struct bench *b)
{
	bool ok = true;
	double ns;

	make_key(b, 8);
	ns = best_ns(b, run_key, 10000);
	ok &= bench_row("LOOKUP request of 8 tokens", ns, 1000, "ns", "goal", ns / 1000, "<= 1", ns <= 1000);
	ns = best_ns(b, put_event, 10000);
	ok &= bench_row("STORE reply, encoded", ns, 200, "ns", "goal", ns / 200, "<= 1", ns <= 200);
	ns = best_ns(b, put_slots, 1000);
	ok &= bench_row("PREPARE_STORE reply of 64 slots, encoded", ns, 20000, "ns", "goal", ns / 20000, "<= 1",
			ns <= 20000);
	return ok;
}

int main(void)
{
	struct bench b = {0};
	bool ok;

	b.ids = mem_calloc(TOKENS, sizeof(*b.ids));
	b.out = mem_calloc(TOKENS, sizeof(*b.out));
	b.frame = mem_calloc(1, TOKENS * 5 + 4096);
	b.copy = mem_calloc(1, TOKENS * 5 + 65536);
	must(b.ids && b.out && b.frame && b.copy && wire_scratch_create(TOKENS, 256, &b.scratch) == 0, "memory");
	srandom(1);
	for (uint32_t i = 0; i < TOKENS; i++)
		b.ids[i] = (uint32_t)(random() % 128256);
	make_key(&b, TOKENS);
	bench_head("wire: decoding requests");
	ok = token_rows(&b);
	ok &= small_rows(&b);
	wire_scratch_destroy(b.scratch);
	mem_free(b.ids);
	mem_free(b.out);
	mem_free(b.frame);
	mem_free(b.copy);
	return ok ? 0 : 1;
}
