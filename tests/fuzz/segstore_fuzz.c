/* A whole store whose medium was tampered with, through recovery, reads, writes and removals on a disk in memory. Nothing may crash, hang or
 * leak; and where no checksum was forged, what is read is what was stored.
 *
 * The input is a list of edits of a sound store: 8 bytes each. Byte 0: kind (0 set a byte, 1 set it and put the block's checksum right, 2
 * copy a block, 3 zero a block, 4 forge a summary's checksum in its seal). Bytes 1-3: place; 4-6: another; 7: value.
 */
#include "daemon/seg/seg.h"

#include "daemon/base/check.h"
#include "daemon/base/log.h"
#include "tests/unit/daemon/seg/image.h"
#include "transport/disk/disk_sim.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define BYTES     (5u << 20)
#define SEGMENT   (64u << 10)
#define KEYS      24u
#define SOUND     15u /* of the keys 0 to 21: 0 to 2 were overwritten, 3, 4, 12, 13 removed */
#define MAX_EDITS 64u
#define MAX_TURNS 20000u
#define FIRST \
	FORMAT_DATA /* where the interesting part begins; the supers' blocks are reached by places below 4 blocks */

static uint8_t *base, *memory;
static struct image im;

static uint64_t key_bytes(uint64_t key)
{
	return 1 + key * 977 % 5000;
}

/* Sealed segments, one with a bad summary, an open one, one used before, removals, a key stored twice. */
static void make_base(void)
{
	base = calloc(1, BYTES);
	memory = aligned_alloc(DISK_ALIGN, SEG_MEMORY + DISK_ALIGN * 8ul);
	check(base && memory);
	image_start(&im, base, BYTES, SEGMENT);
	for (uint32_t id = 0; id < 7; id++) {
		image_open(&im, id % 6); /* the last one uses segment 0 again */
		for (uint64_t k = 0; k < 4; k++)
			image_put(&im, 0, id * 3 + k, key_bytes(id * 3 + k), id * 3 + k);
		if (id % 3 == 1)
			image_remove(&im, 0, id * 3, id * 3 + 1);
		if (id != 4 && id != 6)
			image_seal(&im);
	}
	image_segment(&im, 2)[SEGMENT - 4000] ^= 1;
	log_set_level(LOG_LVL_ERROR + 1);
}

static uint32_t number(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16;
}

/* Small places are the superblocks, the others the first nine segments. */
static uint32_t place(uint32_t n)
{
	if (n < 4 * FORMAT_BLOCK)
		return (uint32_t)format_super_at(&im.super, n / FORMAT_BLOCK) + n % FORMAT_BLOCK;
	return FIRST + (n - 4 * FORMAT_BLOCK) % (9 * SEGMENT);
}

static void seal_block(uint8_t *b)
{
	uint32_t crc = crc32c(0, b, FORMAT_BLOCK - 4);

	memcpy(b + FORMAT_BLOCK - 4, &crc, 4);
}

static void forge_summary(uint8_t *m, uint32_t segment)
{
	uint8_t *start = m + format_segment_at(&im.super, segment);
	struct format_seal seal;

	if (format_seal_decode(start + FORMAT_BLOCK, &seal) || seal.summary_at + seal.summary_bytes > SEGMENT)
		return;
	seal.summary_crc = crc32c(0, start + seal.summary_at, seal.summary_bytes);
	format_seal_encode(&seal, start + FORMAT_BLOCK);
}

/* True: a checksum was forged, so what is read may be what the forger wants. */
static bool edit(uint8_t *m, const uint8_t *e)
{
	uint32_t at = place(number(e + 1)), block = at - at % FORMAT_BLOCK;
	uint32_t other = place(number(e + 4));

	switch (e[0] % 5) {
	case 0:
		m[at] = e[7];
		return false;
	case 1:
		m[at] = e[7];
		seal_block(m + block);
		return true;
	case 2:
		memmove(m + block, m + other - other % FORMAT_BLOCK, FORMAT_BLOCK);
		return false;
	case 3:
		memset(m + block, 0, FORMAT_BLOCK);
		return false;
	default:
		forge_summary(m, e[7] % 9);
		return true;
	}
}

static void ended(struct seg_op *op)
{
	*(bool *)op->owner = true;
}

/* One operation to its end. */
static int run(struct seg *s, struct seg_op *op)
{
	bool done = false;

	op->done = ended;
	op->owner = &done;
	seg_submit(s, op);
	for (uint32_t turns = 0; !done; turns++) {
		check(turns < MAX_TURNS);
		seg_run(s, 1000000);
	}
	return op->result;
}

/* Returns how many keys were read right. */
static uint32_t use(struct seg *s, struct seg_names *names, bool forged)
{
	uint8_t *mem = memory + SEG_MEMORY, right[DISK_ALIGN * 4ul];
	uint32_t sums[8];
	struct seg_name name = image_name(0);
	struct seg_key key = {.name = seg_name_get(names, &name)};
	uint32_t hits = 0;

	for (uint64_t k = 0; k < KEYS; k++) {
		uint64_t bytes;

		key.hash = image_hash(k);
		seg_find(s, &key, 1, &bytes);
		if (bytes == 0 || bytes > sizeof(right))
			continue;
		struct seg_op op = {.kind = SEG_READ, .key = key, .mem = mem, .bytes = bytes, .sums = sums};
		if (run(s, &op))
			continue;
		for (uint32_t i = 0; i < crc_blocks(bytes); i++)
			check(sums[i] == crc32c(0, mem, bytes));
		if (forged)
			continue;
		image_payload(right, bytes, k);
		check(bytes == key_bytes(k) && memcmp(mem, right, bytes) == 0);
		hits++;
	}
	for (uint64_t k = 0; k < KEYS; k += 3) {
		struct seg_op op = {.kind = k % 2 ? SEG_WRITE : SEG_REMOVE,
				    .key = {.name = key.name, .hash = image_hash(k)},
				    .mem = mem,
				    .bytes = k % 2 ? 3000 : 0,
				    .sums = sums};

		sums[0] = 0;
		(void)run(s, &op);
	}
	return hits;
}

static uint32_t open_and_use(struct disk_sim *sim, bool forged)
{
	const struct disk_conf dc = {.write = true};
	struct seg_conf sc = {.memory = memory, .verify = true, .max_objects = 4096, .readmit = 0.1};
	struct seg_names *names;
	struct seg *s;
	struct why why;
	uint32_t hits = 0;

	check(seg_names_create(&names) == 0 && disk_sim_open(sim, &dc, &sc.disk, &why) == 0);
	sc.names = names;
	if (seg_open(&sc, &s, &why) == 0) {
		for (uint32_t turns = 0; !seg_recovered(s); turns++) {
			check(turns < MAX_TURNS);
			seg_run(s, 1000000);
		}
		seg_check(s);
		hits = use(s, names, forged);
		seg_check(s);
		seg_close(s, 1000);
	}
	seg_names_destroy(names);
	return hits;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct disk_sim_conf conf = {.bytes = BYTES, .seed = 1};
	struct disk_sim *sim;
	bool forged = false;

	if (!base)
		make_base();
	if (size > 8 * MAX_EDITS)
		return 0;
	check(disk_sim_create(&conf, &sim) == 0);
	uint8_t *m = disk_sim_medium(sim);
	for (uint32_t c = 0; c < FORMAT_SUPERS; c++)
		memcpy(m + format_super_at(&im.super, c), base + format_super_at(&im.super, c), FORMAT_BLOCK);
	memcpy(m + FIRST, base + FIRST, 10ul * SEGMENT);
	for (size_t at = 0; at + 8 <= size; at += 8)
		forged |= edit(m, data + at);
	uint32_t hits = open_and_use(sim, forged);
	/* Untouched it is whole: all keys but those removed or in a segment that was used again. */
	check(size || hits == SOUND);
	/* And once more, over what the first life wrote. */
	open_and_use(sim, true);
	disk_sim_destroy(sim);
	return 0;
}
