/* raw_test.c - raw_block: stripes, restart, limits, what is refused at the start, and the death of the process. */
#include "tests/unit/daemon/l2/raw_fixture.h"

#include <signal.h>
#include <sys/wait.h>

static void striped(void **state)
{
	(void)state;
	struct rx x;
	rx_make(&x, 3, 96 * MIB, "");
	for (uint64_t i = 0; i < 60; i++)
		assert_int_equal(fx_store(x.a, rx_key(&x, i), i, MIB + i * 1000), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(rx_objects(&x, i), 20);
	for (uint64_t i = 0; i < 60; i++) {
		assert_int_equal(fx_find(x.a, rx_key(&x, i)), MIB + i * 1000);
		assert_int_equal(fx_load(x.a, rx_key(&x, i), i, MIB + i * 1000), 0);
	}
	assert_int_equal(fx_store(x.a, rx_key(&x, 5), 5, MIB + 5000), -EEXIST);
	assert_int_equal(fx_load(x.a, rx_key(&x, 5), 5, MIB), -EMSGSIZE);
	assert_int_equal(fx_load(x.a, rx_key(&x, 500), 5, MIB), -ENOENT);
	assert_int_equal(fx_find(x.a, rx_key(&x, 500)), 0);
	assert_int_equal(fx_plain(x.a, x.a->ops->remove, rx_key(&x, 7)), 0);
	assert_int_equal(fx_plain(x.a, x.a->ops->remove, rx_key(&x, 7)), -ENOENT);
	assert_int_equal(fx_find(x.a, rx_key(&x, 7)), 0);
	struct l2_stats n = fx_stats(x.a);
	assert_int_equal(n.objects, 59);
	assert_int_equal(n.loads, 60);
	assert_int_equal(n.stores, 60);
	assert_true(n.healthy);
	assert_string_equal(n.state, "ok");
	assert_int_equal(fx_plain(x.a, x.a->ops->clear, rx_key(&x, 0)), 0);
	n = fx_stats(x.a);
	assert_int_equal(n.objects + n.used_bytes, 0);
	rx_free(&x);
}

static void many_at_once(void **state)
{
	(void)state;
	struct rx x;
	struct fx_io *io[200];
	rx_make(&x, 2, 128 * MIB, "");
	for (uint64_t i = 0; i < 200; i++) {
		io[i] = fx_new(300000);
		fx_start_store(x.a, io[i], rx_key(&x, i), i);
	}
	for (uint64_t i = 0; i < 200; i++)
		assert_int_equal(fx_result(io[i]), 0);
	for (uint64_t i = 0; i < 200; i++)
		fx_start_load(x.a, io[i], rx_key(&x, i));
	for (uint64_t i = 0; i < 200; i++) {
		assert_int_equal(fx_result(io[i]), 0);
		assert_true(fx_right(io[i]->mem, i, 300000));
		fx_free(io[i]);
	}
	rx_free(&x);
}

static void finds_in_batches(void **state)
{
	(void)state;
	struct rx x;
	struct seg_key keys[700];
	uint64_t bytes[700];
	bool done = false;
	rx_make(&x, 2, 64 * MIB, "");
	for (uint64_t i = 0; i < 700; i++) {
		keys[i] = rx_key(&x, i);
		if (i % 7 == 0)
			assert_int_equal(fx_store(x.a, keys[i], i, 4096 + i), 0);
	}
	struct l2_find f = {.keys = keys, .bytes = bytes, .n = 700, .done = fx_found, .owner = &done};
	x.a->ops->find(x.a, &f);
	assert_true(done);
	for (uint64_t i = 0; i < 700; i++)
		assert_int_equal(bytes[i], i % 7 ? 0 : 4096 + i);
	/* And a list of them all, over both devices. */
	struct l2_list_entry e[13];
	uint64_t cursor = 0, told = 0, sum = 0;
	do {
		uint32_t n = x.a->ops->list(x.a, &cursor, e, 13);
		for (uint32_t k = 0; k < n; k++, told++)
			sum += e[k].bytes;
	} while (cursor);
	assert_int_equal(told, 100);
	assert_int_equal(sum, 100 * 4096 + 7 * 99 * 100 / 2);
	rx_free(&x);
}

static void restart_keeps_all(void **state)
{
	(void)state;
	struct rx x;
	rx_make(&x, 2, 64 * MIB, "");
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(fx_store(x.a, rx_key(&x, i), i, MIB / 2 + i), 0);
	assert_int_equal(fx_plain(x.a, x.a->ops->remove, rx_key(&x, 3)), 0);
	assert_int_equal(fx_plain(x.a, x.a->ops->flush, rx_key(&x, 0)), 0);
	struct l2_stats before = fx_stats(x.a);
	rx_stop(&x, 5000);
	rx_start(&x, "");
	rx_recovered(x.a);
	struct l2_stats after = fx_stats(x.a);
	assert_int_equal(after.objects, before.objects);
	assert_int_equal(after.objects, 39);
	assert_int_equal(after.used_bytes, before.used_bytes);
	assert_int_equal(after.capacity_bytes, before.capacity_bytes);
	for (uint64_t i = 0; i < 40; i++)
		assert_int_equal(fx_load(x.a, rx_key(&x, i), i, MIB / 2 + i), i == 3 ? -ENOENT : 0);
	rx_free(&x);
}

static void rot_is_a_miss(void **state)
{
	(void)state;
	struct rx x;
	rx_make(&x, 1, 64 * MIB, "");
	assert_int_equal(fx_store(x.a, rx_key(&x, 1), 1, MIB), 0);
	assert_int_equal(fx_store(x.a, rx_key(&x, 2), 2, MIB), 0);
	x.disk[0].rot = true;
	assert_int_equal(fx_load(x.a, rx_key(&x, 1), 1, MIB), -EILSEQ);
	x.disk[0].rot = false;
	assert_int_equal(fx_find(x.a, rx_key(&x, 1)), 0);
	assert_int_equal(fx_load(x.a, rx_key(&x, 2), 2, MIB), 0);
	assert_int_equal(fx_stats(x.a).bad_checksums, 1);
	assert_true(rx_breaker(&x, 0, "closed"));
	rx_free(&x);
}

static void writes_have_a_budget(void **state)
{
	(void)state;
	struct rx x;
	uint32_t kept = 0, dropped = 0;
	/* 0.5 MiB/s: the bucket holds the least there is, 64 MiB. */
	rx_make(&x, 1, 256 * MIB, ", \"write_limit_mb\": 0.5");
	for (uint64_t i = 0; i < 40; i++) {
		int rc = fx_store(x.a, rx_key(&x, i), i, 2 * MIB);
		kept += rc == 0;
		dropped += rc == -EBUSY;
	}
	assert_in_range(kept, 32, 35);
	assert_int_equal(kept + dropped, 40);
	assert_int_equal(fx_stats(x.a).dropped, dropped);
	rx_free(&x);
}

static void larger_than_a_segment(void **state)
{
	(void)state;
	struct rx x;
	rx_make(&x, 1, 64 * MIB, "");
	assert_int_equal(fx_store(x.a, rx_key(&x, 1), 1, FX_MAX_BYTES),
			 -EFBIG); /* with its header: the segments are as large */
	assert_int_equal(fx_store(x.a, rx_key(&x, 2), 2, 6 * MIB), 0);
	assert_int_equal(fx_load(x.a, rx_key(&x, 2), 2, 6 * MIB), 0);
	assert_int_equal(fx_stats(x.a).dropped, 1);
	assert_true(rx_breaker(&x, 0, "closed"));
	rx_free(&x);
}

static void the_queue_has_an_end(void **state)
{
	(void)state;
	struct rx x;
	struct fx_io *io[120];
	uint32_t kept = 0, dropped = 0;
	rx_make(&x, 1, 256 * MIB, ", \"max_queue_mb\": 16");
	x.disk[0].delay_ns = 500 * MS;
	for (uint64_t i = 0; i < 120; i++) {
		io[i] = fx_new(MIB);
		fx_start_store(x.a, io[i], rx_key(&x, i), i);
	}
	x.disk[0].delay_ns = 0;
	for (uint64_t i = 0; i < 120; i++) {
		int rc = fx_result(io[i]);
		kept += rc == 0;
		dropped += rc == -EBUSY;
		fx_free(io[i]);
	}
	assert_int_equal(kept + dropped, 120);
	assert_true(kept >= 16);
	rx_free(&x);
}

/* ---- the start ---------------------------------------------------------------------------------------------------------------- */

static int try_real(const char *path, const char *more, struct why *why, struct l2 **out, struct seg_names *names)
{
	char json[512];
	struct l2_env env = {.names = names};
	snprintf(json, sizeof(json), "{\"type\": \"raw_block\", \"device_path\": \"%s\"%s}", path, more);
	struct l2_conf *c = fx_conf(json);
	int rc = l2_create(c, &env, out, why);
	l2_conf_free(c);
	return rc;
}

static void what_lies_there(void **state)
{
	(void)state;
	char path[64];
	struct why why = {0};
	struct l2 *a = NULL, *b = NULL;
	struct seg_names *names;
	snprintf(path, sizeof(path), "/tmp/lmca-raw-%d-f", getpid());
	unlink(path);
	assert_int_equal(seg_names_create(&names), 0);
	assert_int_equal(try_real("/dev/lmca-none", "", &why, &a, names), -ENOENT);
	assert_non_null(strstr(why.text, "/dev/lmca-none: there is no such device"));
	assert_int_equal(try_real(path, "", &why, &a, names), -EINVAL);
	assert_non_null(strstr(why.text, "capacity_bytes"));
	/* Absent: made. */
	assert_int_equal(try_real(path, ", \"capacity_bytes\": 67108864", &why, &a, names), 0);
	struct seg_name name = {.model = slice_str("m")};
	uint32_t id = seg_name_get(names, &name);
	assert_int_equal(fx_store(a, fx_key(id, 1), 1, 100000), 0);
	/* In use. */
	assert_true(try_real(path, "", &why, &b, names) < 0);
	assert_int_equal(why.err, -EBUSY);
	a->ops->close(a, 1000);
	/* Found again, however it is asked for. */
	assert_int_equal(try_real(path, ", \"io_engine\": \"posix\"", &why, &a, names), 0);
	rx_recovered(a);
	assert_int_equal(fx_load(a, fx_key(id, 1), 1, 100000), 0);
	a->ops->close(a, 1000);
	/* Somebody else's. */
	int fd = open(path, O_WRONLY | O_TRUNC);
	assert_int_equal(ftruncate(fd, 64 << 20), 0);
	assert_int_equal(pwrite(fd, "LMCIDX01", 8, 0), 8);
	close(fd);
	assert_int_equal(try_real(path, "", &why, &a, names), -EEXIST);
	assert_non_null(strstr(why.text, "LMCache raw_block"));
	assert_non_null(strstr(why.text, "lmcache-appliance l2 format --force"));
	unlink(path);
	seg_names_destroy(names);
}

static void memory_runs_out(void **state)
{
	(void)state;
	struct why why = {0};
	struct l2 *a = NULL;
	struct l2_env env = {.names = NULL};
	struct l2_conf *c = fx_conf("{\"type\": \"raw_block\", \"device_paths\": [\"/tmp/none-a\", \"/tmp/none-b\"]}");
	struct raw_opener opener = {0};
	for (uint64_t n = 1; n <= 5; n++) {
		mem_fail_at(n);
		assert_int_equal(l2_raw_create_with(c, &env, &opener, &a, &why), -ENOMEM);
		mem_fail_at(0);
	}
	l2_conf_free(c);
}

/* Lines with `word` among what was logged meanwhile. */
static uint32_t lines_with(const char *word, void (*work)(struct rx *x), struct rx *x)
{
	char text[4096] = "";
	FILE *f = tmpfile();
	int before = dup(2);
	uint32_t n = 0;
	assert_non_null(f);
	dup2(fileno(f), 2);
	work(x);
	dup2(before, 2);
	close(before);
	rewind(f);
	while (fgets(text, sizeof(text), f))
		n += strstr(text, word) != NULL;
	fclose(f);
	return n;
}

static void fitting(struct rx *x)
{
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(fx_store(x->a, rx_key(x, i), i, 2 * MIB - 8192), 0);
}

static void wasting(struct rx *x)
{
	for (uint64_t i = 10; i < 13; i++)
		assert_int_equal(fx_store(x->a, rx_key(x, i), i, 3 * MIB), 0);
}

static void objects_large_for_a_segment_are_told_once(void **state)
{
	(void)state;
	struct rx x;
	rx_make(&x, 1, 64 * MIB, "");
	rx_recovered(x.a);
	assert_int_equal(lines_with("larger segments", fitting, &x), 0);
	assert_int_equal(lines_with("--segment-size 24M", wasting, &x), 1);
	rx_free(&x);
}

/* ---- kill -9 ------------------------------------------------------------------------------------------------------------------------ */

/* The child tells each object that a flush has covered; after SIGKILL every one of them is there, with its bytes. */
static void stores_that_waited_get_more(void **state)
{
	const uint64_t second = 1000000000ull, window = 32ull << 20;
	uint64_t last = 0;

	(void)state;
	assert_int_equal(raw_write_share(0, window), DISK_SUB_MAX);
	assert_int_equal(raw_write_share(second, window), DISK_SUB_MAX);
	assert_int_equal(raw_write_share(4 * second, window), window / 4);
	assert_int_equal(raw_write_share(UINT64_MAX, window), window / 4);
	assert_int_equal(raw_write_share(4 * second, 1 << 20), DISK_SUB_MAX); /* never less than one */
	for (uint64_t t = 0; t < 5 * second; t += second / 10) {
		uint64_t share = raw_write_share(t, window);
		assert_true(share >= last && share <= window / 4);
		last = share;
	}
	assert_in_range(raw_write_share(5 * second / 2, window), 3 << 20, 6 << 20);
}

static void child(int pipe_fd, struct rx *x)
{
	for (uint64_t i = 0;; i += 4) {
		struct fx_io *io[4];
		for (uint64_t k = 0; k < 4; k++) {
			io[k] = fx_new(200000 + 1000 * k);
			fx_start_store(x->a, io[k], rx_key(x, i + k), i + k);
		}
		for (uint64_t k = 0; k < 4; k++) {
			fx_result(io[k]);
			fx_free(io[k]);
		}
		if (i % 16 == 12) {
			fx_plain(x->a, x->a->ops->flush, rx_key(x, 0));
			if (write(pipe_fd, &(uint64_t){i + 4}, 8) != 8 || i > 200)
				pause();
		}
	}
}

static void killed(void **state)
{
	(void)state;
	for (uint32_t round = 0; round < 5; round++) {
		struct rx x;
		int p[2];
		uint64_t flushed = 0, n;
		rx_make(&x, 2, 64 * MIB, "");
		rx_stop(&x, 1000);
		assert_int_equal(pipe(p), 0);
		pid_t pid = fork();
		if (pid == 0) {
			rx_start(&x, "");
			child(p[1], &x);
		}
		close(p[1]);
		for (uint32_t i = 0; i < 1 + 2 * round && read(p[0], &n, 8) == 8; i++)
			flushed = n;
		usleep(1000 * round);
		kill(pid, SIGKILL);
		while (read(p[0], &n, 8) == 8)
			flushed = n;
		waitpid(pid, NULL, 0);
		close(p[0]);
		assert_true(flushed > 0);
		rx_start(&x, "");
		rx_recovered(x.a);
		for (uint64_t i = 0; i < flushed; i++)
			assert_int_equal(fx_load(x.a, rx_key(&x, i), i, 200000 + 1000 * (i % 4)), 0);
		rx_free(&x);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(striped),
		cmocka_unit_test(many_at_once),
		cmocka_unit_test(finds_in_batches),
		cmocka_unit_test(restart_keeps_all),
		cmocka_unit_test(rot_is_a_miss),
		cmocka_unit_test(writes_have_a_budget),
		cmocka_unit_test(larger_than_a_segment),
		cmocka_unit_test(the_queue_has_an_end),
		cmocka_unit_test(what_lies_there),
		cmocka_unit_test(memory_runs_out),
		cmocka_unit_test(objects_large_for_a_segment_are_told_once),
		cmocka_unit_test(stores_that_waited_get_more),
		cmocka_unit_test(killed),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
