/* What must be refused: golden refusals and programs that would hurt an ordinary unpickler or a careless reader. */
#include "tests/unit/transport/pickle/helpers.h"

#define DEEP16 ")\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85\x85"

static struct asm_out prog; /* large programs are put together here */

static void refuse_both(struct pk_mem *m, const void *p, size_t n, int err, const char *needle)
{
	struct why why = {0};
	int r = parse_copy(m, p, n, &why);

	if (r != err)
		fail_msg("wrapper reader: %d instead of %d: %s", r, err, why.text);
	assert_why(&why, needle);
	why = (struct why){0};
	r = (int)parse_list_copy(m, p, n, &why);
	if (r != err)
		fail_msg("list reader: %d instead of %d: %s", r, err, why.text);
	assert_why(&why, needle);
}

static void test_01_golden(void **state)
{
	static const struct {
		const char *name;
		int err;
		const char *why;
	} want[] = {
		{"REDUCE of posix system", -EOPNOTSUPP, "global posix system is not on the list"},
		{"truncated wrapper", -EPROTO, "no STOP"},
		{"memo reference to nothing", -EPROTO, "memo entry 5 was never stored"},
		{"stack underflow", -EPROTO, "stack underflow"},
		{"huge declared length", -EPROTO, "length past end"},
	};
	json_t *root = golden_load(), *v;
	size_t i, seen = 0;

	json_array_foreach(json_object_get(root, "refused_pickles"), i, v)
	{
		struct buf b = buf_hex(json_text(v, "hex"));

		for (size_t k = 0; k < sizeof(want) / sizeof(want[0]); k++) {
			if (strcmp(want[k].name, json_text(v, "name")) != 0)
				continue;
			refuse_both(*state, b.p, b.n, want[k].err, want[k].why);
			seen++;
		}
		buf_free(&b);
	}
	assert_int_equal(seen, json_array_size(json_object_get(root, "refused_pickles")));
	assert_int_equal(seen, 5);
	json_decref(root);
}

/* All 256 opcodes: those that are not read are refused by number. */
static void test_02_opcodes(void **state)
{
	static const char accepted[] = ".(qrhjJKMNCBX]ae}su)tcRbQ";
	static const uint8_t high[] = {0x80, 0x81, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8a,
				       0x8b, 0x8c, 0x8d, 0x8e, 0x93, 0x94, 0x95};
	char want[64];
	size_t refused = 0;

	for (unsigned op = 0; op < 256; op++) {
		uint8_t p[] = {0x80, 4, (uint8_t)op, '0', '\n', '0', '\n', '.'};

		if ((op != 0 && strchr(accepted, (int)op)) || memchr(high, (int)op, sizeof(high)))
			continue;
		snprintf(want, sizeof(want), "byte 2: opcode 0x%02x is not accepted", op);
		refuse_both(*state, p, sizeof(p), -EPROTO, want);
		refused++;
	}
	assert_int_equal(refused, 256 - (sizeof(accepted) - 1) - sizeof(high));
}

struct bad {
	const char *p;
	size_t n;
	int err;
	const char *why;
};

static void refuse_table(struct pk_mem *m, const struct bad *bad, size_t n)
{
	for (size_t i = 0; i < n; i++)
		refuse_both(m, bad[i].p, bad[i].n, bad[i].err, bad[i].why);
}
#define REFUSE_ALL(m, table) refuse_table(m, table, sizeof(table) / sizeof((table)[0]))

static void test_03_globals(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02"
		     "cos\nsystem\n(X\x02\0\0\0idtR."),
		 -EOPNOTSUPP, "global os system"},
		{LIT("\x80\x02"
		     "cbuiltins\neval\n\x8c\x01"
		     "1\x85R."),
		 -EOPNOTSUPP, "global builtins eval"},
		{LIT("\x80\x02"
		     "c__builtin__\nexec\n)R."),
		 -EOPNOTSUPP, "global __builtin__ exec"},
		{LIT("\x80\x04\x8c\x08"
		     "builtins\x8c\x07getattr\x93)R."),
		 -EOPNOTSUPP, "global builtins getattr"},
		{LIT("\x80\x04\x8c\x0asubprocess\x8c\x05Popen\x93)\x81."), -EOPNOTSUPP, "global subprocess Popen"},
		{LIT("\x80\x04\x8c\x05torch\x8c\x12serialization.load\x93)R."), -EOPNOTSUPP,
		 "global torch serialization.load"},
		{LIT("\x80\x04\x8c\x05torch\x8c\x04load\x93)R."), -EOPNOTSUPP, "global torch load"},
		{LIT("\x80\x04\x8c\x05torch\x8c\x08"
		     "bfloat16\0\x93."),
		 -EPROTO, "opcode 0x00"},
		{LIT("\x80\x04\x8c\x05torch\x8c\x09"
		     "bfloat16\0\x93."),
		 -EOPNOTSUPP, "bfloat16? is not on the list"},
		{LIT("\x80\x04\x8c\x05Torch\x8c\x08"
		     "bfloat16\x93."),
		 -EOPNOTSUPP, "global Torch bfloat16"},
		{LIT("\x80\x04\x8c\0\x8c\0\x93."), -EOPNOTSUPP, "global   is not on the list"},
		{LIT("\x80\x04\x8c\x06"
		     "a\nb\x1b[2\x8c\x04\xc3\xa9\xff%\x93."),
		 -EOPNOTSUPP, "global a?b?[2 ???%"},
		{LIT("\x80\x04K\1\x8c\x01x\x93."), -EPROTO, "STACK_GLOBAL of an int and a str"},
		{LIT("\x80\x04\x8c\x01x)\x93."), -EPROTO, "STACK_GLOBAL of a str and a tuple"},
		{LIT("\x80\x04\x8c\x01x\x93."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02"
		     "cos\nsystem"),
		 -EPROTO, "GLOBAL without a name"},
		{LIT("\x80\x02"
		     "cos"),
		 -EPROTO, "GLOBAL without a name"},
		{LIT("\x80\x02"
		     "c"),
		 -EPROTO, "GLOBAL without a name"},
	};
	REFUSE_ALL(*state, bad);
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x02"
			   "c"));
	memset(prog.b + 3, 'a', 4096);
	prog.n += 4096;
	asm_put(&prog, LIT("\nb\n."));
	refuse_both(*state, prog.b, prog.n, -EPROTO, "GLOBAL without a name of at most 256 bytes");
}

/* A global of one context is refused in the others. */
static void test_04_contexts(void **state)
{
	static const struct {
		const char *p;
		size_t n;
		bool wrapper, list;
	} only[] = {
		{LIT("\x80\x02"
		     "ctorch.storage\n_load_from_bytes\n."),
		 false, true},
		{LIT("\x80\x02"
		     "ctorch._utils\n_rebuild_tensor_v2\n."),
		 false, true},
		{LIT("\x80\x02"
		     "ccollections\nOrderedDict\n."),
		 false, true},
		{LIT("\x80\x02"
		     "clmcache.v1.platform.cpu.shm\nCpuShmTensorWrapper\n."),
		 true, false},
		{LIT("\x80\x02"
		     "ctorch\nHalfStorage\n."),
		 false, false},
		{LIT("\x80\x02"
		     "ctorch.storage\nUntypedStorage\n."),
		 false, false},
	};
	for (size_t i = 0; i < sizeof(only) / sizeof(only[0]); i++) {
		struct why why = {0};

		assert_int_equal(parse_copy(*state, only[i].p, only[i].n, &why),
				 only[i].wrapper ? -EPROTO : -EOPNOTSUPP);
		assert_why(&why, only[i].wrapper ? "the pickle is a global" : "is not on the list");
		assert_int_equal(parse_list_copy(*state, only[i].p, only[i].n, &why),
				 only[i].list ? -EPROTO : -EOPNOTSUPP);
		assert_why(&why, only[i].list ? "the pickle is a global" : "is not on the list");
	}
}

static void test_05_calls(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02"
		     "ctorch\nbfloat16\n)R."),
		 -EOPNOTSUPP, "REDUCE of torch bfloat16"},
		{LIT("\x80\x02"
		     "ctorch\nbfloat16\n)\x81."),
		 -EOPNOTSUPP, "NEWOBJ of torch bfloat16"},
		{LIT("\x80\x02"
		     "ctorch\nbfloat16\n}b."),
		 -EOPNOTSUPP, "BUILD of torch bfloat16"},
		{LIT("\x80\x02"
		     "ctorch\nSize\n)\x85R)R."),
		 -EOPNOTSUPP, "REDUCE of a tuple"},
		{LIT("\x80\x02"
		     "ctorch\nSize\n)\x85\x81)\x81."),
		 -EOPNOTSUPP, "NEWOBJ of a tuple"},
		{LIT("\x80\x02"
		     "ctorch\nSize\n)R."),
		 -EPROTO, "torch.Size of anything but one tuple"},
		{LIT("\x80\x02"
		     "ctorch\nSize\n]\x85R."),
		 -EPROTO, "torch.Size of anything but one tuple"},
		{LIT("\x80\x02"
		     "ctorch\nSize\n]R."),
		 -EPROTO, "REDUCE with a list for arguments"},
		{LIT("\x80\x02\x8c\x06system)R."), -EOPNOTSUPP, "REDUCE of a str"},
		{LIT("\x80\x02)R."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02})b."), -EOPNOTSUPP, "BUILD of a dict"},
		{LIT("\x80\x02}b."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02)Q."), -EOPNOTSUPP, "a persistent id outside"},
	};
	REFUSE_ALL(*state, bad);
	/* A chain of calls whose results are called again ends at the first one. */
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x02"
			   "ctorch\nSize\n)\x85R"));
	for (int i = 0; i < 5000; i++)
		asm_put(&prog, LIT(")\x85R"));
	asm_put(&prog, LIT("."));
	refuse_both(*state, prog.b, prog.n, -EOPNOTSUPP, "byte 19: REDUCE of a tuple");
}

#define OBJ "clmcache.v1.platform.cpu.shm\nCpuShmTensorWrapper\n)\x81"

static void test_06_objects(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02"
		     "clmcache.v1.platform.cpu.shm\nCpuShmTensorWrapper\n)R."),
		 -EOPNOTSUPP, "REDUCE of lmcache.v1.platform.cpu.shm CpuShmTensorWrapper"},
		{LIT("\x80\x02"
		     "clmcache.v1.platform.cpu.shm\nCpuShmTensorWrapper\nN\x85\x81."),
		 -EPROTO, "made with arguments"},
		{LIT("\x80\x02"
		     "clmcache.v1.platform.cpu.shm\nCpuShmTensorWrapper\n."),
		 -EPROTO, "the pickle is a global, not a wrapper"},
		{LIT("\x80\x02" OBJ "."), -EPROTO, "no attributes"},
		{LIT("\x80\x02" OBJ "}b}b."), -EPROTO, "BUILD of an object that is complete"},
		{LIT("\x80\x02" OBJ "Nb."), -EPROTO, "BUILD with None for a state"},
		{LIT("\x80\x02" OBJ "N}\x86"
		     "b."),
		 -EPROTO, "BUILD with a tuple for a state"},
		{LIT("\x80\x02" OBJ "}K\x01Nsb."), -EPROTO, "an int as an attribute's name"},
		/* The object becomes a value of its own state, or is completed after it went elsewhere. */
		{LIT("\x80\x02" OBJ "q\0}\x8c\x01xh\0sb."), -EPROTO, "BUILD of an object that is complete"},
		{LIT("\x80\x02" OBJ "q\0\x85h\0}b\x86."), -EPROTO, "BUILD of an object that is complete"},
		/* The state changes after it was taken over. */
		{LIT("\x80\x02" OBJ "}q\0bh\0\x8c\x05shapeNs\x86."), -EPROTO, "already part of another value"},
		{LIT("\x80\x02" OBJ "}b."), -EPROTO, "attribute dtype is missing"},
	};
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct why why = {0};

		assert_int_equal(parse_copy(*state, bad[i].p, bad[i].n, &why), bad[i].err);
		assert_why(&why, bad[i].why);
	}
}

static void test_07_containers(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02}(K\x01u."), -EPROTO, "SETITEMS with an odd number"},
		{LIT("\x80\x02}(K\x01NK\x02u."), -EPROTO, "SETITEMS with an odd number"},
		{LIT("\x80\x02](K\x01Nu."), -EPROTO, "SETITEMS to a list"},
		{LIT("\x80\x02]K\x01Ns."), -EPROTO, "SETITEM to a list"},
		{LIT("\x80\x02}K\x01"
		     "a."),
		 -EPROTO, "APPEND to a dict"},
		{LIT("\x80\x02)(K\x01"
		     "e."),
		 -EPROTO, "APPENDS to a tuple"},
		{LIT("\x80\x02}]Ns."), -EPROTO, "a list as a dict's key"},
		{LIT("\x80\x02})Ns."), -EPROTO, "a tuple as a dict's key"},
		{LIT("\x80\x02}}Ns."), -EPROTO, "a dict as a dict's key"},
		{LIT("\x80\x02(K\x01"
		     "e."),
		 -EPROTO, "stack underflow"},
		{LIT("\x80\x02"
		     "e."),
		 -EPROTO, "no MARK is open"},
		{LIT("\x80\x02"
		     "t."),
		 -EPROTO, "no MARK is open"},
		{LIT("\x80\x02"
		     "u."),
		 -EPROTO, "no MARK is open"},
		/* Operands may not lie below the innermost mark. */
		{LIT("\x80\x02K\x01(K\x02\x86t."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02](K\x01"
		     "at."),
		 -EPROTO, "stack underflow"},
		{LIT("\x80\x02}K\x01(Ns."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02K\x01(q\0."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02K\x01(."), -EPROTO, "stack underflow"},
		{LIT("\x80\x02K\x01K\x01."), -EPROTO, "STOP leaves 1 values and 0 marks"},
		{LIT("\x80\x02(K\x01."), -EPROTO, "STOP leaves 0 values and 1 marks"},
		{LIT("\x80\x02."), -EPROTO, "stack underflow"},
	};
	REFUSE_ALL(*state, bad);
}

/* Containers that would contain themselves, through the memo. */
static void test_08_cycles(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02]q\0h\0a."), -EPROTO, "APPEND to a list that is already part"},
		{LIT("\x80\x02]q\0(h\0h\0"
		     "e."),
		 -EPROTO, "APPENDS to a list that is already part"},
		{LIT("\x80\x02}q\0K\x01h\0s."), -EPROTO, "SETITEM to a dict that is already part"},
		{LIT("\x80\x02]q\0h\0\x85"
		     "a."),
		 -EPROTO, "APPEND to a list that is already part"},
		{LIT("\x80\x02]q\0]q\x01h\0ah\x01\x61."), -EPROTO, "APPEND to a list that is already part"},
		{LIT("\x80\x02]q\0}K\0h\0sa."), -EPROTO, "APPEND to a list that is already part"},
		{LIT("\x80\x02]q\0\x85q\x01h\0K\x01\x61\x86."), -EPROTO, "already part of another value"},
	};
	REFUSE_ALL(*state, bad);
}

static void test_09_nesting(void **state)
{
	struct why why;

	/* 16 levels are read (and then turn out not to be a wrapper), 17 are not. */
	refuse_both(*state, LIT("\x80\x02" DEEP16 "."), -EPROTO, "the pickle is a tuple");
	refuse_both(*state, LIT("\x80\x02" DEEP16 "\x85."), -E2BIG, "nested deeper than 16");
	for (int deep = 16; deep <= 17; deep++) {
		for (int kind = 0; kind < 2; kind++) {
			prog.n = 0;
			asm_put(&prog, LIT("\x80\x02"));
			for (int i = 0; i < deep; i++) {
				asm_put(&prog, kind ? "]" : "}", 1);
				if (!kind && i + 1 < deep)
					asm_put(&prog, LIT("N"));
			}
			for (int i = 1; i < deep; i++)
				asm_put(&prog, kind ? "a" : "s", 1);
			asm_put(&prog, LIT("."));
			assert_int_equal(parse_copy(*state, prog.b, prog.n, &why), deep == 16 ? -EPROTO : -E2BIG);
			assert_why(&why, deep == 16 ? "the pickle is a" : "nested deeper than 16");
		}
	}
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x02"));
	memset(prog.b + prog.n, '(', 33);
	prog.n += 33;
	asm_put(&prog, LIT("."));
	refuse_both(*state, prog.b, prog.n, -E2BIG, "more than 32 open MARKs");
}

/* A value that contains the previous one twice, again and again: 2^60 leaves if anything walked it. */
static void test_10_doubling(void **state)
{
	prog.n = 0;
	asm_put(&prog, LIT("\x80\x04)\x94"));
	for (uint8_t i = 0; i < 60; i++) {
		uint8_t op[] = {'h', i, 0x86, 0x94};

		asm_put(&prog, op, sizeof(op));
	}
	asm_put(&prog, LIT("."));
	refuse_both(*state, prog.b, prog.n, -E2BIG, "nested deeper than 16");
}

static void test_11_memo(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02Nr\xff\xff\xff\xff."), -E2BIG, "memo entry 4294967295; the limit is"},
		{LIT("\x80\x02Nr\0\0\x0b\0."), -E2BIG, "memo entry 720896; the limit is"},
		{LIT("\x80\x02Nq\x05h\x04\x86."), -EPROTO, "memo entry 4 was never stored"},
		{LIT("\x80\x02j\xff\xff\xff\xff."), -EPROTO, "memo entry 4294967295 was never stored"},
		{LIT("\x80\x02q\0."), -EPROTO, "stack underflow"},
		{LIT("\x80\x04\x94."), -EPROTO, "stack underflow"},
	};
	struct why why;

	REFUSE_ALL(*state, bad);
	/* What an earlier parse stored is gone. */
	assert_int_equal(parse_copy(*state, LIT("\x80\x02Nq\x07."), &why), -EPROTO);
	assert_why(&why, "the pickle is None");
	refuse_both(*state, LIT("\x80\x02h\x07."), -EPROTO, "memo entry 7 was never stored");
	refuse_both(*state, LIT("\x80\x02Nq\x08h\x07\x86."), -EPROTO, "memo entry 7 was never stored");
	/* MEMOIZE counts entries, as Python does: it overwrites entry 1 here, so that entry 1 is True and 9 still None. */
	assert_int_equal(parse_copy(*state, LIT("\x80\x04Nq\x09\x88\x94h\x01."), &why), -EPROTO);
	assert_why(&why, "STOP leaves 2 values");
	/* Storing twice in one slot is one entry: MEMOIZE then takes slot 1. */
	assert_int_equal(parse_copy(*state, LIT("\x80\x04Nq\0q\0\x94h\x01."), &why), -EPROTO);
	assert_why(&why, "STOP leaves 1 values");
	/* 1024 entries for a wrapper, not more. */
	for (int n = 1024; n <= 1025; n++) {
		prog.n = 0;
		asm_put(&prog, LIT("\x80\x04N"));
		memset(prog.b + prog.n, 0x94, (size_t)n);
		prog.n += (size_t)n;
		asm_put(&prog, LIT("."));
		assert_int_equal(parse_copy(*state, prog.b, prog.n, &why), n == 1024 ? -EPROTO : -E2BIG);
		assert_why(&why, n == 1024 ? "the pickle is None" : "memo entry 1024; the limit is 1024");
	}
}

static void test_12_stack(void **state)
{
	struct why why;

	for (int n = 1024; n <= 1025; n++) {
		prog.n = 0;
		asm_put(&prog, LIT("\x80\x04("));
		memset(prog.b + prog.n, 'N', (size_t)n);
		prog.n += (size_t)n;
		asm_put(&prog, LIT("t."));
		assert_int_equal(parse_copy(*state, prog.b, prog.n, &why), n == 1024 ? -EPROTO : -E2BIG);
		assert_why(&why, n == 1024 ? "the pickle is a tuple" : "more than 1024 values on the stack");
	}
}

static void test_13_integers(void **state)
{
	static const struct bad bad[] = {
		{LIT("\x80\x02\x8b\xff\xff\xff\x7f\0."), -E2BIG, "an int of 2147483647 bytes"},
		{LIT("\x80\x02\x8b\xff\xff\xff\xff\0."), -E2BIG, "an int of 4294967295 bytes"},
		{LIT("\x80\x02\x8b\x11\0\0\0"
		     "aaaaaaaaaaaaaaaaa."),
		 -E2BIG, "an int of 17 bytes"},
		{LIT("\x80\x02\x8a\x11"
		     "aaaaaaaaaaaaaaaaa."),
		 -E2BIG, "an int of 17 bytes"},
		{LIT("\x80\x02\x8a\x10"
		     "aaaaaaaaaaaaaaaa."),
		 -EPROTO, "the pickle is a long int"},
		{LIT("\x80\x02\x8a\x08"
		     "aaaaaaaa."),
		 -EPROTO, "the pickle is an int"},
		{LIT("\x80\x02\x8a\x09"
		     "aaaaaaaa\0."),
		 -EPROTO, "the pickle is an int"},
		{LIT("\x80\x02\x8a\x09"
		     "aaaaaaa\x80\0."),
		 -EPROTO, "the pickle is a long int"},
		{LIT("\x80\x02\x8a\x09"
		     "aaaaaaa\x80\xff."),
		 -EPROTO, "the pickle is an int"},
		{LIT("\x80\x02\x8a\x09"
		     "aaaaaaa\x7f\xff."),
		 -EPROTO, "the pickle is a long int"},
		{LIT("\x80\x02\x8a\0."), -EPROTO, "the pickle is an int"},
		{LIT("\x80\x02\x8b\x02\0\0\0a."), -EPROTO, "the pickle ends here"},
		{LIT("\x80\x02\x8b\x03\0\0\0a."), -EPROTO, "length past end"},
		{LIT("\x80\x02J\0\0\0"), -EPROTO, "length past end"},
	};
	REFUSE_ALL(*state, bad);
}

static void test_14_envelope(void **state)
{
	static const struct bad bad[] = {
		{LIT(""), -EPROTO, "not a pickle"},
		{LIT("\x80"), -EPROTO, "not a pickle"},
		{LIT("(dp0\n."), -EPROTO, "not a pickle"},
		{LIT("N."), -EPROTO, "not a pickle"},
		{LIT("\x80\x01N."), -EPROTO, "pickle protocol 1"},
		{LIT("\x80\x06N."), -EPROTO, "pickle protocol 6"},
		{LIT("\x80\x04\x80\x04N."), -EPROTO, "PROTO in the middle"},
		{LIT("\x80\x04N"), -EPROTO, "no STOP: the pickle ends here"},
		{LIT("\x80\x04"), -EPROTO, "no STOP: the pickle ends here"},
		{LIT("\x80\x04N.N."), -EPROTO, "2 bytes after the pickle"},
		{LIT("\x80\x04\x95\x03\0\0\0\0\0\0\0N."), -EPROTO, "no STOP: a frame of 3 bytes of which 2 are there"},
		{LIT("\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xffN."), -EPROTO,
		 "a frame of 18446744073709551615 bytes"},
		{LIT("\x80\x04\x95\x0a\0\0\0\0\0\0\0\x95\x01\0\0\0\0\0\0\0N."), -EPROTO, "FRAME within a frame"},
		{LIT("\x80\x04\x95\x02\0\0\0\0\0\0\0C\x01x."), -EPROTO, "crosses the end of its frame"},
		{LIT("\x80\x04\x95\x01\0\0\0"), -EPROTO, "length past end"},
		{LIT("\x80\x04"
		     "B\xff\xff\xff\xff."),
		 -EPROTO, "length past end: 4294967295 bytes wanted, 1 left"},
		{LIT("\x80\x04X\x02\0\0\0."), -EPROTO, "length past end: 2 bytes wanted, 1 left"},
		{LIT("\x80\x04\x8d\xff\xff\xff\xff\xff\xff\xff\xff."), -EPROTO, "length past end"},
		{LIT("\x80\x04\x8c\x05."), -EPROTO, "length past end"},
		{LIT("\x80\x04V\\u0041\n."), -EPROTO, "opcode 0x56"},
	};
	REFUSE_ALL(*state, bad);
	assert_int_equal(parse_copy(*state, LIT("\x80\x04\x95\x01\0\0\0\0\0\0\0N\x95\x01\0\0\0\0\0\0\0."), NULL),
			 -EPROTO);
	/* 64 KiB are read, one byte more is not. */
	for (size_t n = PK_MAX_WRAPPER; n <= PK_MAX_WRAPPER + 1; n++) {
		uint32_t body = (uint32_t)(n - 8);
		uint8_t len[] = {(uint8_t)body, (uint8_t)(body >> 8), 0, 0};
		struct why why = {0};

		prog.n = 0;
		asm_put(&prog, LIT("\x80\x04"
				   "B"));
		asm_put(&prog, len, 4);
		memset(prog.b + prog.n, 'x', body);
		prog.n += body;
		asm_put(&prog, LIT("."));
		assert_int_equal(prog.n, n);
		assert_int_equal(parse_copy(*state, prog.b, prog.n, &why), n == PK_MAX_WRAPPER ? -EPROTO : -E2BIG);
		assert_why(&why, n == PK_MAX_WRAPPER ? "the pickle is bytes" : "a wrapper of 65537 bytes");
	}
}

/* One value per APPENDS: with an array that is copied on growth this would be quadratic. Here it costs two cells each
 * until the cells are used up. */
static void test_15_many_appends(void **state)
{
	enum { TURNS = (1 << 20) + 1024 };
	const size_t head = 3, turn = 3;
	size_t n = head + turn * TURNS + 1;
	uint8_t *p = mem_calloc(n, 1);
	struct why why = {0};

	assert_non_null(p);
	memcpy(p, "\x80\x04]", head);
	for (size_t i = 0; i < TURNS; i++)
		memcpy(p + head + turn * i, "(Ne", turn);
	p[n - 1] = '.';
	assert_int_equal(pk_tensors_parse(slice_of(p, n), *state, NULL, 0, &why), -E2BIG);
	assert_why(&why, "more values than");
	n = head + turn * (PK_MAX_TENSORS + 1);
	p[n] = '.';
	assert_int_equal(pk_tensors_parse(slice_of(p, n + 1), *state, NULL, 0, &why), -E2BIG);
	assert_why(&why, "a list of 65537 tensors");
	n = head + turn * PK_MAX_TENSORS;
	p[n] = '.';
	assert_int_equal(pk_tensors_parse(slice_of(p, n + 1), *state, NULL, 0, &why), -EPROTO);
	assert_why(&why, "element 0 is None, not a tensor");
	mem_free(p);
}

static void test_16_no_memory(void **state)
{
	uint64_t n = 1;
	struct pk_mem *m;

	(void)state;
	for (;; n++) {
		m = (struct pk_mem *)&n;
		mem_fail_at(n);
		if (pk_mem_create(&m) == 0)
			break;
		assert_null(m);
	}
	mem_fail_at(0);
	assert_int_equal(n, 8); /* seven allocations, each of which has failed once */
	assert_int_equal(parse_copy(m, LIT("\x80\x04."), NULL), -EPROTO);
	pk_mem_destroy(m);
	pk_mem_destroy(NULL);
}

static void test_17_dtypes(void **state)
{
	(void)state;
	for (int t = PK_DTYPE_NONE + 1; t < PK_DTYPE_COUNT; t++) {
		char with[64];

		snprintf(with, sizeof(with), "torch.%s", pk_dtype_name((enum pk_dtype)t));
		assert_int_equal(pk_dtype_parse(slice_str(with)), t);
		assert_int_equal(pk_dtype_parse(slice_str(with + 6)), t);
		assert_in_range(pk_dtype_size((enum pk_dtype)t), 1, 8);
	}
	assert_int_equal(pk_dtype_size(PK_BFLOAT16), 2);
	assert_int_equal(pk_dtype_size(PK_FLOAT64), 8);
	static const char *const not [] = {"",          "torch.",           "torch", "bfloat",
					   "bfloat16 ", "torch.torch.int8", "none",  "half"};
	for (size_t i = 0; i < sizeof(not ) / sizeof(not [0]); i++)
		assert_int_equal(pk_dtype_parse(slice_str(not [i])), PK_DTYPE_NONE);
	assert_int_equal(pk_dtype_size(PK_DTYPE_NONE), 0);
	assert_int_equal(pk_dtype_size(PK_DTYPE_COUNT), 0);
	assert_string_equal(pk_dtype_name(PK_DTYPE_COUNT), "none");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_01_golden),       cmocka_unit_test(test_02_opcodes),
		cmocka_unit_test(test_03_globals),      cmocka_unit_test(test_04_contexts),
		cmocka_unit_test(test_05_calls),        cmocka_unit_test(test_06_objects),
		cmocka_unit_test(test_07_containers),   cmocka_unit_test(test_08_cycles),
		cmocka_unit_test(test_09_nesting),      cmocka_unit_test(test_10_doubling),
		cmocka_unit_test(test_11_memo),         cmocka_unit_test(test_12_stack),
		cmocka_unit_test(test_13_integers),     cmocka_unit_test(test_14_envelope),
		cmocka_unit_test(test_15_many_appends), cmocka_unit_test(test_16_no_memory),
		cmocka_unit_test(test_17_dtypes),
	};
	return cmocka_run_group_tests(tests, setup_mem, teardown_mem);
}
