/* ops_object.c - opcodes that name globals or apply them. Nothing is called: each allowed pair of opcode and global has
 * one fixed meaning, everything else is refused by name. */
#include "transport/pickle/pickle_int.h"

#include <errno.h>

static int push_global(struct pk_vm *vm, struct slice module, struct slice name)
{
	int row = pk_global_find(module, name, vm->mode, vm->why);

	if (row < 0)
		return row;
	return pk_push(vm, (struct pk_val){.kind = V_GLOBAL, .tag = (uint16_t)row});
}

/* A line of text ended by a newline. */
static int take_line(struct pk_vm *vm, struct slice *line)
{
	size_t left = (size_t)(vm->end - vm->p);
	const uint8_t *nl = memchr(vm->p, '\n', left < PK_MAX_NAME + 1 ? left : PK_MAX_NAME + 1);

	if (!nl)
		return pk_fail(vm, -EPROTO, "GLOBAL without a name of at most %d bytes", PK_MAX_NAME);
	*line = slice_of(vm->p, (size_t)(nl - vm->p));
	return pk_take(vm, line->n + 1) ? 0 : -EPROTO;
}

int pk_op_global(struct pk_vm *vm)
{
	struct slice module = {0}, name = {0};

	if (take_line(vm, &module) < 0 || take_line(vm, &name) < 0)
		return -EPROTO;
	return push_global(vm, module, name);
}

int pk_op_stack_global(struct pk_vm *vm)
{
	struct pk_val module, name;

	if (pk_pop(vm, &name) < 0 || pk_pop(vm, &module) < 0)
		return -EPROTO;
	if (name.kind != V_STR || module.kind != V_STR)
		return pk_fail(vm, -EPROTO, "STACK_GLOBAL of %s and %s", pk_kind_name(&module), pk_kind_name(&name));
	return push_global(vm, pk_bytes_of(&module), pk_bytes_of(&name));
}

static int refuse_apply(struct pk_vm *vm, const char *op, const struct pk_val *what)
{
	if (what->kind != V_GLOBAL)
		return pk_fail(vm, -EOPNOTSUPP, "%s of %s", op, pk_kind_name(what));
	return pk_fail(vm, -EOPNOTSUPP, "%s of %s %s", op, pk_globals[what->tag].module, pk_globals[what->tag].name);
}

/* Pops the argument tuple and what it is applied to. */
static int pop_call(struct pk_vm *vm, const char *op, struct pk_val *what, struct pk_val *args)
{
	if (pk_pop(vm, args) < 0 || pk_pop(vm, what) < 0)
		return -EPROTO;
	if (what->kind != V_GLOBAL)
		return refuse_apply(vm, op, what);
	if (args->kind != V_TUPLE)
		return pk_fail(vm, -EPROTO, "%s with %s for arguments", op, pk_kind_name(args));
	return 0;
}

/* torch.Size((...)) is the tuple. */
static int apply_size(struct pk_vm *vm, const struct pk_val *args)
{
	const struct pk_val *items = pk_items(vm->s, args);

	if (args->n != 1 || items[0].kind != V_TUPLE)
		return pk_fail(vm, -EPROTO, "torch.Size of anything but one tuple");
	return pk_push(vm, items[0]);
}

static int new_object(struct pk_vm *vm, const struct pk_val *cls, const struct pk_val *args)
{
	struct pk_val v = {.kind = V_OBJ, .tag = cls->tag};

	if (args->n != 0)
		return pk_fail(vm, -EPROTO, "%s made with arguments", pk_globals[cls->tag].name);
	v.u.at = pk_head_new(vm->s);
	if (!v.u.at)
		return pk_fail(vm, -E2BIG, "more values than %u", vm->s->max_cells);
	vm->s->cells[v.u.at].head.depth = 1;
	return pk_push(vm, v);
}

int pk_op_newobj(struct pk_vm *vm)
{
	struct pk_val cls, args;
	int r = pop_call(vm, "NEWOBJ", &cls, &args);

	if (r < 0)
		return r;
	switch (pk_globals[cls.tag].what) {
	case G_WRAPPER:
		return new_object(vm, &cls, &args);
	case G_SIZE:
		return apply_size(vm, &args);
	default:
		return refuse_apply(vm, "NEWOBJ", &cls);
	}
}

static int apply_load(struct pk_vm *vm, const struct pk_val *args)
{
	const struct pk_val *items = pk_items(vm->s, args);
	struct pk_val storage;
	int r;

	if (args->n != 1 || items[0].kind != V_BYTES)
		return pk_fail(vm, -EPROTO, "_load_from_bytes of anything but one bytes object");
	r = pk_stream_load(vm->mem, pk_bytes_of(&items[0]), &storage, vm->why);
	if (r < 0) {
		why_prefix(vm->why, "storage at byte %zu",
			   (size_t)((const uint8_t *)pk_bytes_of(&items[0]).p - vm->base));
		return r;
	}
	return pk_push(vm, storage);
}

/* The arguments stay where they are and are looked at when the list is complete. */
static int apply_rebuild(struct pk_vm *vm, const struct pk_val *fn, const struct pk_val *args)
{
	uint32_t want = pk_globals[fn->tag].arg;

	if (args->n != want && args->n != want + 1)
		return pk_fail(vm, -EPROTO, "%s with %u arguments", pk_globals[fn->tag].name, args->n);
	return pk_push(
		vm, (struct pk_val){
			    .kind = V_TENSOR, .tag = fn->tag, .depth = args->depth, .n = args->n, .u.at = args->u.at});
}

int pk_op_reduce(struct pk_vm *vm)
{
	struct pk_val fn, args;
	int r = pop_call(vm, "REDUCE", &fn, &args);

	if (r < 0)
		return r;
	switch (pk_globals[fn.tag].what) {
	case G_SIZE:
		return apply_size(vm, &args);
	case G_LOAD_STORAGE:
		return apply_load(vm, &args);
	case G_REBUILD:
		return apply_rebuild(vm, &fn, &args);
	case G_HOOKS:
		if (args.n != 0)
			return pk_fail(vm, -EPROTO, "an OrderedDict that is not empty");
		return pk_push(vm, (struct pk_val){.kind = V_HOOKS});
	default:
		return refuse_apply(vm, "REDUCE", &fn);
	}
}

/* Sets an object's attributes, once. */
int pk_op_build(struct pk_vm *vm)
{
	struct pk_space *s = vm->s;
	struct pk_val state, obj;
	const struct pk_val *key;
	struct pk_head *head;
	struct pk_walk w;

	if (pk_pop(vm, &state) < 0 || pk_top(vm, &obj) < 0)
		return -EPROTO;
	if (obj.kind != V_OBJ)
		return refuse_apply(vm, "BUILD", &obj);
	if (state.kind != V_DICT)
		return pk_fail(vm, -EPROTO, "BUILD with %s for a state", pk_kind_name(&state));
	head = &s->cells[obj.u.at].head;
	if (head->first || head->sealed)
		return pk_fail(vm, -EPROTO, "BUILD of an object that is complete");
	w = pk_walk_start(s, &state);
	while ((key = pk_walk_next(&w)) != NULL) {
		if (key->kind != V_STR)
			return pk_fail(vm, -EPROTO, "%s as an attribute's name", pk_kind_name(key));
		pk_walk_next(&w);
	}
	head->first = state.u.at;
	return pk_adopt(s, &state, &head->depth, vm->why);
}

int pk_op_binpersid(struct pk_vm *vm)
{
	struct pk_val id;

	if (pk_pop(vm, &id) < 0)
		return -EPROTO;
	if (vm->mode != PK_IN_STREAM)
		return pk_fail(vm, -EOPNOTSUPP, "a persistent id outside a storage's stream");
	if (id.kind != V_TUPLE)
		return pk_fail(vm, -EPROTO, "%s as a persistent id", pk_kind_name(&id));
	id.kind = V_PERSID;
	return pk_push(vm, id);
}
