/* pickle_int.h - values, working memory and the stack machine, for the files of transport/pickle only.
 *
 * A value is a 16-byte cell. Scalars live in the cell; tuples, lists, dicts and objects point into an array of cells that
 * one parse fills from the front and the next parse reuses. Lists and dicts are chains of batches, so that appending
 * costs what is appended.
 *
 * Hostile input: a list, dict or object that was put into another value is sealed and can no longer be changed. This
 * rules out cycles (which no reader here could walk safely) and keeps the recorded nesting of every value true. CPython
 * fills a container before it puts it anywhere, except for self-referencing ones.
 */
#ifndef TRANSPORT_PICKLE_PICKLE_INT_H
#define TRANSPORT_PICKLE_PICKLE_INT_H

#include "transport/pickle/pickle.h"

#define HANDLE_BYTES 64 /* CUDA_IPC_HANDLE_SIZE: cudaIpcMemHandle_t and cudaIpcEventHandle_t */
#define FABRIC_BYTES 64 /* CUmemFabricHandle */
#define EXPORT_ID    16

#define PK_MAX_NEST  16  /* containers within containers */
#define PK_MAX_MARKS 32  /* open MARKs: at most one per level plus slack for malformed input to be named */
#define PK_MAX_LONG  16  /* bytes of an integer; the longest genuine one is torch's magic number with 10 */
#define PK_MAX_NAME  256 /* bytes of a module or class name */

/* Limits of one wrapper pickle, and of one of the small pickles within a torch stream. */
#define PK_SMALL_STACK 1024
#define PK_SMALL_MEMO  1024
#define PK_SMALL_CELLS 4096
/* Limits of a tensor list. CPython memoises 8 values per tensor (bytes, 1-tuple, storage, size, stride, hooks,
 * arguments, tensor), and a tensor of 8 dimensions takes 27 cells; both rounded up. Pages are only touched when used. */
#define PK_LIST_STACK (PK_MAX_TENSORS + 1024)
#define PK_LIST_MEMO  (PK_MAX_TENSORS * 10 + 1024)
#define PK_LIST_CELLS (PK_MAX_TENSORS * 32 + 1024)

enum pk_vkind {
	V_VOID, /* no value: an empty memo slot */
	V_NONE,
	V_BOOL,
	V_INT,
	V_LONG, /* an integer outside int64: n bytes at p, little-endian two's complement */
	V_BYTES,
	V_STR,
	V_TUPLE,   /* n cells at index `at` */
	V_LIST,    /* head at index `at` */
	V_DICT,    /* head at index `at`; batches of key, value */
	V_OBJ,     /* head at index `at`, tag = row of its class */
	V_GLOBAL,  /* tag = row of the global table */
	V_HOOKS,   /* an empty OrderedDict */
	V_PERSID,  /* persistent id: n cells at index `at` */
	V_STORAGE, /* tag = dtype; p = the int64 element count that precedes the bytes in the stream */
	V_TENSOR,  /* tag = row of its rebuild function; arguments: n cells at index `at` */
};

#define PK_WIDE 1 /* tag of V_BYTES and V_STR: p is at a u64 length which the bytes follow */

struct pk_val {
	uint8_t kind;
	uint8_t depth; /* V_TUPLE, V_TENSOR: nesting; mutable values keep it in their head */
	uint16_t tag;
	uint32_t n;
	union {
		int64_t i;
		const uint8_t *p;
		uint32_t at;
	} u;
};

struct pk_head {
	uint32_t first, last; /* chain of batches; V_OBJ: first = head of its state dict */
	uint32_t count;       /* items; pairs for a dict */
	uint8_t depth;
	uint8_t sealed;
	uint16_t unused;
};

struct pk_batch {
	uint32_t next;
	uint32_t n; /* cells that follow */
	uint64_t unused;
};

union pk_cell {
	struct pk_val v;
	struct pk_head head;
	struct pk_batch batch;
};

/* Stack, memo and cells of one interpreter. */
struct pk_space {
	struct pk_val *stack;
	struct pk_val *memo;
	union pk_cell *cells; /* index 0 is "none" */
	uint32_t max_stack, max_memo, max_cells;
	uint32_t nstack, nmemo, memo_hi, ncells, nmarks;
	uint32_t marks[PK_MAX_MARKS];
};

struct pk_mem {
	struct pk_space list;  /* the list itself */
	struct pk_space small; /* wrappers; the pickles inside a storage's stream */
};

/* ---- globals.c: the allow-list ---------------------------------------------------------------------------------- */
enum pk_what {
	G_WRAPPER,      /* arg: enum pk_kind */
	G_DTYPE,        /* arg: enum pk_dtype */
	G_SIZE,         /* torch.Size */
	G_REBUILD,      /* arg: number of arguments before the optional metadata */
	G_LOAD_STORAGE, /* torch.storage._load_from_bytes */
	G_HOOKS,        /* collections.OrderedDict */
	G_STORAGE_TYPE, /* arg: enum pk_dtype */
};

/* What is being read decides which globals it may name. */
enum pk_mode { PK_IN_WRAPPER = 1, PK_IN_LIST = 2, PK_IN_STREAM = 4 };

struct pk_global {
	const char *module;
	const char *name;
	uint8_t what; /* enum pk_what */
	uint8_t arg;
	uint8_t modes; /* enum pk_mode, or-ed */
};

extern const struct pk_global pk_globals[];
/* Row of a global; -EOPNOTSUPP with module and name in `why` when it may not be used here. */
int pk_global_find(struct slice module, struct slice name, enum pk_mode mode, struct why *why);
/* Copies at most cap - 1 bytes of foreign text for messages; what is not printable ASCII becomes '?'. */
const char *pk_printable(struct slice s, char *buf, size_t cap);
/* torch's storage class of a dtype ("HalfStorage"), NULL for the 8-bit floats, which have none. */
const char *pk_storage_name(enum pk_dtype t);

/* ---- cells.c: values -------------------------------------------------------------------------------------------- */
void pk_space_reset(struct pk_space *s);
/* Index of n fresh cells (never 0), or 0 when the space is used up. */
uint32_t pk_cells_take(struct pk_space *s, uint32_t n);
/* Index of a fresh, empty head, or 0. */
uint32_t pk_head_new(struct pk_space *s);
/* The value goes into a container: seals it, raises *depth to its nesting + 1. -E2BIG beyond PK_MAX_NEST. */
int pk_adopt(struct pk_space *s, const struct pk_val *child, uint8_t *depth, struct why *why);
/* Appends n cells to the chain of `head`; the values must have been adopted. -E2BIG when the space is used up. */
int pk_chain_add(struct pk_space *s, struct pk_head *head, const struct pk_val *v, uint32_t n, struct why *why);
/* Bytes of a V_BYTES or V_STR value. */
struct slice pk_bytes_of(const struct pk_val *v);
/* Elements of a tuple. */
const struct pk_val *pk_items(const struct pk_space *s, const struct pk_val *tuple);
/* "a tuple", for messages. */
const char *pk_kind_name(const struct pk_val *v);

/* Walks a list or a dict's keys and values, in order. Start: pk_walk(s, v). */
struct pk_walk {
	const struct pk_space *s;
	uint32_t batch, i;
};
struct pk_walk pk_walk_start(const struct pk_space *s, const struct pk_val *list_or_dict);
const struct pk_val *pk_walk_next(struct pk_walk *w); /* NULL at the end */

/* ---- vm.c, ops_*.c: the stack machine --------------------------------------------------------------------------- */
struct pk_vm {
	struct pk_mem *mem;
	struct pk_space *s;
	const uint8_t *base, *p, *end;
	const uint8_t *frame_end; /* NULL outside frames */
	const uint8_t *op;        /* the opcode being run, for messages */
	enum pk_mode mode;
	struct why *why;
	bool stopped;
	struct pk_val result;
};

typedef int (*pk_op)(struct pk_vm *vm);

/* Runs one pickle at the start of `in`; *used gets its length. The space of `mode` is reset first. */
int pk_run(struct pk_mem *m, enum pk_mode mode, struct slice in, size_t *used, struct pk_val *result, struct why *why);

/* Fails with "pickle, byte <offset of the opcode>: ...". */
int pk_fail(struct pk_vm *vm, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* The next n bytes; NULL (the caller returns -EPROTO) when they are not there or cross the end of the current frame. */
const uint8_t *pk_take(struct pk_vm *vm, uint64_t n);
int pk_push(struct pk_vm *vm, struct pk_val v);
int pk_pop(struct pk_vm *vm, struct pk_val *v);
/* Value on top, above the innermost mark. */
int pk_top(struct pk_vm *vm, struct pk_val *v);
/* Closes the innermost mark; *from is the stack index of the first value above it. */
int pk_close_mark(struct pk_vm *vm, uint32_t *from);

/* ops_data.c and ops_object.c */
int pk_op_list(struct pk_vm *vm);
int pk_op_append(struct pk_vm *vm);
int pk_op_appends(struct pk_vm *vm);
int pk_op_dict(struct pk_vm *vm);
int pk_op_setitem(struct pk_vm *vm);
int pk_op_setitems(struct pk_vm *vm);
int pk_op_tuple0(struct pk_vm *vm);
int pk_op_tuple1(struct pk_vm *vm);
int pk_op_tuple2(struct pk_vm *vm);
int pk_op_tuple3(struct pk_vm *vm);
int pk_op_tuple(struct pk_vm *vm);
int pk_op_global(struct pk_vm *vm);
int pk_op_stack_global(struct pk_vm *vm);
int pk_op_newobj(struct pk_vm *vm);
int pk_op_reduce(struct pk_vm *vm);
int pk_op_build(struct pk_vm *vm);
int pk_op_binpersid(struct pk_vm *vm);

/* ---- stream.c --------------------------------------------------------------------------------------------------- */
/* What torch.storage._load_from_bytes would read: a legacy torch.save stream of one storage. */
int pk_stream_load(struct pk_mem *m, struct slice bytes, struct pk_val *storage, struct why *why);
/* Bytes of a V_STORAGE value. */
struct slice pk_storage_bytes(const struct pk_val *storage);

/* ---- geometry.c: shapes and extents ----------------------------------------------------------------------------- */
struct pk_geom {
	enum pk_dtype dtype;
	uint32_t ndim;
	uint64_t shape[PK_MAX_DIMS];
	int64_t stride[PK_MAX_DIMS];
	uint64_t offset; /* elements */
};
/* Non-negative int. `what` names the value in messages. */
int pk_uint(const struct pk_val *v, const char *what, uint64_t *out, struct why *why);
/* Shape and stride from tuples (torch.Size is one) or lists; stride may be NULL: contiguous. */
int pk_geom_read(const struct pk_space *s, const struct pk_val *shape, const struct pk_val *stride, struct pk_geom *g,
		 struct why *why);
/* The tensor's bytes, offset included, lie within `limit` bytes. */
int pk_geom_within(const struct pk_geom *g, uint64_t limit, const char *of, struct why *why);
/* Fills contiguous strides as torch does; -EPROTO when the product overflows int64. */
int pk_contiguous(const uint64_t *shape, uint32_t ndim, int64_t *stride, struct why *why);

/* Little-endian loads of unaligned bytes. */
static inline uint32_t pk_le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t pk_le64(const uint8_t *p)
{
	return (uint64_t)pk_le32(p) | (uint64_t)pk_le32(p + 4) << 32;
}

#endif
