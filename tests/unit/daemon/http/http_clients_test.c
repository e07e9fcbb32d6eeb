/* Bad clients, slow clients, many clients. */
#include "tests/unit/daemon/http/fake.h"

static void t01_bodies_are_bounded(void **state)
{
	static char mib[1 << 20];
	struct fake *f = fake_start();
	struct answer a;
	int fd;

	(void)state;
	memset(mib, ' ', sizeof mib);
	/* Announced: refused before it is sent. */
	fd = dial(f);
	send_text(fd, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 1048577\r\n\r\n");
	a = read_answer(fd, false);
	assert_int_equal(a.status, 413);
	assert_string_equal(a.body, "{\"detail\":\"Request body too large\"}");
	free(a.body);
	close(fd);
	/* Exactly the limit passes. */
	fd = dial(f);
	mib[0] = '{';
	mib[1] = '}';
	send_text(fd, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 1048576\r\n\r\n");
	assert_true(send_bytes(fd, mib, sizeof mib));
	a = read_answer(fd, false);
	assert_int_equal(a.status, 200);
	free(a.body);
	close(fd);
	/* Chunked, two MiB: read on and refused. */
	fd = dial(f);
	send_text(fd, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	for (int i = 0; i < 2; i++) {
		send_text(fd, "100000\r\n");
		assert_true(send_bytes(fd, mib, sizeof mib));
		send_text(fd, "\r\n");
	}
	send_text(fd, "0\r\n\r\n");
	a = read_answer(fd, false);
	assert_int_equal(a.status, 413);
	free(a.body);
	close(fd);
	assert_int_equal(atomic_load(&f->clears), 1);
	fake_stop(f);
}

static void t02_an_endless_body_is_cut_off(void **state)
{
	static char mib[1 << 20];
	struct fake *f = fake_start();
	int fd = dial(f), sent = 0;

	(void)state;
	send_text(fd, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
	while (sent < 64 && send_bytes(fd, "100000\r\n", 8) && send_bytes(fd, mib, sizeof mib) &&
	       send_bytes(fd, "\r\n", 2))
		sent++;
	assert_true(sent >= 4 && sent < 64);
	close(fd);
	expect(f, "GET", "/healthcheck", "", 200, "{\"status\":\"healthy\"}");
	fake_stop(f);
}

static void t03_nonsense_gets_an_error_and_harms_nobody(void **state)
{
	static const char *const texts[] = {
		"\r\n\r\n",
		"GET\r\n\r\n",
		"\x16\x03\x01\x02\x01\xfc\x03\x03 tls client hello",
		"GET / HTTP/9.9\r\n\r\n",
		"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
		"GET / HTTP/1.1\r\nHost x\r\n\r\n",
		"POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
		"POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
		"POST /cache/clear HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
		"GET /healthcheck HTTP/1.1\r\n\r\n", /* no Host */
	};
	struct fake *f = fake_start();
	char big[64 * 1024];

	(void)state;
	for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
		int fd = dial(f);
		char c[512];

		send_text(fd, texts[i]);
		shutdown(fd, SHUT_WR);
		while (recv(fd, c, sizeof c, 0) > 0)
			;
		close(fd);
	}
	/* A request line and a header beyond the connection's memory. */
	for (int i = 0; i < 2; i++) {
		int fd = dial(f);
		struct answer a;

		memset(big, 'a', sizeof big);
		memcpy(big, i ? "GET / HTTP/1.1\r\nHost: " : "GET /", i ? 22 : 5);
		send_bytes(fd, big, sizeof big);
		a = read_answer(fd, false);
		assert_true(a.status == 0 || (a.status >= 400 && a.status < 500));
		free(a.body);
		close(fd);
	}
	/* A parameter longer than any salt or request id. */
	memset(big, 'a', 700);
	memcpy(big, "/quota/", 7);
	big[700] = '\0';
	expect(f, "GET", big, "", 400, "{\"detail\":\"Path parameter too long\"}");
	assert_int_equal(atomic_load(&f->clears), 0);
	expect(f, "GET", "/healthcheck", "", 200, "{\"status\":\"healthy\"}");
	fake_stop(f);
}

/* Waits for the server to close; returns the milliseconds it took. `drip` bytes go out meanwhile. */
static uint64_t wait_closed(int fd, const char *drip)
{
	struct timeval limit = {.tv_usec = 200000};
	uint64_t start = clock_ms();
	char c;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	while (clock_ms() - start < 15000) {
		ssize_t rc = recv(fd, &c, 1, 0);

		if (rc == 0 || (rc < 0 && errno != EAGAIN))
			return clock_ms() - start;
		if (rc < 0 && drip && *drip)
			send_bytes(fd, drip++, 1);
	}
	fail_msg("the server never closed the connection");
	return 0;
}

static void t04_silent_and_slow_clients_are_cut_off(void **state)
{
	struct fake *f = fake_start_with(
		(struct http_conf){.host = "127.0.0.1", .metrics = true, .idle_seconds = 1, .request_seconds = 2});
	char drip[200];
	uint64_t took;
	int fd;

	(void)state;
	fd = dial(f);
	took = wait_closed(fd, NULL); /* silent */
	assert_true(took >= 500 && took < 5000);
	close(fd);
	/* One byte every 200 ms never looks idle. */
	memset(drip, 'a', sizeof drip - 1);
	drip[sizeof drip - 1] = '\0';
	fd = dial(f);
	send_text(fd, "GET /healthcheck HTTP/1.1\r\nX: ");
	took = wait_closed(fd, drip);
	assert_true(took >= 1500 && took < 8000);
	close(fd);
	/* The same in the body. */
	fd = dial(f);
	send_text(fd, "POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n");
	took = wait_closed(fd, drip);
	assert_true(took >= 1500 && took < 8000);
	close(fd);
	assert_int_equal(atomic_load(&f->clears), 0);
	fake_stop(f);
}

static void t05_an_honest_connection_outlives_the_request_limit(void **state)
{
	struct fake *f = fake_start_with(
		(struct http_conf){.host = "127.0.0.1", .metrics = true, .idle_seconds = 5, .request_seconds = 1});
	int fd = dial(f);

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct answer a;

		send_text(fd, "GET /healthcheck HTTP/1.1\r\nHost: x\r\n\r\n");
		a = read_answer(fd, false);
		assert_int_equal(a.status, 200);
		free(a.body);
		usleep(400000);
	}
	close(fd);
	fake_stop(f);
}

/* More connections than one address may have: the surplus is turned away, the rest served, and all is well afterwards. */
static void t06_connections_are_bounded(void **state)
{
	struct fake *f = fake_start();
	int fds[200], served = 0;

	(void)state;
	for (int i = 0; i < 200; i++)
		fds[i] = dial(f);
	for (int i = 0; i < 200; i++) {
		struct answer a = {0};

		if (send_bytes(fds[i], "GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27))
			a = read_answer(fds[i], false);
		served += a.status == 200;
		free(a.body);
	}
	assert_true(served >= 64 && served <= 128);
	for (int i = 0; i < 200; i++)
		close(fds[i]);
	usleep(300000);
	expect(f, "GET", "/healthcheck", "", 200, "{\"status\":\"healthy\"}");
	fake_stop(f);
}

/* ---- threads --------------------------------------------------------------------------------------------------- */

struct client {
	struct fake *f;
	int id;
};

static void *hammer(void *arg)
{
	static const char *const paths[] = {"/metrics", "/status", "/healthcheck", "/quota"};
	struct client *c = arg;
	char salt[16];

	for (int i = 0; i < 25; i++) {
		struct slice v = slice_of(salt, (size_t)snprintf(salt, sizeof salt, "s%d", i * 8 + c->id));
		struct answer a;

		metric_series_add(c->f->metrics, metric_series_get(c->f->metrics, M_L1_READ_CHUNKS, &v, 1), 1);
		metric_observe(c->f->metrics, M_L1_CHUNK_LIFETIME, 1);
		a = ask(c->f, "GET", paths[(i + c->id) % 4], "");
		assert_int_equal(a.status, 200);
		free(a.body);
	}
	return NULL;
}

static void t07_many_clients_at_once(void **state)
{
	struct fake *f = fake_start();
	struct client c[8];
	pthread_t t[8];
	struct answer a;

	(void)state;
	for (int i = 0; i < 8; i++) {
		c[i] = (struct client){f, i};
		assert_int_equal(pthread_create(&t[i], NULL, hammer, &c[i]), 0);
	}
	for (int i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	a = ask(f, "GET", "/metrics", "");
	assert_non_null(strstr(a.body, "\nlmcache_mp_l1_read_keys_total 200\n"));
	assert_non_null(strstr(a.body, "\nlmcache_mp_l1_chunk_lifetime_seconds_count 200\n"));
	free(a.body);
	fake_stop(f);
}

static void t08_stop_with_open_connections(void **state)
{
	struct fake *f = fake_start();
	int fds[10];
	char c;

	(void)state;
	for (int i = 0; i < 10; i++) {
		fds[i] = dial(f);
		send_text(fds[i],
			  i % 2 ? "GET /hea" : "POST /cache/clear HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n{");
	}
	usleep(100000);
	fake_stop(f);
	for (int i = 0; i < 10; i++) {
		assert_true(recv(fds[i], &c, 1, 0) <= 0);
		close(fds[i]);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_bodies_are_bounded),
		cmocka_unit_test(t02_an_endless_body_is_cut_off),
		cmocka_unit_test(t03_nonsense_gets_an_error_and_harms_nobody),
		cmocka_unit_test(t04_silent_and_slow_clients_are_cut_off),
		cmocka_unit_test(t05_an_honest_connection_outlives_the_request_limit),
		cmocka_unit_test(t06_connections_are_bounded),
		cmocka_unit_test(t07_many_clients_at_once),
		cmocka_unit_test(t08_stop_with_open_connections),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
