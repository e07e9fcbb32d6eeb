/* raw_sim_test.c - raw_block over simulated disks that lie: no wrong byte, whatever they do, and what was flushed survives power loss. */
#include "tests/unit/daemon/l2/raw_fixture.h"

#include "transport/disk/disk_sim.h"

#define DISKS 2u
#define BYTES (32 * MIB)

struct sims {
	struct disk_sim *sim[DISKS];
	struct seg_names *names;
	uint32_t name;
	struct l2 *a;
};

static int open_sim(void *ctx, uint32_t index, const struct disk_conf *conf, struct disk **out, struct why *why)
{
	struct sims *s = ctx;
	return disk_sim_open(s->sim[index], conf, out, why);
}

/* A store is made in a file and then copied onto the medium. */
static void format_medium(struct disk_sim *sim)
{
	char path[64];
	struct why why = {0};
	snprintf(path, sizeof(path), "/tmp/lmca-raw-%d-sim", getpid());
	unlink(path);
	struct seg_format_conf f = {.path = path, .bytes = BYTES, .segment_bytes = 2 * MIB};
	if (seg_format(&f, &why))
		fail_msg("%s", why.text);
	int fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, disk_sim_medium(sim), BYTES), BYTES);
	close(fd);
	unlink(path);
}

static void start(struct sims *s)
{
	struct raw_opener opener = {s, open_sim};
	struct l2_env env = {.names = s->names};
	struct why why = {0};
	struct l2_conf *c = fx_conf("{\"type\": \"raw_block\", \"device_paths\": [\"sim0\", \"sim1\"]}");
	if (l2_raw_create_with(c, &env, &opener, &s->a, &why))
		fail_msg("%s", why.text);
	l2_conf_free(c);
}

static void make(struct sims *s, uint64_t seed)
{
	assert_int_equal(seg_names_create(&s->names), 0);
	struct seg_name name = {.model = slice_str("m")};
	s->name = seg_name_get(s->names, &name);
	for (uint32_t i = 0; i < DISKS; i++) {
		struct disk_sim_conf conf = {.bytes = BYTES,
					     .seed = seed * 2 + i,
					     .read_ns = 50000,
					     .write_ns = 50000,
					     .flush_ns = 100000,
					     .reorder = true};
		assert_int_equal(disk_sim_create(&conf, &s->sim[i]), 0);
		format_medium(s->sim[i]);
	}
}

static void end(struct sims *s)
{
	for (uint32_t i = 0; i < DISKS; i++)
		disk_sim_destroy(s->sim[i]);
	seg_names_destroy(s->names);
}

static void wait_recovered(struct sims *s)
{
	uint64_t until = clock_ms() + 20000;
	while (strncmp(fx_stats(s->a).state, "recovering", 10) == 0 && clock_ms() < until)
		usleep(1000);
}

static void lies(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct sims s;
		uint32_t right = 0, other = 0;
		make(&s, seed);
		struct disk_sim_faults f = {.read_error = 0.01,
					    .write_error = 0.01,
					    .rot_read = 0.05,
					    .rot_write = 0.02,
					    .dropped = 0.02,
					    .misdirected = 0.02,
					    .torn = 0.02};
		start(&s);
		wait_recovered(&s);
		s.a->ops->close(s.a, 1000);
		/* Not while a thread runs. */
		for (uint32_t i = 0; i < DISKS; i++)
			disk_sim_faults(s.sim[i], &f);
		struct raw_opener opener = {&s, open_sim};
		struct l2_env env = {.names = s.names};
		struct why why = {0};
		struct l2_conf *c = fx_conf("{\"type\": \"raw_block\", \"device_paths\": [\"sim0\", \"sim1\"]}");
		int rc = l2_raw_create_with(c, &env, &opener, &s.a, &why);
		l2_conf_free(c);
		if (rc) { /* what it read at the start was rotten: said, and nothing more */
			assert_true(why.text[0]);
			end(&s);
			continue;
		}
		wait_recovered(&s);
		for (uint64_t i = 0; i < 80; i++) {
			struct seg_key key = fx_key(s.name, i);
			fx_store(s.a, key, i, 100000 + i * 1000);
			int got = fx_load(s.a, key, i, 100000 + i * 1000); /* looks at every byte */
			assert_int_not_equal(got, -ETIME);
			right += got == 0;
			other += got != 0;
		}
		print_message("# seed %llu: %u loads right, %u missed\n", (unsigned long long)seed, right, other);
		assert_true(other > 0);
		s.a->ops->close(s.a, 1000);
		end(&s);
	}
}

static void power_loss(void **state)
{
	(void)state;
	for (uint64_t seed = 1; seed <= 4; seed++) {
		struct sims s;
		uint32_t lost = 0;
		make(&s, 100 + seed);
		start(&s);
		wait_recovered(&s);
		for (uint64_t i = 0; i < 60; i++)
			assert_int_equal(fx_store(s.a, fx_key(s.name, i), i, 200000 + i), 0);
		assert_int_equal(fx_plain(s.a, s.a->ops->flush, fx_key(s.name, 0)), 0);
		for (uint64_t i = 60; i < 80; i++)
			assert_int_equal(fx_store(s.a, fx_key(s.name, i), i, 200000 + i), 0);
		s.a->ops->close(s.a, 0);
		for (uint32_t i = 0; i < DISKS; i++)
			disk_sim_crash(s.sim[i]);
		start(&s);
		wait_recovered(&s);
		for (uint64_t i = 0; i < 80; i++) {
			int rc = fx_load(s.a, fx_key(s.name, i), i, 200000 + i);
			if (i < 60)
				assert_int_equal(rc, 0);
			else
				lost += rc != 0;
		}
		print_message("# seed %llu: 60 of 60 flushed objects, %u of 20 others lost\n", (unsigned long long)seed,
			      lost);
		s.a->ops->close(s.a, 1000);
		end(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lies),
		cmocka_unit_test(power_loss),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
