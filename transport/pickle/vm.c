/* vm.c - the stack machine: bytes in, one value out. Scalars, text, memo and framing are here; containers in
 * ops_data.c, what names globals in ops_object.c. Opcode semantics: CPython's Lib/pickletools.py. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

int pk_fail(struct pk_vm *vm, int err, const char *fmt, ...)
{
	char text[320];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return why_set(vm->why, err, "pickle, byte %zu: %s", (size_t)(vm->op - vm->base), text);
}

const uint8_t *pk_take(struct pk_vm *vm, uint64_t n)
{
	size_t left = (size_t)(vm->end - vm->p);
	const uint8_t *at = vm->p;

	if (n > left) {
		pk_fail(vm, -EPROTO, "length past end: %llu bytes wanted, %zu left", (unsigned long long)n, left);
		return NULL;
	}
	if (vm->frame_end && n > (size_t)(vm->frame_end - vm->p)) {
		pk_fail(vm, -EPROTO, "an opcode crosses the end of its frame");
		return NULL;
	}
	vm->p += n;
	return at;
}

int pk_push(struct pk_vm *vm, struct pk_val v)
{
	struct pk_space *s = vm->s;

	if (s->nstack == s->max_stack)
		return pk_fail(vm, -E2BIG, "more than %u values on the stack", s->max_stack);
	s->stack[s->nstack++] = v;
	return 0;
}

static uint32_t stack_floor(const struct pk_space *s)
{
	return s->nmarks ? s->marks[s->nmarks - 1] : 0;
}

int pk_top(struct pk_vm *vm, struct pk_val *v)
{
	struct pk_space *s = vm->s;

	if (s->nstack == stack_floor(s))
		return pk_fail(vm, -EPROTO, "stack underflow");
	*v = s->stack[s->nstack - 1];
	return 0;
}

int pk_pop(struct pk_vm *vm, struct pk_val *v)
{
	int r = pk_top(vm, v);

	if (r == 0)
		vm->s->nstack--;
	return r;
}

int pk_close_mark(struct pk_vm *vm, uint32_t *from)
{
	struct pk_space *s = vm->s;

	if (s->nmarks == 0)
		return pk_fail(vm, -EPROTO, "no MARK is open");
	*from = s->marks[--s->nmarks];
	return 0;
}

/* ---- envelope --------------------------------------------------------------------------------------------------- */

static int op_proto(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 1);

	if (!b)
		return -EPROTO;
	if (vm->op != vm->base)
		return pk_fail(vm, -EPROTO, "PROTO in the middle");
	if (*b < 2 || *b > 5)
		return pk_fail(vm, -EPROTO, "pickle protocol %u; 2 to 5 are read", *b);
	return 0;
}

static int op_frame(struct pk_vm *vm)
{
	const uint8_t *b;
	uint64_t n;

	if (vm->frame_end)
		return pk_fail(vm, -EPROTO, "FRAME within a frame");
	b = pk_take(vm, 8);
	if (!b)
		return -EPROTO;
	n = pk_le64(b);
	if (n > (size_t)(vm->end - vm->p))
		return pk_fail(vm, -EPROTO, "no STOP: a frame of %llu bytes of which %zu are there",
			       (unsigned long long)n, (size_t)(vm->end - vm->p));
	vm->frame_end = vm->p + n;
	return 0;
}

static int op_stop(struct pk_vm *vm)
{
	if (pk_pop(vm, &vm->result) < 0)
		return -EPROTO;
	if (vm->s->nstack != 0 || vm->s->nmarks != 0)
		return pk_fail(vm, -EPROTO, "STOP leaves %u values and %u marks on the stack", vm->s->nstack,
			       vm->s->nmarks);
	vm->stopped = true;
	return 0;
}

static int op_mark(struct pk_vm *vm)
{
	struct pk_space *s = vm->s;

	if (s->nmarks == PK_MAX_MARKS)
		return pk_fail(vm, -E2BIG, "more than %d open MARKs", PK_MAX_MARKS);
	s->marks[s->nmarks++] = s->nstack;
	return 0;
}

/* ---- memo ------------------------------------------------------------------------------------------------------- */

static int memo_put(struct pk_vm *vm, uint32_t at)
{
	struct pk_space *s = vm->s;
	struct pk_val v;
	int r = pk_top(vm, &v);

	if (r < 0)
		return r;
	if (at >= s->max_memo)
		return pk_fail(vm, -E2BIG, "memo entry %u; the limit is %u", at, s->max_memo);
	while (s->memo_hi <= at)
		s->memo[s->memo_hi++].kind = V_VOID;
	s->nmemo += s->memo[at].kind == V_VOID;
	s->memo[at] = v;
	return 0;
}

static int memo_get(struct pk_vm *vm, uint32_t at)
{
	struct pk_space *s = vm->s;

	if (at >= s->memo_hi || s->memo[at].kind == V_VOID)
		return pk_fail(vm, -EPROTO, "memo entry %u was never stored", at);
	return pk_push(vm, s->memo[at]);
}

static int op_memoize(struct pk_vm *vm)
{
	return memo_put(vm, vm->s->nmemo);
}

static int op_binput(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 1);

	return b ? memo_put(vm, *b) : -EPROTO;
}

static int op_long_binput(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 4);

	return b ? memo_put(vm, pk_le32(b)) : -EPROTO;
}

static int op_binget(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 1);

	return b ? memo_get(vm, *b) : -EPROTO;
}

static int op_long_binget(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 4);

	return b ? memo_get(vm, pk_le32(b)) : -EPROTO;
}

/* ---- scalars ---------------------------------------------------------------------------------------------------- */

static int push_int(struct pk_vm *vm, int64_t i)
{
	return pk_push(vm, (struct pk_val){.kind = V_INT, .u.i = i});
}

static int op_binint(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 4);

	return b ? push_int(vm, (int32_t)pk_le32(b)) : -EPROTO;
}

static int op_binint1(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 1);

	return b ? push_int(vm, *b) : -EPROTO;
}

static int op_binint2(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 2);

	return b ? push_int(vm, b[0] | b[1] << 8) : -EPROTO;
}

static int push_long(struct pk_vm *vm, uint32_t n)
{
	const uint8_t *b;
	uint64_t x;

	if (n > PK_MAX_LONG)
		return pk_fail(vm, -E2BIG, "an int of %u bytes; the limit is %d", n, PK_MAX_LONG);
	b = pk_take(vm, n);
	if (!b)
		return -EPROTO;
	x = n > 0 && (b[n - 1] & 0x80) ? UINT64_MAX : 0;
	for (uint32_t i = n; i > 8; i--) {
		if (b[i - 1] != (uint8_t)x || ((b[7] ^ (uint8_t)x) & 0x80))
			return pk_push(vm, (struct pk_val){.kind = V_LONG, .n = n, .u.p = b});
	}
	for (uint32_t i = n < 8 ? n : 8; i > 0; i--)
		x = x << 8 | b[i - 1];
	return push_int(vm, (int64_t)x);
}

static int op_long1(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 1);

	return b ? push_long(vm, *b) : -EPROTO;
}

static int op_long4(struct pk_vm *vm)
{
	const uint8_t *b = pk_take(vm, 4);

	return b ? push_long(vm, pk_le32(b)) : -EPROTO;
}

static int op_none(struct pk_vm *vm)
{
	return pk_push(vm, (struct pk_val){.kind = V_NONE});
}

static int op_true(struct pk_vm *vm)
{
	return pk_push(vm, (struct pk_val){.kind = V_BOOL, .u.i = 1});
}

static int op_false(struct pk_vm *vm)
{
	return pk_push(vm, (struct pk_val){.kind = V_BOOL, .u.i = 0});
}

/* ---- bytes and text: the length takes `width` bytes ------------------------------------------------------------- */

static int push_text(struct pk_vm *vm, enum pk_vkind kind, uint32_t width)
{
	struct pk_val v = {.kind = (uint8_t)kind};
	const uint8_t *len, *body;
	uint64_t n;

	len = pk_take(vm, width);
	if (!len)
		return -EPROTO;
	n = width == 1 ? *len : width == 4 ? pk_le32(len) : pk_le64(len);
	body = pk_take(vm, n);
	if (!body)
		return -EPROTO;
	v.u.p = body;
	v.n = (uint32_t)n;
	if (n > UINT32_MAX) {
		v.tag = PK_WIDE;
		v.u.p = len;
	}
	return pk_push(vm, v);
}

static int op_short_binbytes(struct pk_vm *vm)
{
	return push_text(vm, V_BYTES, 1);
}

static int op_binbytes(struct pk_vm *vm)
{
	return push_text(vm, V_BYTES, 4);
}

static int op_binbytes8(struct pk_vm *vm)
{
	return push_text(vm, V_BYTES, 8);
}

static int op_short_binunicode(struct pk_vm *vm)
{
	return push_text(vm, V_STR, 1);
}

static int op_binunicode(struct pk_vm *vm)
{
	return push_text(vm, V_STR, 4);
}

static int op_binunicode8(struct pk_vm *vm)
{
	return push_text(vm, V_STR, 8);
}

/* Every opcode that genuine pickles contain (protocol reference 8.1 and 8.6). The rest is refused by number: protocol 0
 * and 1 text forms, INST, OBJ, NEWOBJ_EX, the EXT registry, PERSID, out-of-band buffers and so on. */
static const pk_op ops[256] = {
	[0x80] = op_proto,       [0x95] = op_frame,       ['.'] = op_stop,
	['('] = op_mark,         [0x94] = op_memoize,     ['q'] = op_binput,
	['r'] = op_long_binput,  ['h'] = op_binget,       ['j'] = op_long_binget,
	['J'] = op_binint,       ['K'] = op_binint1,      ['M'] = op_binint2,
	[0x8a] = op_long1,       [0x8b] = op_long4,       ['N'] = op_none,
	[0x88] = op_true,        [0x89] = op_false,       ['C'] = op_short_binbytes,
	['B'] = op_binbytes,     [0x8e] = op_binbytes8,   [0x8c] = op_short_binunicode,
	['X'] = op_binunicode,   [0x8d] = op_binunicode8, [']'] = pk_op_list,
	['a'] = pk_op_append,    ['e'] = pk_op_appends,   ['}'] = pk_op_dict,
	['s'] = pk_op_setitem,   ['u'] = pk_op_setitems,  [')'] = pk_op_tuple0,
	[0x85] = pk_op_tuple1,   [0x86] = pk_op_tuple2,   [0x87] = pk_op_tuple3,
	['t'] = pk_op_tuple,     ['c'] = pk_op_global,    [0x93] = pk_op_stack_global,
	[0x81] = pk_op_newobj,   ['R'] = pk_op_reduce,    ['b'] = pk_op_build,
	['Q'] = pk_op_binpersid,
};

static int step(struct pk_vm *vm)
{
	vm->op = vm->p;
	if (vm->p == vm->end)
		return pk_fail(vm, -EPROTO, "no STOP: the pickle ends here");
	if (vm->p == vm->frame_end)
		vm->frame_end = NULL;
	vm->p++;
	if (!ops[*vm->op])
		return pk_fail(vm, -EPROTO, "opcode 0x%02x is not accepted", *vm->op);
	return ops[*vm->op](vm);
}

int pk_run(struct pk_mem *m, enum pk_mode mode, struct slice in, size_t *used, struct pk_val *result, struct why *why)
{
	const uint8_t *base = in.p;
	struct pk_vm vm = {.mem = m, .mode = mode, .why = why, .base = base, .p = base, .op = base};

	if (in.n < 2 || base[0] != 0x80)
		return why_set(why, -EPROTO, "not a pickle of protocol 2 to 5");
	vm.end = base + in.n;
	vm.s = mode == PK_IN_LIST ? &m->list : &m->small;
	pk_space_reset(vm.s);
	while (!vm.stopped) {
		int r = step(&vm);

		if (r < 0)
			return r;
	}
	*used = (size_t)(vm.p - base);
	*result = vm.result;
	return 0;
}
