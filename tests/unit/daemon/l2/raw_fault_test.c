/* raw_fault_test.c - raw_block when a device fails, hangs, slows down or goes away: the others do not notice, and it comes back. */
#include "tests/unit/daemon/l2/raw_fixture.h"

#define OBJECTS 64u
#define BYTES   (256u << 10)

/* Objects 0 .. OBJECTS - 1, in turn over two devices: even ones on device 0, odd ones on device 1. */
static void two_devices(struct rx *x)
{
	rx_make(x, 2, 128 * MIB, "");
	for (uint64_t i = 0; i < OBJECTS; i++)
		assert_int_equal(fx_store(x->a, rx_key(x, i), i, BYTES), 0);
	assert_int_equal(rx_objects(x, 0), OBJECTS / 2);
}

static int by_value(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

/* p99 of 400 loads from device 1, one at a time. */
static uint64_t p99_of_the_other(struct rx *x)
{
	uint64_t ns[400];
	struct fx_io *io = fx_new(BYTES);
	for (uint64_t i = 0; i < 400; i++) {
		uint64_t number = i * 2 % OBJECTS + 1, start = clock_ns();
		fx_start_load(x->a, io, rx_key(x, number));
		assert_int_equal(fx_result(io), 0);
		ns[i] = io->done_ns - start;
		assert_true(fx_right(io->mem, number, BYTES));
	}
	fx_free(io);
	qsort(ns, 400, sizeof(ns[0]), by_value);
	return ns[395];
}

static void one_hangs(void **state)
{
	(void)state;
	struct rx x;
	struct fx_io *stuck[8];
	two_devices(&x);
	x.disk[1].delay_ns = 2 * MS; /* so that noise of the machine is small beside it */
	uint64_t alone = p99_of_the_other(&x);
	x.disk[0].hang = true;
	for (uint64_t i = 0; i < 8; i++) {
		stuck[i] = fx_new(BYTES);
		fx_start_load(x.a, stuck[i], rx_key(&x, i * 2));
	}
	uint64_t beside = p99_of_the_other(&x);
	print_message("# p99 of the healthy device: %.2f ms alone, %.2f ms while the other hangs: %.2f times\n",
		      (double)alone / 1e6, (double)beside / 1e6, (double)beside / (double)alone);
	assert_true((double)beside < 2.0 * (double)alone);
	assert_true(rx_until(&x, 0, "open", 4000) || rx_breaker(&x, 0, "half_open"));
	/* What it has is a miss now, and stores go elsewhere. Its buffers stay with it. */
	for (uint64_t i = 0; i < OBJECTS; i++)
		assert_int_equal(fx_find(x.a, rx_key(&x, i)), i % 2 ? BYTES : 0);
	uint64_t start = clock_ns();
	assert_true(fx_load(x.a, rx_key(&x, 0), 0, BYTES) < 0);
	assert_true(clock_ns() - start < 500 * MS);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(fx_store(x.a, rx_key(&x, 1000 + i), 1000 + i, BYTES), 0);
	assert_int_equal(rx_objects(&x, 1), OBJECTS / 2 + 6);
	start = clock_ns();
	assert_int_equal(fx_plain(x.a, x.a->ops->flush, rx_key(&x, 0)), -EBUSY);
	assert_true(clock_ns() - start < 1000 * MS);
	for (uint64_t i = 0; i < 8; i++)
		assert_false(stuck[i]->is_done);
	assert_false(fx_stats(x.a).healthy);
	/* It comes back: what hung is done, with the right bytes, and it is used again. */
	x.disk[0].hang = false;
	assert_true(rx_until(&x, 0, "closed", 70000));
	for (uint64_t i = 0; i < 8; i++) {
		assert_int_equal(fx_result(stuck[i]), 0);
		assert_true(fx_right(stuck[i]->mem, i * 2, BYTES));
		fx_free(stuck[i]);
	}
	for (uint64_t i = 0; i < OBJECTS; i++)
		assert_int_equal(fx_load(x.a, rx_key(&x, i), i, BYTES), 0);
	assert_true(fx_stats(x.a).healthy);
	rx_free(&x);
}

static void writes_fail(void **state)
{
	(void)state;
	struct rx x;
	two_devices(&x);
	x.disk[0].write_error = true;
	uint32_t failed = 0, kept = 0;
	for (uint64_t i = 0; i < 40; i++) {
		int rc = fx_store(x.a, rx_key(&x, 2000 + i), 2000 + i, BYTES);
		failed += rc == -EIO;
		kept += rc == 0;
	}
	assert_true(rx_until(&x, 0, "writes_off", 3000) || rx_breaker(&x, 0, "half_open"));
	assert_in_range(failed, 1, 6);
	assert_true(kept >= 30);
	/* No failed one is visible; what is there can be read. */
	for (uint64_t i = 0; i < 40; i++)
		if (fx_find(x.a, rx_key(&x, 2000 + i)))
			assert_int_equal(fx_load(x.a, rx_key(&x, 2000 + i), 2000 + i, BYTES), 0);
	for (uint64_t i = 0; i < OBJECTS; i++)
		assert_int_equal(fx_load(x.a, rx_key(&x, i), i, BYTES), 0);
	x.disk[0].write_error = false;
	assert_true(rx_until(&x, 0, "closed", 20000));
	uint64_t before = rx_objects(&x, 0);
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(fx_store(x.a, rx_key(&x, 3000 + i), i, BYTES), 0);
	assert_int_equal(rx_objects(&x, 0), before + 2);
	rx_free(&x);
}

static void reads_fail(void **state)
{
	(void)state;
	struct rx x;
	two_devices(&x);
	x.disk[0].read_error = true;
	for (uint64_t i = 0; i < 3; i++)
		assert_int_equal(fx_load(x.a, rx_key(&x, i * 2), i * 2, BYTES), -EIO);
	assert_true(rx_until(&x, 0, "open", 1000) || rx_breaker(&x, 0, "half_open"));
	assert_int_equal(fx_find(x.a, rx_key(&x, 20)), 0);
	assert_int_equal(fx_load(x.a, rx_key(&x, 1), 1, BYTES), 0);
	usleep(1500000); /* a probe fails meanwhile */
	assert_false(rx_breaker(&x, 0, "closed"));
	x.disk[0].read_error = false;
	assert_true(rx_until(&x, 0, "closed", 20000));
	assert_int_equal(fx_load(x.a, rx_key(&x, 20), 20, BYTES), 0); /* the index was kept */
	assert_int_equal(x.disk[0].opens, 1);
	rx_free(&x);
}

static void gone_and_back(void **state)
{
	(void)state;
	struct rx x;
	two_devices(&x);
	assert_int_equal(fx_plain(x.a, x.a->ops->flush, rx_key(&x, 0)), 0);
	x.disk[0].gone = true;
	uint64_t start = clock_ns();
	assert_int_equal(fx_load(x.a, rx_key(&x, 0), 0, BYTES), -ENODEV);
	assert_true(rx_until(&x, 0, "open", 1000));
	assert_true(clock_ns() - start < 1000 * MS);
	assert_int_equal(fx_find(x.a, rx_key(&x, 2)), 0);
	assert_int_equal(fx_load(x.a, rx_key(&x, 1), 1, BYTES), 0);
	assert_int_equal(fx_store(x.a, rx_key(&x, 900), 900, BYTES), 0);
	usleep(2000000); /* it is looked for in vain */
	assert_int_equal(fx_load(x.a, rx_key(&x, 3), 3, BYTES), 0);
	x.disk[0].gone = false;
	assert_true(rx_until(&x, 0, "closed", 20000));
	assert_true(x.disk[0].opens >= 2);
	rx_recovered(x.a);
	for (uint64_t i = 0; i < OBJECTS; i++)
		assert_int_equal(fx_load(x.a, rx_key(&x, i), i, BYTES), 0);
	rx_free(&x);
}

static void closed_while_it_hangs(void **state)
{
	(void)state;
	struct rx x;
	struct fx_io *stuck[4];
	two_devices(&x);
	x.disk[0].hang = true;
	for (uint64_t i = 0; i < 4; i++) {
		stuck[i] = fx_new(BYTES);
		if (i < 2)
			fx_start_load(x.a, stuck[i], rx_key(&x, i * 2));
		else
			fx_start_store(x.a, stuck[i], rx_key(&x, 5000 + i), i);
	}
	usleep(100000);
	uint64_t start = clock_ns();
	rx_stop(&x, 200);
	assert_true(clock_ns() - start < 2000 * MS);
	for (uint64_t i = 0; i < 4; i++) {
		assert_true(stuck[i]->is_done);
		assert_true(stuck[i]->io.result == -ECANCELED || stuck[i]->io.result == 0);
	}
	assert_int_equal(stuck[0]->io.result, -ECANCELED);
	/* Now it writes into the buffers after all: they are still there. */
	rx_free(&x);
	for (uint64_t i = 0; i < 4; i++)
		fx_free(stuck[i]);
}

/* Threads that store, load and remove while one device comes and goes: nothing is lost that should not be, no wrong byte. */
struct storm {
	struct rx *x;
	uint64_t first;
	_Atomic bool *stop;
	uint64_t right, lost;
};

static void *storm(void *p)
{
	struct storm *s = p;
	for (uint64_t i = 0; !*s->stop; i++) {
		uint64_t n = s->first + i % 40;
		if (fx_store(s->x->a, rx_key(s->x, n), n, BYTES) == -ETIME)
			s->lost++;
		int rc = fx_load(s->x->a, rx_key(s->x, n), n, BYTES); /* checks the bytes */
		s->right += rc == 0;
		s->lost += rc == -ETIME;
		if (i % 3 == 0)
			fx_plain(s->x->a, s->x->a->ops->remove, rx_key(s->x, n));
		if (i % 16 == 0)
			fx_plain(s->x->a, s->x->a->ops->flush, rx_key(s->x, 0));
	}
	return NULL;
}

static void storms(void **state)
{
	(void)state;
	struct rx x;
	_Atomic bool stop = false;
	pthread_t t[4];
	struct storm s[4];
	rx_make(&x, 2, 128 * MIB, "");
	for (uint32_t i = 0; i < 4; i++) {
		s[i] = (struct storm){.x = &x, .first = 10000 * i, .stop = &stop};
		pthread_create(&t[i], NULL, storm, &s[i]);
	}
	for (uint32_t i = 0; i < 3; i++) {
		usleep(100000);
		x.disk[0].gone = true;
		usleep(400000);
		x.disk[0].gone = false;
		usleep(900000);
		x.disk[1].read_error = true;
		usleep(100000);
		x.disk[1].read_error = false;
	}
	stop = true;
	for (uint32_t i = 0; i < 4; i++) {
		pthread_join(t[i], NULL);
		assert_int_equal(s[i].lost, 0);
		assert_true(s[i].right > 0);
	}
	assert_true(rx_until(&x, 0, "closed", 30000) && rx_until(&x, 1, "closed", 30000));
	rx_free(&x);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_hangs),     cmocka_unit_test(writes_fail),           cmocka_unit_test(reads_fail),
		cmocka_unit_test(gone_and_back), cmocka_unit_test(closed_while_it_hangs), cmocka_unit_test(storms),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
