/* kill -9 of a process that writes, removes and recovers, on a real file: what was acknowledged is there, byte for byte; what was removed is
 * not; and no byte is ever wrong.
 *
 * A child works on the store and tells through shared memory what was acknowledged; it is killed after a random time, which is also during
 * recovery and sealing. The next child recovers, checks all keys, and goes on. LMCA_KILL_ROUNDS sets how often (30).
 */
#include "daemon/seg/seg.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "tests/unit/daemon/seg/image.h"

#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define MIB       1048576u
#define STORE     (512u * MIB)
#define SEGMENT   (4u * MIB)
#define MAX_BYTES (200u << 10)
#define AT_ONCE   16u
#define KEYS      20000u
/* Lives of one store, and bytes that each writes at most: with the segments that every death leaves half empty still so far below the
 * store's size that nothing is evicted. */
#define LIVES     10u
#define PER_CHILD (6u * MIB)

enum told { ABSENT, DOUBT, STORED, REMOVED };

struct shared {
	_Atomic uint8_t told[KEYS];
	_Atomic uint32_t next;   /* key to be written next */
	_Atomic uint32_t oldest; /* first key of this store */
	_Atomic uint32_t checked, lost, wrong, back, kills_in_recovery;
	_Atomic bool recovering, working;
	char what[200];
};

static struct shared *sh;
static char path[128];

struct work {
	struct seg_op op;
	uint32_t key, sums[4];
	bool busy;
};

static uint64_t bytes_of(uint32_t key)
{
	return 1 + (uint64_t)key * 7919 % MAX_BYTES;
}

/* ---- the child -------------------------------------------------------------------------------------------------------- */

struct child {
	struct seg *s;
	uint32_t name, in_flight;
	uint8_t *memory, *right;
	struct work work[AT_ONCE];
	uint64_t rng;
};

static uint32_t roll(struct child *c, uint32_t n)
{
	c->rng = c->rng * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(c->rng >> 33) % n;
}

static void die(const char *what, int rc)
{
	snprintf(sh->what, sizeof(sh->what), "%s: %s", what, strerror(-rc));
	_exit(9);
}

/* The process before may have been killed with IO under way: the kernel lets go of the file when that has ended. */
static void open_store(struct child *c)
{
	const struct disk_conf dc = {.path = path, .write = true, .exclusive = true};
	struct seg_conf sc = {.memory = c->memory, .verify = true, .readmit = 0.1};
	struct seg_name name = image_name(1);
	struct why why = {0};
	int rc = -EBUSY;

	for (int i = 0; rc == -EBUSY && i < 500; i++, usleep(10000))
		rc = disk_open(&dc, &sc.disk, &why);
	if (rc)
		die(why.text, rc);
	if (seg_names_create(&sc.names))
		die("names", -ENOMEM);
	c->name = seg_name_get(sc.names, &name);
	rc = seg_open(&sc, &c->s, &why);
	if (rc)
		die(why.text, rc);
	atomic_store(&sh->recovering, true);
	while (!seg_recovered(c->s))
		seg_run(c->s, 1000000);
	atomic_store(&sh->recovering, false);
}

static void done(struct seg_op *op)
{
	struct work *w = op->owner;

	if (op->kind == SEG_WRITE && op->result == 0)
		atomic_store(&sh->told[w->key], STORED);
	if (op->kind == SEG_REMOVE && op->result == 0)
		atomic_store(&sh->told[w->key], REMOVED);
	w->busy = false;
}

static void submit(struct child *c, struct work *w, enum seg_op_kind kind, uint32_t key)
{
	void *mem = w->op.mem;

	w->key = key;
	w->busy = true;
	w->sums[0] = 0;
	w->op = (struct seg_op){.kind = kind,
				.key = {.name = c->name, .hash = image_hash(key)},
				.mem = mem,
				.bytes = kind == SEG_REMOVE ? 0 : bytes_of(key),
				.sums = w->sums,
				.done = done,
				.owner = w};
	seg_submit(c->s, &w->op);
}

static void wait_for(struct child *c, const struct work *w)
{
	while (w->busy)
		seg_run(c->s, 1000000);
}

static void check_key(struct child *c, uint32_t key)
{
	struct work *w = &c->work[0];
	uint8_t told = atomic_load(&sh->told[key]);

	if (told == ABSENT)
		return;
	submit(c, w, SEG_READ, key);
	wait_for(c, w);
	atomic_fetch_add(&sh->checked, 1);
	if (w->op.result == 0) {
		image_payload(c->right, w->op.bytes, key);
		if (memcmp(c->right, w->op.mem, w->op.bytes) != 0)
			atomic_fetch_add(&sh->wrong, 1);
		if (told == REMOVED)
			atomic_fetch_add(&sh->back, 1);
	} else if (told == STORED) {
		snprintf(sh->what, sizeof(sh->what), "key %u: %s", key, strerror(-w->op.result));
		atomic_fetch_add(&sh->lost, 1);
	}
}

static void one_more(struct child *c, struct work *w, uint64_t *budget)
{
	uint32_t key;

	if (roll(c, 8) == 0 && atomic_load(&sh->next) > 0) {
		key = atomic_load(&sh->oldest) + roll(c, atomic_load(&sh->next) - atomic_load(&sh->oldest) + 1);
		if (key < KEYS && atomic_load(&sh->told[key]) == STORED) {
			atomic_store(&sh->told[key], DOUBT);
			submit(c, w, SEG_REMOVE, key);
		}
		return;
	}
	key = atomic_load(&sh->next);
	if (key >= KEYS || bytes_of(key) > *budget)
		return;
	*budget -= bytes_of(key);
	atomic_store(&sh->next, key + 1);
	atomic_store(&sh->told[key], DOUBT);
	image_payload(w->op.mem, bytes_of(key), key);
	submit(c, w, SEG_WRITE, key);
}

static void live(uint64_t seed)
{
	struct child c = {.rng = seed};
	uint64_t budget = PER_CHILD;

	log_set_level(LOG_LVL_ERROR);
	c.memory = aligned_alloc(DISK_ALIGN, SEG_MEMORY);
	c.right = malloc(MAX_BYTES + DISK_ALIGN);
	for (uint32_t i = 0; i < AT_ONCE; i++)
		c.work[i].op.mem = aligned_alloc(DISK_ALIGN, MAX_BYTES + DISK_ALIGN);
	open_store(&c);
	for (uint32_t key = atomic_load(&sh->oldest); key < atomic_load(&sh->next); key++)
		check_key(&c, key);
	atomic_store(&sh->working, true);
	for (;;) {
		for (uint32_t i = 0; i < AT_ONCE; i++)
			if (!c.work[i].busy)
				one_more(&c, &c.work[i], &budget);
		seg_run(c.s, 1000000);
	}
}

/* ---- the parent -------------------------------------------------------------------------------------------------------- */

/* The process before may still hold the old one for a moment. */
static void fresh_store(void)
{
	const struct seg_format_conf fc = {.path = path, .bytes = STORE, .segment_bytes = SEGMENT, .force = true};
	struct why why = {0};
	int rc = -EBUSY;

	for (int i = 0; rc == -EBUSY && i < 500; i++, usleep(10000))
		rc = seg_format(&fc, &why);
	if (rc)
		fail_msg("%s", why.text);
	atomic_store(&sh->oldest, atomic_load(&sh->next));
}

static void killed_anywhere(void **state)
{
	(void)state;
	const char *text = getenv("LMCA_KILL_ROUNDS"), *dir = getenv("TMPDIR");
	uint32_t rounds = text ? (uint32_t)strtoul(text, NULL, 10) : 30;
	uint64_t rng = 12345;

	snprintf(path, sizeof(path), "%.80s/seg-kill-%d", dir ? dir : "/var/tmp", (int)getpid());
	sh = mmap(NULL, sizeof(*sh), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(sh, MAP_FAILED);
	for (uint32_t i = 0; i < rounds; i++) {
		int status;

		if (i % LIVES == 0)
			fresh_store();

		rng = rng * 6364136223846793005u + 1442695040888963407u;
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (pid == 0)
			live(rng);
		/* Mostly while it works, sometimes while it starts. */
		for (uint32_t ms = 0; i % 4 && !atomic_load(&sh->working) && ms < 20000; ms++)
			usleep(1000);
		usleep((useconds_t)((rng >> 33) % 100000));
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status))
			fail_msg("round %u: %s", i, sh->what);
		atomic_store(&sh->working, false);
		atomic_fetch_add(&sh->kills_in_recovery, atomic_exchange(&sh->recovering, false));
	}
	printf("# %u kills, %u of them in recovery; %u keys written, %u reads checked\n", rounds,
	       atomic_load(&sh->kills_in_recovery), atomic_load(&sh->next), atomic_load(&sh->checked));
	unlink(path);
	if (atomic_load(&sh->lost))
		fail_msg("%u acknowledged objects are lost: %s", atomic_load(&sh->lost), sh->what);
	assert_int_equal(atomic_load(&sh->wrong), 0);
	assert_int_equal(atomic_load(&sh->back), 0);
	if (rounds >= 30)
		assert_true(atomic_load(&sh->checked) > 100);
	munmap(sh, sizeof(*sh));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(killed_anywhere)};

	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
