#include "daemon/core/chash.h"

#include "tests/unit/daemon/core/fixture.h"
#include "tests/unit/daemon/core/mallocs.h"

#include <blake3.h>
#include <jansson.h>
#include <openssl/evp.h>

static int setup(void **state)
{
	json_error_t e;

	*state = json_load_file("tests/golden/token-hash.json", 0, &e);
	if (!*state)
		printf("# tests/golden/token-hash.json:%d: %s\n", e.line, e.text);
	return *state ? 0 : -1;
}

static int teardown(void **state)
{
	json_decref(*state);
	return 0;
}

static const json_t *part(const json_t *root, const char *a, const char *b)
{
	const json_t *v = json_object_get(root, a);

	v = b ? json_object_get(v, b) : v;
	assert_non_null(v);
	return v;
}

static const char *text(const json_t *o, const char *name)
{
	const char *s = json_string_value(json_object_get(o, name));

	assert_non_null(s);
	return s;
}

static void same_hash(const uint8_t *got, const char *want_hex, const char *what)
{
	char hex[2 * STORE_HASH_BYTES + 1];

	for (size_t i = 0; i < STORE_HASH_BYTES; i++)
		snprintf(hex + 2 * i, 3, "%02x", got[i]);
	if (strcmp(hex, want_hex) != 0)
		fail_msg("%s: %s, want %s", what, hex, want_hex);
}

static struct chash make(enum chash_algorithm a, uint32_t chunk, const char *seed)
{
	struct chash h;
	struct why why;

	if (chash_init(&h, a, chunk, seed, &why))
		fail_msg("%s", why.text);
	return h;
}

static uint32_t be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static size_t primitive_input(const json_t *c, uint8_t *in, size_t cap)
{
	size_t n;

	if (json_object_get(c, "input_hex"))
		return from_hex(text(c, "input_hex"), in, cap);
	n = (size_t)json_integer_value(json_object_get(c, "input_gen"));
	assert_in_range(n, 1, cap);
	for (size_t i = 0; i < n; i++)
		in[i] = (uint8_t)(i % 251);
	return n;
}

/* Where the input can be read as 32 bytes of prefix and whole tokens, it also goes through chash_of. */
static void test_01_blake3_primitive(void **state)
{
	const json_t *cases = part(*state, "blake3_primitive", "cases"), *c;
	struct chash h = make(CHASH_BLAKE3, 4, NULL);
	static uint8_t in[20000], out[BLAKE3_OUT_LEN];
	static uint32_t tokens[5000];
	size_t i, through = 0;

	json_array_foreach(cases, i, c)
	{
		size_t n = primitive_input(c, in, sizeof(in));
		struct store_hash got;
		blake3_hasher b;

		blake3_hasher_init(&b);
		blake3_hasher_update(&b, in, n);
		blake3_hasher_finalize(&b, out, sizeof(out));
		same_hash(out, text(c, "digest"), "library");
		if (n > 32 && n % 4)
			continue;
		size_t prefix = n < 32 ? n : 32;
		for (size_t t = 0; t < (n - prefix) / 4; t++)
			tokens[t] = be32(in + prefix + 4 * t);
		chash_of(&h, in, prefix, tokens, (n - prefix) / 4, &got);
		same_hash(got.b, text(c, "digest"), "chash_of");
		through++;
	}
	assert_int_equal(json_array_size(cases), 21);
	assert_true(through >= 12);
}

static void test_02_none_hash(void **state)
{
	const json_t *seeds = part(*state, "none_hash", "sha256_cbor"), *c;
	struct chash h = make(CHASH_BLAKE3, 256, "17"), other;
	size_t i;

	same_hash(h.none.b, text(part(*state, "none_hash", "blake3"), "none_hash"), "blake3");
	json_array_foreach(seeds, i, c)
	{
		h = make(CHASH_SHA256_CBOR, 256, text(c, "PYTHONHASHSEED"));
		same_hash(h.none.b, text(c, "none_hash"), text(c, "PYTHONHASHSEED"));
	}
	assert_true(i >= 3);
	h = make(CHASH_SHA256_CBOR, 256, NULL); /* random, another one each time */
	other = make(CHASH_SHA256_CBOR, 256, NULL);
	assert_memory_not_equal(h.none.b, other.none.b, sizeof(h.none.b));
}

static uint32_t *tokens_of(const json_t *c, size_t *n)
{
	const json_t *list = json_object_get(c, "tokens"), *gen = json_object_get(c, "token_gen");
	uint64_t a = (uint64_t)json_integer_value(json_object_get(gen, "a"));
	uint64_t b = (uint64_t)json_integer_value(json_object_get(gen, "b"));
	uint64_t m = (uint64_t)json_integer_value(json_object_get(gen, "m"));
	uint32_t *t;

	*n = list ? json_array_size(list) : (size_t)json_integer_value(json_object_get(gen, "n"));
	t = malloc((*n ? *n : 1) * sizeof(*t)); /* exactly as many: reading on is an error */
	assert_non_null(t);
	for (size_t i = 0; i < *n; i++)
		t[i] = (uint32_t)(list ? (uint64_t)json_integer_value(json_array_get(list, i)) : (a + b * i) % m);
	return t;
}

static void check_chain(const json_t *c, struct chash *h)
{
	const json_t *want = json_object_get(c, "chunk_hashes");
	size_t n, chunks;
	uint32_t *tokens = tokens_of(c, &n);
	struct store_hash prev = h->none, got;

	assert_int_equal(n, json_integer_value(json_object_get(c, "num_tokens")));
	chunks = n / h->chunk_tokens;
	assert_int_equal(chunks, json_array_size(want));
	for (size_t k = 0; k < chunks; k++) {
		chash_next(h, &prev, tokens + k * h->chunk_tokens, &got);
		same_hash(got.b, json_string_value(json_array_get(want, k)), text(c, "name"));
		prev = got;
	}
	free(tokens);
}

static void test_03_chains(void **state)
{
	const json_t *c;
	size_t i, sha = 0;

	json_array_foreach(part(*state, "chunks", NULL), i, c)
	{
		bool blake3 = strcmp(text(c, "algorithm"), "blake3") == 0;
		struct chash h = make(blake3 ? CHASH_BLAKE3 : CHASH_SHA256_CBOR,
				      (uint32_t)json_integer_value(json_object_get(c, "chunk_size")), "0");

		sha += !blake3;
		same_hash(h.none.b, text(c, "none_hash"), text(c, "name"));
		check_chain(c, &h);
	}
	assert_int_equal(i, 14);
	assert_int_equal(sha, 3);
}

/* hash_tokens with an integer as prefix: eight bytes, two's complement. */
static void test_04_integer_prefix(void **state)
{
	struct chash h = make(CHASH_BLAKE3, 4, NULL);
	const json_t *c;
	size_t i;

	json_array_foreach(part(*state, "int_prefix", "cases"), i, c)
	{
		uint64_t be = __builtin_bswap64((uint64_t)json_integer_value(json_object_get(c, "prefix")));
		struct store_hash got;
		size_t n;
		uint32_t *tokens = tokens_of(c, &n);

		chash_of(&h, &be, sizeof(be), tokens, n, &got);
		same_hash(got.b, text(c, "digest"), "integer prefix");
		free(tokens);
	}
	assert_int_equal(i, 4);
}

/* hash_to_bytes: digests pass unchanged (the chains above); a number is its eight bytes, which is what a prefix of a number
 * hashes as. */
static void test_05_hash_to_bytes(void **state)
{
	struct chash h = make(CHASH_BLAKE3, 4, NULL);
	uint32_t token = 77;
	const json_t *c;
	size_t i;

	json_array_foreach(part(*state, "hash_to_bytes", "cases"), i, c)
	{
		uint64_t be = __builtin_bswap64((uint64_t)json_integer_value(json_object_get(c, "int")));
		uint8_t bytes[8], all[12] = {0};
		struct store_hash got, want;
		blake3_hasher b;

		assert_int_equal(from_hex(text(c, "bytes"), bytes, sizeof(bytes)), 8);
		assert_memory_equal(&be, bytes, 8);
		memcpy(all, bytes, 8);
		all[11] = 77;
		blake3_hasher_init(&b);
		blake3_hasher_update(&b, all, sizeof(all));
		blake3_hasher_finalize(&b, want.b, sizeof(want.b));
		chash_of(&h, &be, sizeof(be), &token, 1, &got);
		assert_memory_equal(got.b, want.b, sizeof(got.b));
	}
	assert_int_equal(i, 5);
}

/* Batches are an implementation detail: every chunk size gives what one call of the library over one buffer gives. */
static void test_06_every_chunk_size_against_one_shot(void **state)
{
	struct rnd r = rnd_start("chunk sizes");
	static uint8_t flat[STORE_HASH_BYTES + 4 * 1024];
	(void)state;

	for (uint32_t size = 1; size <= 1024; size++) {
		struct chash h = make(CHASH_BLAKE3, size, NULL);
		uint32_t *tokens = malloc(size * sizeof(*tokens));
		struct store_hash prev = hash_no(size), got, want;
		blake3_hasher b;

		memcpy(flat, prev.b, sizeof(prev.b));
		for (uint32_t i = 0; i < size; i++) {
			uint32_t t = tokens[i] = (uint32_t)mix64(r.state++);

			for (int k = 0; k < 4; k++)
				flat[STORE_HASH_BYTES + 4 * i + (uint32_t)k] = (uint8_t)(t >> (24 - 8 * k));
		}
		blake3_hasher_init(&b);
		blake3_hasher_update(&b, flat, STORE_HASH_BYTES + 4 * size);
		blake3_hasher_finalize(&b, want.b, sizeof(want.b));
		chash_next(&h, &prev, tokens, &got);
		if (memcmp(got.b, want.b, sizeof(got.b)) != 0)
			fail_msg("chunk size %u", size);
		free(tokens);
	}
}

/* A CBOR writer of its own, straight from RFC 8949's table. */
static size_t cbor(uint8_t *p, uint8_t major, uint32_t v)
{
	uint8_t m = (uint8_t)(major << 5);

	if (v <= 23) {
		p[0] = (uint8_t)(m + v);
		return 1;
	}
	size_t bytes = v <= 255 ? 1 : v <= 65535 ? 2 : 4;
	p[0] = (uint8_t)(m + (bytes == 1 ? 24 : bytes == 2 ? 25 : 26));
	for (size_t i = 0; i < bytes; i++)
		p[1 + i] = (uint8_t)(v >> (8 * (bytes - 1 - i)));
	return 1 + bytes;
}

static void test_07_sha256_cbor_of_every_chunk_size(void **state)
{
	static const uint32_t edge[] = {0, 23, 24, 255, 256, 65535, 65536, UINT32_MAX};
	struct rnd r = rnd_start("sha256_cbor");
	static uint8_t flat[100 + 5 * 1024];
	(void)state;

	for (uint32_t size = 1; size <= 1024; size++) {
		struct chash h = make(CHASH_SHA256_CBOR, size, "0");
		uint32_t *tokens = malloc(size * sizeof(*tokens));
		struct store_hash prev = hash_no(size), got, want;
		size_t n = cbor(flat, 4, 3);

		n += cbor(flat + n, 2, STORE_HASH_BYTES);
		memcpy(flat + n, prev.b, STORE_HASH_BYTES);
		n += STORE_HASH_BYTES;
		n += cbor(flat + n, 4, size);
		for (uint32_t i = 0; i < size; i++) {
			uint32_t shift = rnd_below(&r, 32);

			tokens[i] = rnd_below(&r, 8) ? (uint32_t)mix64(r.state++) >> shift : edge[rnd_below(&r, 8)];
			n += cbor(flat + n, 0, tokens[i]);
		}
		flat[n++] = 0xf6;
		assert_int_equal(EVP_Digest(flat, n, want.b, NULL, EVP_sha256(), NULL), 1);
		chash_next(&h, &prev, tokens, &got);
		if (memcmp(got.b, want.b, sizeof(got.b)) != 0)
			fail_msg("chunk size %u", size);
		free(tokens);
	}
}

/* Hashing runs in every request: it must not allocate, and so it cannot run out of memory. */
static void test_08_no_allocation(void **state)
{
	static uint32_t tokens[CHASH_MAX_CHUNK];
	(void)state;

	for (int a = CHASH_BLAKE3; a <= CHASH_SHA256_CBOR; a++) {
		struct chash h = make((enum chash_algorithm)a, 256, "0"), big;
		struct store_hash out = h.none;
		uint64_t before;

		big = make((enum chash_algorithm)a, CHASH_MAX_CHUNK, "0");
		chash_next(&h, &out, tokens, &out); /* the library may set itself up once */
		before = libc_mallocs;
		for (int i = 0; i < 64; i++)
			chash_next(&h, &out, tokens, &out);
		chash_next(&big, &out, tokens, &out);
		if (libc_mallocs != before)
			fail_msg("%s: %llu allocations for 65 chunks", chash_name((enum chash_algorithm)a),
				 (unsigned long long)(libc_mallocs - before));
	}
}

static void test_09_refusals(void **state)
{
	char seed[400];
	struct chash h;
	struct why why;
	(void)state;

	assert_int_equal(chash_init(&h, CHASH_BLAKE3, 0, NULL, &why), -EINVAL);
	assert_non_null(strstr(why.text, "chunk size 0"));
	assert_int_equal(chash_init(&h, CHASH_BLAKE3, CHASH_MAX_CHUNK + 1, NULL, &why), -EINVAL);
	assert_int_equal(chash_init(&h, CHASH_BLAKE3, CHASH_MAX_CHUNK, NULL, &why), 0);
	memset(seed, '1', sizeof(seed));
	seed[sizeof(seed) - 1] = '\0';
	assert_int_equal(chash_init(&h, CHASH_SHA256_CBOR, 256, seed, &why), -EINVAL);
	assert_non_null(strstr(why.text, "PYTHONHASHSEED"));
	assert_string_equal(chash_name(CHASH_BLAKE3), "blake3");
	assert_string_equal(chash_name(CHASH_SHA256_CBOR), "sha256_cbor");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_blake3_primitive),
		cmocka_unit_test(test_02_none_hash),
		cmocka_unit_test(test_03_chains),
		cmocka_unit_test(test_04_integer_prefix),
		cmocka_unit_test(test_05_hash_to_bytes),
		cmocka_unit_test(test_06_every_chunk_size_against_one_shot),
		cmocka_unit_test(test_07_sha256_cbor_of_every_chunk_size),
		cmocka_unit_test(test_08_no_allocation),
		cmocka_unit_test(test_09_refusals),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
