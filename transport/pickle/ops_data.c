/* ops_data.c - opcodes that make and fill tuples, lists and dicts. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

/* ---- tuples ----------------------------------------------------------------------------------------------------- */

static int make_tuple(struct pk_vm *vm, uint32_t from)
{
	struct pk_space *s = vm->s;
	struct pk_val t = {.kind = V_TUPLE, .n = s->nstack - from};

	if (t.n > 0) {
		t.u.at = pk_cells_take(s, t.n);
		if (!t.u.at)
			return pk_fail(vm, -E2BIG, "more values than %u", s->max_cells);
	}
	t.depth = 1; /* an empty one nests as well: it bounds chains of 1-tuples exactly */
	for (uint32_t i = 0; i < t.n; i++) {
		int r = pk_adopt(s, &s->stack[from + i], &t.depth, vm->why);

		if (r < 0)
			return r;
		s->cells[t.u.at + i].v = s->stack[from + i];
	}
	s->nstack = from;
	return pk_push(vm, t);
}

static int tuple_of_top(struct pk_vm *vm, uint32_t n)
{
	struct pk_space *s = vm->s;
	uint32_t lowest = s->nmarks ? s->marks[s->nmarks - 1] : 0;

	if (s->nstack - lowest < n)
		return pk_fail(vm, -EPROTO, "stack underflow");
	return make_tuple(vm, s->nstack - n);
}

int pk_op_tuple0(struct pk_vm *vm)
{
	return tuple_of_top(vm, 0);
}

int pk_op_tuple1(struct pk_vm *vm)
{
	return tuple_of_top(vm, 1);
}

int pk_op_tuple2(struct pk_vm *vm)
{
	return tuple_of_top(vm, 2);
}

int pk_op_tuple3(struct pk_vm *vm)
{
	return tuple_of_top(vm, 3);
}

int pk_op_tuple(struct pk_vm *vm)
{
	uint32_t from;

	return pk_close_mark(vm, &from) < 0 ? -EPROTO : make_tuple(vm, from);
}

/* ---- lists and dicts -------------------------------------------------------------------------------------------- */

static int make_container(struct pk_vm *vm, enum pk_vkind kind)
{
	struct pk_val v = {.kind = (uint8_t)kind};

	v.u.at = pk_head_new(vm->s);
	if (!v.u.at)
		return pk_fail(vm, -E2BIG, "more values than %u", vm->s->max_cells);
	vm->s->cells[v.u.at].head.depth = 1;
	return pk_push(vm, v);
}

int pk_op_list(struct pk_vm *vm)
{
	return make_container(vm, V_LIST);
}

int pk_op_dict(struct pk_vm *vm)
{
	return make_container(vm, V_DICT);
}

/* What Python could hash and a genuine pickle uses as a key. */
static bool is_key(const struct pk_val *v)
{
	return v->kind == V_STR || v->kind == V_INT || v->kind == V_BYTES || v->kind == V_BOOL || v->kind == V_NONE;
}

/* The n values above `from` go into the container that is then on top of the stack. `what` is the opcode's name. */
static int fill(struct pk_vm *vm, enum pk_vkind kind, uint32_t from, const char *what)
{
	struct pk_space *s = vm->s;
	uint32_t n = s->nstack - from;
	const struct pk_val *v = &s->stack[from];
	struct pk_head *head;
	struct pk_val into;
	int r;

	if (kind == V_DICT && n % 2 != 0)
		return pk_fail(vm, -EPROTO, "%s with an odd number of values", what);
	s->nstack = from;
	if (pk_top(vm, &into) < 0)
		return -EPROTO;
	if (into.kind != kind)
		return pk_fail(vm, -EPROTO, "%s to %s", what, pk_kind_name(&into));
	head = &s->cells[into.u.at].head;
	for (uint32_t i = 0; i < n; i++) {
		if (kind == V_DICT && i % 2 == 0 && !is_key(&v[i]))
			return pk_fail(vm, -EPROTO, "%s as a dict's key", pk_kind_name(&v[i]));
		r = pk_adopt(s, &v[i], &head->depth, vm->why);
		if (r < 0)
			return r;
	}
	if (head->sealed && n > 0)
		return pk_fail(vm, -EPROTO, "%s to %s that is already part of another value", what,
			       pk_kind_name(&into));
	head->count += kind == V_DICT ? n / 2 : n;
	return pk_chain_add(s, head, v, n, vm->why);
}

/* The top n values, none of them below the innermost mark. */
static int fill_top(struct pk_vm *vm, enum pk_vkind kind, uint32_t n, const char *what)
{
	struct pk_space *s = vm->s;
	uint32_t lowest = s->nmarks ? s->marks[s->nmarks - 1] : 0;

	if (s->nstack - lowest < n)
		return pk_fail(vm, -EPROTO, "stack underflow");
	return fill(vm, kind, s->nstack - n, what);
}

static int fill_marked(struct pk_vm *vm, enum pk_vkind kind, const char *what)
{
	uint32_t from;

	return pk_close_mark(vm, &from) < 0 ? -EPROTO : fill(vm, kind, from, what);
}

int pk_op_append(struct pk_vm *vm)
{
	return fill_top(vm, V_LIST, 1, "APPEND");
}

int pk_op_appends(struct pk_vm *vm)
{
	return fill_marked(vm, V_LIST, "APPENDS");
}

int pk_op_setitem(struct pk_vm *vm)
{
	return fill_top(vm, V_DICT, 2, "SETITEM");
}

int pk_op_setitems(struct pk_vm *vm)
{
	return fill_marked(vm, V_DICT, "SETITEMS");
}
