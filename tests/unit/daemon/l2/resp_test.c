/* resp_test.c - objects in a real redis-server, where there is one, and what a hostile server can do. */
#include "tests/unit/daemon/l2/l2_sync.h"

#include "daemon/base/log.h"
#include "daemon/base/mem.h"
#include "daemon/l2/resp_int.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], sock[96];
static pid_t server;

static int set_up(void **state)
{
	(void)state;
	log_set_level(LOG_LVL_ERROR);
	memcpy(dir, "/tmp/lmca-resp-test-XXXXXX", 27);
	assert_non_null(mkdtemp(dir));
	snprintf(sock, sizeof(sock), "%s/s", dir);
	server = 0;
	return seg_names_create(&names);
}

static void stop_redis(void)
{
	if (server > 0) {
		kill(server, SIGKILL);
		waitpid(server, NULL, 0);
	}
	server = 0;
}

static int tear_down(void **state)
{
	(void)state;
	stop_redis();
	unlink(sock);
	seg_names_destroy(names);
	return rmdir(dir);
}

static bool answers(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	bool up = connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0;
	close(fd);
	return up;
}

static void start_redis(const char *more, const char *value)
{
	server = fork();
	if (server == 0) {
		int null = open("/dev/null", O_RDWR);
		dup2(null, 1);
		dup2(null, 2);
		execlp("redis-server", "redis-server", "--port", "0", "--unixsocket", sock, "--save", "", "--dir", dir,
		       more, value, (char *)NULL);
		_exit(77);
	}
	for (int i = 0; i < 5000; i++) {
		int status;
		if (waitpid(server, &status, WNOHANG) == server) {
			server = 0;
			print_message("# no redis-server here: skipped\n");
			skip();
		}
		if (answers())
			return;
		nanosleep(&(struct timespec){.tv_nsec = 2000000}, NULL);
	}
	fail_msg("redis-server does not answer");
}

static struct l2 *open_resp(const char *more)
{
	char json[512];
	snprintf(json, sizeof(json), "{\"type\": \"resp\", \"host\": \"%s\", \"port\": 0%s%s}", sock, *more ? ", " : "",
		 more);
	return make_l2(json, 0, NULL);
}

static void close_resp(struct l2 *a)
{
	a->ops->close(a, 5000);
}

/* A command on a connection of its own; the first line of the answer. */
static const char *say(const char *command, const void *value, size_t n)
{
	static char answer[128];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(write(fd, command, strlen(command)), strlen(command));
	if (n)
		assert_int_equal(write(fd, value, n), n);
	if (n)
		assert_int_equal(write(fd, "\r\n", 2), 2);
	ssize_t k = read(fd, answer, sizeof(answer) - 1);
	assert_true(k > 0);
	answer[k] = 0;
	answer[strcspn(answer, "\r")] = 0;
	close(fd);
	return answer;
}

static const char *key_text(struct seg_key key)
{
	static struct resp_key k;
	resp_key(&k, names, &key);
	k.mark[k.mark_bytes] = 0;
	return k.text;
}

static const char *ask(const char *verb, struct seg_key key)
{
	char command[2048];
	const char *text = key_text(key);
	snprintf(command, sizeof(command), "*2\r\n$%zu\r\n%s\r\n$%zu\r\n%s\r\n", strlen(verb), verb, strlen(text),
		 text);
	return say(command, NULL, 0);
}

static void set_value(struct seg_key key, const void *value, size_t n)
{
	char command[2048];
	const char *text = key_text(key);
	snprintf(command, sizeof(command), "*3\r\n$3\r\nSET\r\n$%zu\r\n%s\r\n$%zu\r\n", strlen(text), text, n);
	assert_string_equal(say(command, value, n), "+OK");
}

/* ---- a real server ------------------------------------------------------------------------------------------------------- */

static void stored_and_loaded(void **state)
{
	(void)state;
	static const uint64_t bytes[] = {1, 4096, 16384, 100001, CRC_BLOCK, 5 * CRC_BLOCK + 3};
	start_redis("--databases", "1");
	struct l2 *a = open_resp("");
	uint32_t name = name_of("meta-llama/Llama", 0x04020402, 10, "t@1", 1);
	for (uint64_t i = 0; i < sizeof(bytes) / sizeof(bytes[0]); i++) {
		assert_int_equal(find_one(a, key_of(name, i)), 0);
		assert_int_equal(load_number(a, name, i, bytes[i]), -ENOENT);
		assert_int_equal(store_number(a, name, i, bytes[i]), 0);
		assert_int_equal(store_number(a, name, i, bytes[i]), -EEXIST);
		assert_int_equal(find_one(a, key_of(name, i)), bytes[i]);
		assert_int_equal(load_number(a, name, i, bytes[i]), 0);
	}
	const char *text = key_text(key_of(name, 1));
	assert_true(strncmp(text, "meta-llama/Llama@04020402@a@", 28) == 0 && strcmp(text + 28 + 64, "@t@1") == 0);
	assert_string_equal(ask("STRLEN", key_of(name, 1)), ":4096"); /* the bare payload */
	assert_int_equal(load_number(a, name, 1, 4095), -EMSGSIZE);
	assert_int_equal(load_number(a, name, 2, 16384), 0);
	assert_int_equal(run_io(a, a->ops->remove, key_of(name, 1), NULL, 0, NULL), 0);
	assert_int_equal(run_io(a, a->ops->remove, key_of(name, 1), NULL, 0, NULL), -ENOENT);
	assert_int_equal(run_io(a, a->ops->flush, key_of(name, 1), NULL, 0, NULL), 0);
	struct l2_stats n = stats_of(a);
	assert_true(n.healthy && strcmp(n.state, "ok") == 0 && n.stores == 6 && n.present == 6 && n.loads == 7);
	close_resp(a);
	/* a new run finds what is there, and clears all of it and nothing else */
	assert_string_equal(say("*3\r\n$3\r\nSET\r\n$5\r\nother\r\n$1\r\n", "x", 1), "+OK");
	a = open_resp("");
	assert_int_equal(find_one(a, key_of(name, 5)), bytes[5]);
	assert_int_equal(load_number(a, name, 5, bytes[5]), 0);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	assert_int_equal(find_one(a, key_of(name, 5)), 0);
	assert_string_equal(say("*1\r\n$6\r\nDBSIZE\r\n", NULL, 0), ":1");
	close_resp(a);
}

static void many_at_once(void **state)
{
	enum { N = 400, BYTES = 30000 };
	(void)state;
	start_redis("--databases", "1");
	struct l2 *a = open_resp("\"num_workers\": 3");
	uint32_t name = name_of("m", 1, 0, "", 1);
	static struct l2_io io[N];
	static uint32_t sums[N][1];
	uint8_t *mem = malloc((size_t)N * BYTES);
	static struct seg_key keys[N + 50];
	static uint64_t found[N + 50];
	sem_t sem;
	sem_init(&sem, 0, 0);
	for (int pass = 0; pass < 2; pass++) {
		for (uint64_t i = 0; i < N; i++) {
			uint8_t *p = mem + i * BYTES;
			if (pass == 0)
				content(p, BYTES, i);
			else
				memset(p, 0, BYTES);
			sums[i][0] = 0;
			io[i] = (struct l2_io){.key = key_of(name, i), .mem = p, .bytes = BYTES, .sums = sums[i]};
			io[i].done = io_posted;
			io[i].owner = &sem;
			(pass == 0 ? a->ops->store : a->ops->load)(a, &io[i]);
		}
		for (int i = 0; i < N; i++)
			while (sem_wait(&sem))
				;
		for (uint64_t i = 0; i < N; i++) {
			uint8_t want[BYTES];
			content(want, BYTES, i);
			assert_int_equal(io[i].result, 0);
			assert_memory_equal(mem + i * BYTES, want, BYTES);
			assert_int_equal(sums[i][0], crc32c(0, want, BYTES));
		}
	}
	for (uint64_t i = 0; i < N + 50; i++)
		keys[i] = key_of(name, i);
	struct l2_find f = {.keys = keys, .bytes = found, .n = N + 50, .done = find_posted, .owner = &sem};
	a->ops->find(a, &f);
	while (sem_wait(&sem))
		;
	for (uint64_t i = 0; i < N + 50; i++)
		assert_int_equal(found[i], i < N ? BYTES : 0);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	assert_string_equal(say("*1\r\n$6\r\nDBSIZE\r\n", NULL, 0), ":0");
	free(mem);
	close_resp(a);
	sem_destroy(&sem);
}

static void changed_on_the_server(void **state)
{
	(void)state;
	uint8_t value[5000];
	start_redis("--databases", "1");
	struct l2 *a = open_resp("");
	uint32_t name = name_of("m", 1, 0, "", 1), other = name_of("m", 1, 0, "", 2);
	for (uint64_t i = 0; i < 4; i++)
		assert_int_equal(store_number(a, name, i, 5000), 0);
	content(value, sizeof(value), 0);
	value[77] ^= 1;
	set_value(key_of(name, 0), value, sizeof(value));
	assert_int_equal(load_number(a, name, 0, 5000), -EILSEQ);
	assert_int_equal(find_one(a, key_of(name, 0)), 0);
	assert_string_equal(ask("DEL", key_of(name, 1)), ":1");
	assert_int_equal(load_number(a, name, 1, 5000), -ENOENT);
	assert_int_equal(store_number(a, name, 1, 5000), 0);
	assert_string_equal(ask("DEL", key_of(name, 2)), ":1");
	char push[512];
	const char *text = key_text(key_of(name, 2));
	snprintf(push, sizeof(push), "*3\r\n$5\r\nLPUSH\r\n$%zu\r\n%s\r\n$1\r\nx\r\n", strlen(text), text);
	assert_string_equal(say(push, NULL, 0), ":1");
	assert_int_equal(find_one(a, key_of(name, 2)), 0);
	assert_int_equal(load_number(a, name, 2, 5000), -ENOENT);
	assert_true(stats_of(a).healthy && stats_of(a).bad_checksums == 1);
	close_resp(a);
	/* after a restart the mark beside the value tells */
	a = open_resp("");
	content(value, sizeof(value), 3);
	assert_int_equal(load_number(a, other, 3, 5000), -ENOENT); /* another layout */
	value[4999] ^= 0x80;
	set_value(key_of(name, 3), value, sizeof(value));
	assert_int_equal(load_number(a, name, 3, 5000), -EILSEQ);
	/* upstream's values have none */
	content(value, sizeof(value), 9);
	set_value(key_of(name, 9), value, sizeof(value));
	assert_int_equal(find_one(a, key_of(name, 9)), 5000);
	assert_int_equal(load_number(a, name, 9, 5000), 0);
	close_resp(a);
}

static void limits(void **state)
{
	(void)state;
	start_redis("--databases", "1");
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct l2 *a = open_resp("\"max_capacity_gb\": 0.0000095367431640625, \"shared\": true"); /* 10240 */
	set_value(key_of(name, 1000), "x", 1);
	for (uint64_t i = 0; i < 30; i++) {
		assert_int_equal(store_number(a, name, i, 1000), 0);
		assert_true(stats_of(a).used_bytes <= 10000);
	}
	assert_int_equal(store_number(a, name, 99, 10241), -ENOSPC);
	assert_true(stats_of(a).evicted_objects == 20 && stats_of(a).objects == 10);
	assert_int_equal(find_one(a, key_of(name, 19)), 0);
	assert_int_equal(find_one(a, key_of(name, 20)), 1000);
	struct l2_list_entry e[20];
	uint64_t cursor = 0;
	assert_int_equal(a->ops->list(a, &cursor, e, 20), 10);
	assert_int_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
	assert_string_equal(say("*1\r\n$6\r\nDBSIZE\r\n", NULL, 0), ":1"); /* others' stay */
	close_resp(a);
	stop_redis();
	/* a server that is full says so, and stays a healthy one */
	start_redis("--maxmemory", "4mb");
	a = open_resp("");
	int rc = 0;
	for (uint64_t i = 0; i < 100 && rc == 0; i++)
		rc = store_number(a, name, i, 200000);
	assert_int_equal(rc, -ENOSPC);
	assert_true(stats_of(a).healthy && stats_of(a).dropped == 1);
	assert_int_equal(load_number(a, name, 0, 200000), 0);
	close_resp(a);
}

static void passwords(void **state)
{
	(void)state;
	start_redis("--requirepass", "secret word");
	uint32_t name = name_of("m", 1, 0, "", 1);
	static const char *const wrong[] = {"", "\"password\": \"secret\"",
					    "\"username\": \"x\", \"password\": \"secret word\""};
	for (size_t i = 0; i < 3; i++) {
		struct l2 *a = open_resp(wrong[i]);
		assert_int_not_equal(store_number(a, name, 1, 10), 0);
		struct l2_stats n = stats_of(a);
		assert_true(!n.healthy && strstr(n.state, i ? "WRONGPASS" : "NOAUTH") && !strstr(n.state, "secret"));
		close_resp(a);
	}
	static const char *const right[] = {"\"password\": \"secret word\"",
					    "\"username\": \"default\", \"password\": \"secret word\""};
	for (uint64_t i = 0; i < 2; i++) {
		struct l2 *a = open_resp(right[i]);
		assert_int_equal(store_number(a, name, i, 10), 0);
		close_resp(a);
	}
}

static void comes_and_goes(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct l2 *a = open_resp("\"num_workers\": 2");
	assert_string_equal(stats_of(a).state, "not connected yet");
	assert_int_equal(store_number(a, name, 1, 1000), -EBUSY);
	assert_int_equal(find_one(a, key_of(name, 1)), 0);
	assert_int_equal(load_number(a, name, 1, 1000), -EBUSY);
	assert_false(stats_of(a).healthy);
	start_redis("--databases", "1");
	for (int i = 0; i < 200 && store_number(a, name, 1, 1000); i++)
		nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	assert_int_equal(load_number(a, name, 1, 1000), 0);
	assert_true(stats_of(a).healthy);
	stop_redis();
	start_redis("--databases", "1"); /* idle connections are found to be dead, and nobody notices */
	assert_int_equal(find_one(a, key_of(name, 1)), 0);
	assert_int_equal(find_one(a, key_of(name, 1)), 0);
	assert_int_equal(store_number(a, name, 1, 1000), 0);
	assert_int_equal(load_number(a, name, 1, 1000), 0);
	assert_true(stats_of(a).healthy && stats_of(a).store_errors == 0);
	close_resp(a);
}

/* ---- a hostile one ------------------------------------------------------------------------------------------------------- */

struct fake {
	int fd;
	const char *answer;
	size_t n;
	bool slowly, hang;
	_Atomic bool stop;
	pthread_t thread;
};

static void answer_one(struct fake *f, int fd)
{
	char buf[4096];
	if (recv(fd, buf, sizeof(buf), 0) <= 0)
		return;
	for (size_t i = 0; i < f->n && !f->stop; i += f->slowly ? 1 : f->n) {
		if (send(fd, f->answer + i, f->slowly ? 1 : f->n, MSG_NOSIGNAL) < 0)
			return;
		if (f->slowly)
			nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	}
	while (f->hang && !f->stop)
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
}

static void *fake_main(void *arg)
{
	struct fake *f = arg;
	for (;;) {
		int fd = accept(f->fd, NULL, NULL);
		if (fd < 0 || f->stop) {
			if (fd >= 0)
				close(fd);
			return NULL;
		}
		answer_one(f, fd);
		close(fd);
	}
}

static void fake_start(struct fake *f)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	f->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", sock);
	assert_int_equal(bind(f->fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(f->fd, 16), 0);
	assert_int_equal(pthread_create(&f->thread, NULL, fake_main, f), 0);
}

static void fake_stop(struct fake *f)
{
	f->stop = true;
	answers(); /* wakes accept */
	pthread_join(f->thread, NULL);
	close(f->fd);
	unlink(sock);
}

static void hostile_answers(void **state)
{
	(void)state;
	static const struct {
		const char *answer;
		int load; /* of 10 bytes */
	} bad[] = {
		{"", -EIO},
		{"$", -EIO},
		{"$-1\r\n$10\r\n01234", -EIO},
		{"$-1\r\n$10\r\n0123456789xx", -EIO},
		{"$-1\r\n$99999999999999999\r\n0123456789\r\n", -EMSGSIZE},
		{"$-1\r\n$9999999999999999999999\r\n", -EIO},
		{"$-1\r\n$11\r\n01234567890\r\n", -EMSGSIZE},
		{"$-1\r\n$9\r\n012345678\r\n", -EMSGSIZE},
		{"$-1\r\n$-2\r\n", -EIO},
		{"$-1\r\n$1x\r\n", -EIO},
		{"$-1\r\n$\r\n", -EIO},
		{"$-1\r\n*1\r\n$10\r\n0123456789\r\n", -EIO},
		{"$-1\r\n:10\r\n", -EIO},
		{"$-1\r\n+OK\r\n", -EIO},
		{"$-1\r\n$10\n0123456789\r\n", -EIO},
		{"$99999999999999\r\n", -EMSGSIZE},
		{"$65\r\nxxxx", -EIO},
		{"+OK\r\n", -EIO},
		{"HTTP/1.1 200 OK\r\n\r\n", -EIO},
		{"$-1\r\n-ERR go away\r\n", -EIO},
		{"$-1\r\n-ERR \x1b[31m\r\n", -EIO},
		{"$-1\r\n-WRONGTYPE no\r\n", -ENOENT},
		{"$-1\r\n$-1\r\n", -ENOENT},
		{"-ERR a\r\n-ERR b\r\n", -EIO},
	};
	uint32_t name = name_of("m", 1, 0, "", 1);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fake f = {.answer = bad[i].answer, .n = strlen(bad[i].answer)};
		fake_start(&f);
		struct l2 *a = open_resp("\"timeout_ms\": 1000, \"num_workers\": 1");
		int rc = load_number(a, name, 1, 10);
		if (rc != bad[i].load)
			fail_msg("%s: %d", bad[i].answer, rc);
		struct l2_stats n = stats_of(a);
		for (const char *p = n.state; *p; p++)
			assert_true(*p >= ' ' && *p <= '~');
		close_resp(a);
		a = open_resp("\"timeout_ms\": 1000, \"num_workers\": 1");
		assert_int_not_equal(store_number(a, name, 1, 10), 0);
		assert_int_equal(find_one(a, key_of(name, 1)), 0);
		assert_int_not_equal(run_io(a, a->ops->clear, key_of(name, 0), NULL, 0, NULL), 0);
		assert_true(stats_of(a).used_bytes == 0 && stats_of(a).objects == 0);
		close_resp(a);
		fake_stop(&f);
	}
}

/* A line without end, an error without end. */
static void endless_lines(void **state)
{
	(void)state;
	uint32_t name = name_of("m", 1, 0, "", 1);
	char *line = malloc(200000);
	for (int i = 0; i < 3; i++) {
		memset(line, '1', 200000);
		line[0] = "-$:"[i];
		struct fake f = {.answer = line, .n = 200000};
		fake_start(&f);
		struct l2 *a = open_resp("\"timeout_ms\": 1000, \"num_workers\": 1");
		assert_int_equal(load_number(a, name, 1, 10), -EIO);
		close_resp(a);
		fake_stop(&f);
	}
	free(line);
}

static uint64_t ms_of_load(const char *answer, bool slowly, bool hang)
{
	uint32_t name = name_of("m", 1, 0, "", 1);
	struct fake f = {.answer = answer, .n = strlen(answer), .slowly = slowly, .hang = hang};
	struct timespec from, to;
	fake_start(&f);
	struct l2 *a = open_resp("\"timeout_ms\": 200, \"num_workers\": 1");
	clock_gettime(CLOCK_MONOTONIC, &from);
	assert_int_equal(load_number(a, name, 1, 10), -EIO);
	clock_gettime(CLOCK_MONOTONIC, &to);
	assert_non_null(strstr(stats_of(a).state, "timed out"));
	close_resp(a);
	fake_stop(&f);
	return (uint64_t)(to.tv_sec - from.tv_sec) * 1000 + (uint64_t)((to.tv_nsec - from.tv_nsec) / 1000000);
}

/* One that says nothing, stops in the middle, or sends a byte now and then. */
static void slow_answers(void **state)
{
	(void)state;
	uint64_t never = ms_of_load("", false, true), middle = ms_of_load("$-1\r\n$10\r\n012", false, true),
		 drops = ms_of_load("$-1\r\n$10\r\n0123456789\r\n", true, true);
	assert_true(never >= 199 && middle >= 199 && drops >= 199);
	assert_true(never < 5000 && middle < 5000 && drops < 5000);
}

static void refused_at_start(void **state)
{
	(void)state;
	assert_null(make_l2("{\"type\": \"resp\", \"host\": \"rediss://h\", \"port\": 6379}", -ENOTSUP,
			    "TLS is not in this build"));
	assert_null(make_l2("{\"type\": \"resp\", \"host\": \"h\", \"port\": 0}", -EINVAL, "port: 0"));
	struct why why;
	struct l2_conf *c = NULL;
	struct l2_env env = {.names = names};
	struct l2 *a = NULL;
	assert_int_equal(l2_conf_parse("{\"type\": \"resp\", \"host\": \"h\", \"port\": 1}", 0, &c, &why), 0);
	int rc = -ENOMEM;
	for (uint64_t i = 1; rc; i++) {
		assert_true(i < 50);
		mem_fail_at(i);
		rc = l2_create(c, &env, &a, &why);
		mem_fail_at(0);
		if (rc)
			assert_int_equal(rc, -ENOMEM);
	}
	close_resp(a);
	l2_conf_free(c);
}

static void keys(void **state)
{
	(void)state;
#define H "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	static const struct {
		const char *text;
		bool ours;
	} list[] = {
		{"m@00000001@0@" H, true},
		{"m@00000001@" H, true},
		{"m@00000001@ffffffff@" H "@salt@x", true},
		{"lmca:mark:m@00000001@0@" H, true},
		{"m@00000001@0@0123456789abcdef", true},
		{"a@b@00000001@0@" H, true},
		{"m@0000001@0@" H, false},
		{"m@00000001@0@" H "0", false},
		{"m@00000001@0@012345", false},
		{"m@00000001@", false},
		{"user@example", false},
		{"@", false},
		{"", false},
	};
	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (resp_key_is_ours(list[i].text, strlen(list[i].text)) != list[i].ours)
			fail_msg("%s", list[i].text);
}

int main(void)
{
#define T(n, f)                                                  \
	{                                                        \
		"daemon/l2: resp " n, f, set_up, tear_down, NULL \
	}
	const struct CMUnitTest tests[] = {
		T("1 stored and loaded", stored_and_loaded),
		T("2 many at once", many_at_once),
		T("3 changed on the server", changed_on_the_server),
		T("4 limits", limits),
		T("5 passwords", passwords),
		T("6 comes and goes", comes_and_goes),
		T("7 hostile answers", hostile_answers),
		T("7 endless lines", endless_lines),
		T("7 slow answers", slow_answers),
		T("8 refused at start", refused_at_start),
		T("9 keys", keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
