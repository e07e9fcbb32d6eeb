#include "tools/url.h"

#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

static void t01_forms(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		enum url_kind kind;
		const char *shown, *host, *port;
	} cases[] = {
		{"http://localhost:8080", URL_HTTP, "http://localhost:8080", "", ""},
		{"http://localhost:8080///", URL_HTTP, "http://localhost:8080", "", ""},
		{"https://kv.example/base/", URL_HTTP, "https://kv.example/base", "", ""},
		{"localhost:5555", URL_TCP, "tcp://localhost:5555", "localhost", "5555"},
		{"tcp://10.0.0.1:65535", URL_TCP, "tcp://10.0.0.1:65535", "10.0.0.1", "65535"},
		{"tcp://localhost:5555/", URL_TCP, "tcp://localhost:5555", "localhost", "5555"},
		{"[::1]:5555", URL_TCP, "tcp://[::1]:5555", "::1", "5555"},
		{"ipc:///tmp/lmcache.sock", URL_IPC, "ipc:///tmp/lmcache.sock", "", ""},
		{"ipc://@abstract", URL_IPC, "ipc://@abstract", "", ""},
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct url u;
		struct why why = {0};
		assert_int_equal(url_parse(cases[i].text, &u, &why), 0);
		assert_int_equal(u.kind, cases[i].kind);
		assert_string_equal(u.text, cases[i].shown);
		assert_string_equal(u.host, cases[i].host);
		assert_string_equal(u.port, cases[i].port);
	}
}

static void t02_refused(void **state)
{
	(void)state;
	static const char *const cases[] = {
		"",
		"localhost",
		":5555",
		"localhost:",
		"localhost:0",
		"localhost:65536",
		"localhost:99999999999",
		"host:12x",
		"ftp://x:1",
		"tcp://",
		"tcp://a:b:1",
		"::1:5555",
		"[::1:5555",
		"a/b:1",
		"a b:1",
		"user@host:1",
		"http://",
		"http:///",
		"http://a b",
		"ipc://",
		"[]:1",
		"tcp://http://a:1",
		"localhost:+55",
		"localhost:-1",
	};
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct url u;
		struct why why = {0};
		if (url_parse(cases[i], &u, &why) != -EINVAL)
			fail_msg("accepted: '%s'", cases[i]);
		assert_int_equal(why.err, -EINVAL);
	}
}

static void t03_long(void **state)
{
	(void)state;
	char text[2048];
	for (size_t n = 200; n < sizeof(text); n += 7) {
		struct url u;
		struct why why = {0};
		memset(text, 'a', n);
		memcpy(text + n - 3, ":55", 4);
		if (n - 3 < sizeof(u.host))
			assert_int_equal(url_parse(text, &u, &why), 0);
		else
			assert_int_equal(url_parse(text, &u, &why), -EINVAL);
	}
}

static void t04_reach(void **state)
{
	(void)state;
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	struct url u;
	struct why why = {0};
	char text[64];
	snprintf(text, sizeof(text), "localhost:%d", ntohs(a.sin_port));
	assert_int_equal(url_parse(text, &u, &why), 0);
	assert_int_equal(url_reach(&u, 1000, &why), -ECONNREFUSED); /* bound, not listening */
	assert_string_equal(why.text, "Connection refused");
	assert_int_equal(listen(fd, 1), 0);
	assert_int_equal(url_reach(&u, 1000, &why), 0);
	close(fd);
	assert_int_equal(url_parse("ipc:///nonexistent/x.sock", &u, &why), 0);
	assert_int_equal(url_reach(&u, 1000, &why), -ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(t01_forms),
		cmocka_unit_test(t02_refused),
		cmocka_unit_test(t03_long),
		cmocka_unit_test(t04_reach),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
