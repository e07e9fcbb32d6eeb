/* kernels.cu - pages to staging memory and back. Contract: kernel_abi.h; how it is compiled: kernel_device.h.
 *
 * C that is also C++. A warp takes one piece of one block of one plane at a time: 8 words per lane are loaded before the first is
 * stored, so that a few thread blocks keep enough bytes under way for the bus. What a piece is stays the same however many blocks run. */
#include "transport/cuda/kernel_device.h"

#define LANES 32u
#define EACH  (KERNEL_PIECE_WORDS / LANES)

/* Words, not bytes, where nothing else is said. */
struct block_shape {
	kabi_u32 blocks, pieces; /* per chunk; per block */
	kabi_u32 block_words, row_words;
	kabi_u64 block_bytes, plane_bytes; /* in the object */
};

/* One block of one plane of one chunk, on both sides. */
struct block_at {
	kabi_u64 page, object;
	kabi_u64 token_stride, head_stride;
	kabi_u32 linear, hole;
};

INLINE kabi_u32 load_u32(kabi_u64 at)
{
	return load_word(at, 4).v[0];
}

INLINE kabi_u64 load_u64(kabi_u64 at)
{
	struct kernel_word w = load_word(at, 8);
	return w.v[0] | (kabi_u64)w.v[1] << 32;
}

INLINE kabi_u64 in_page(const struct kernel_args *a, const struct block_shape *s, const struct block_at *b, kabi_u32 w,
			kabi_u32 word)
{
	kabi_u32 row, token;

	if (b->linear)
		return b->page + (kabi_u64)w * word;
	row = w / s->row_words;
	token = row / a->rows;
	return b->page + token * b->token_stride + (row - token * a->rows) * b->head_stride +
	       (kabi_u64)(w - row * s->row_words) * word;
}

INLINE void move_piece(const struct kernel_args *a, const struct block_shape *s, const struct block_at *b,
		       kabi_u32 first, kabi_u32 scatter, kabi_u32 word)
{
	struct kernel_word v[EACH];
	kabi_u32 i, w;

	UNROLL
	for (i = 0; i < EACH; i++) {
		struct kernel_word none = {{0, 0, 0, 0}};
		w = first + i * LANES;
		v[i] = none;
		if (w < s->block_words && !b->hole)
			v[i] = load_word(scatter ? b->object + (kabi_u64)w * word : in_page(a, s, b, w, word), word);
	}
	UNROLL
	for (i = 0; i < EACH; i++) {
		w = first + i * LANES;
		if (w < s->block_words)
			store_word(scatter ? in_page(a, s, b, w, word) : b->object + (kabi_u64)w * word, v[i], word);
	}
}

INLINE struct block_at find_block(const struct kernel_args *a, const struct block_shape *s, kabi_u32 chunk,
				  kabi_u32 plane, kabi_u32 block, kabi_u32 id)
{
	kabi_u64 p = a->plane + plane * sizeof(struct kernel_plane);
	struct block_at b;

	b.token_stride = load_u64(p + 16);
	b.head_stride = load_u64(p + 24);
	b.page = load_u64(p) + id * load_u64(p + 8);
	b.object = a->object + chunk * a->object_stride + plane * s->plane_bytes + block * s->block_bytes;
	b.linear = (a->rows == 1 || b.head_stride == a->row_bytes) &&
		   (a->block_tokens == 1 || b.token_stride == a->row_bytes * a->rows);
	b.hole = 0;
	return b;
}

INLINE void move_item(const struct kernel_args *a, const struct block_shape *s, kabi_u32 item, kabi_u32 lane,
		      kabi_u32 scatter, kabi_u32 word)
{
	kabi_u32 piece = item % s->pieces, rest = item / s->pieces;
	kabi_u32 block = rest % s->blocks, plane, chunk, id, hole;
	struct block_at b;

	rest /= s->blocks;
	plane = rest % a->planes;
	chunk = rest / a->planes;
	if (scatter && chunk * a->chunk_tokens + (block + 1) * a->block_tokens <= a->skip_tokens)
		return;
	id = load_u32(a->ids + ((kabi_u64)chunk * s->blocks + block) * 4);
	hole = a->null_block != KERNEL_NO_NULL && id == a->null_block;
	if (scatter && hole)
		return;
	b = find_block(a, s, chunk, plane, block, id);
	b.hole = hole;
	move_piece(a, s, &b, piece * KERNEL_PIECE_WORDS + lane, scatter, word);
}

INLINE void move_all(const struct kernel_args *a, kabi_u32 thread, kabi_u32 threads, kabi_u32 scatter, kabi_u32 word)
{
	struct block_shape s;
	kabi_u32 items, item;

	s.blocks = a->chunk_tokens / a->block_tokens;
	s.row_words = (kabi_u32)(a->row_bytes / word);
	s.block_words = s.row_words * a->rows * a->block_tokens;
	s.block_bytes = (kabi_u64)s.block_words * word;
	s.plane_bytes = s.block_bytes * s.blocks;
	s.pieces = (s.block_words + KERNEL_PIECE_WORDS - 1) / KERNEL_PIECE_WORDS;
	items = a->chunks * a->planes * s.blocks * s.pieces;
	for (item = thread / LANES; item < items; item += threads / LANES)
		move_item(a, &s, item, thread % LANES, scatter, word);
}

/* The word is made a constant for each of the loops. */
INLINE void move_words(const struct kernel_args *a, kabi_u32 thread, kabi_u32 threads, kabi_u32 scatter)
{
	if (a->word == 16)
		move_all(a, thread, threads, scatter, 16);
	else if (a->word == 8)
		move_all(a, thread, threads, scatter, 8);
	else if (a->word == 4)
		move_all(a, thread, threads, scatter, 4);
	else if (a->word == 2)
		move_all(a, thread, threads, scatter, 2);
	else
		move_all(a, thread, threads, scatter, 1);
}

KERNEL(lmca_gather)
{
	move_words(&args, kernel_thread(), kernel_threads(), 0);
}

KERNEL(lmca_scatter)
{
	move_words(&args, kernel_thread(), kernel_threads(), 1);
}
