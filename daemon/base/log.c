#include "daemon/base/log.h"

#include "daemon/base/clock.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

/* The threshold is the one piece of process-wide state besides main's context: every macro reads it. */
static _Atomic int log_threshold = LOG_LVL_INFO;

static const char *const level_names[] = {"DEBUG", "INFO", "WARNING", "ERROR"};

void log_set_level(enum log_level level)
{
	atomic_store_explicit(&log_threshold, (int)level, memory_order_relaxed);
}

enum log_level log_get_level(void)
{
	return (enum log_level)atomic_load_explicit(&log_threshold, memory_order_relaxed);
}

int log_level_parse(const char *text, enum log_level *out)
{
	for (int i = 0; i < 4; i++) {
		if (strcasecmp(text, level_names[i]) == 0) {
			*out = (enum log_level)i;
			return 0;
		}
	}
	return -EINVAL;
}

const char *log_level_name(enum log_level level)
{
	return level_names[level];
}

/* "daemon/core/control.c" -> file "control.c", module "daemon.core". */
static const char *split_path(const char *path, char *module, size_t cap)
{
	const char *slash = strrchr(path, '/');
	size_t n = slash ? (size_t)(slash - path) : 0;

	if (n >= cap)
		n = cap - 1;
	for (size_t i = 0; i < n; i++)
		module[i] = path[i] == '/' ? '.' : path[i];
	module[n] = '\0';
	return slash ? slash + 1 : path;
}

/* U+0080 to U+009F in UTF-8; U+009B begins an escape sequence like ESC [ does. */
static bool is_c1(const char *s, size_t n)
{
	return n > 1 && (unsigned char)s[0] == 0xc2 && (unsigned char)s[1] >= 0x80 && (unsigned char)s[1] < 0xa0;
}

/* Control bytes from foreign text must not forge lines or drive a terminal. */
static void defuse(char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (is_c1(s + i, n - i))
			s[i] = s[i + 1] = '?';
		else if ((unsigned char)s[i] < 0x20 || s[i] == 0x7f)
			s[i] = '?';
	}
}

void log_line(enum log_level level, const char *file, int line, const char *fmt, ...)
{
	char buf[2048], module[64];
	const size_t cap = sizeof(buf) - 96;
	struct timespec ts;
	struct tm tm;
	size_t len;
	int n;
	va_list ap;

	clock_gettime(CLOCK_REALTIME, &ts);
	localtime_r(&ts.tv_sec, &tm);
	len = strftime(buf, sizeof(buf), "[%Y-%m-%d %H:%M:%S", &tm);
	len += (size_t)snprintf(buf + len, sizeof(buf) - len, ",%03d] LMCache %s: ", (int)(ts.tv_nsec / 1000000),
				level_names[level]);
	va_start(ap, fmt);
	n = vsnprintf(buf + len, cap - len, fmt, ap);
	va_end(ap);
	if (n > 0) {
		size_t put = (size_t)n < cap - len ? (size_t)n : cap - len - 1;
		defuse(buf + len, put);
		len += put;
	}
	file = split_path(file, module, sizeof(module));
	len += (size_t)snprintf(buf + len, sizeof(buf) - len, " (%s:%d:%s)\n", file, line, module);
	if (len >= sizeof(buf)) { /* snprintf tells what it would have written */
		len = sizeof(buf) - 1;
		buf[len - 1] = '\n';
	}
	if (write(STDERR_FILENO, buf, len) < 0)
		return; /* nowhere left to say so */
}

bool log_limit_pass(struct log_limit *limit, uint64_t every_ms, uint64_t *dropped)
{
	uint64_t now = clock_ms();
	uint64_t next = atomic_load_explicit(&limit->next_ms, memory_order_relaxed);

	if (now < next || !atomic_compare_exchange_strong(&limit->next_ms, &next, now + every_ms)) {
		atomic_fetch_add_explicit(&limit->dropped, 1, memory_order_relaxed);
		return false;
	}
	*dropped = atomic_exchange(&limit->dropped, 0);
	return true;
}

bool log_burst_pass(struct log_limit *limit, uint32_t burst, uint64_t every_ms, uint64_t *dropped)
{
	uint64_t now = clock_ms(), allowance = burst * every_ms;
	uint64_t spent = atomic_load_explicit(&limit->next_ms, memory_order_relaxed), next;

	/* next_ms: when all lines so far are paid for. It may run ahead of the clock by the burst. */
	do {
		next = (spent < now ? now : spent) + every_ms;
		if (next > now + allowance) {
			atomic_fetch_add_explicit(&limit->dropped, 1, memory_order_relaxed);
			return false;
		}
	} while (!atomic_compare_exchange_weak(&limit->next_ms, &spent, next));
	*dropped = atomic_exchange(&limit->dropped, 0);
	return true;
}
