/* log.h - one line per event, in the shape operators of LMCache grep for:
 *
 *   [2026-04-07 16:25:48,567] LMCache INFO: text (file.c:123:module)
 *
 * Threads: any. One write(2) per line to stderr. The threshold is process-wide and set once by main (and by the
 * log-level endpoint). Levels: error = someone must act; warning = degraded but working; info = life cycle;
 * debug = per request. Nothing is logged on a data path: it has counters.
 */
#ifndef DAEMON_BASE_LOG_H
#define DAEMON_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_LVL_DEBUG, LOG_LVL_INFO, LOG_LVL_WARNING, LOG_LVL_ERROR };

void log_set_level(enum log_level level);
enum log_level log_get_level(void);
/* "DEBUG", "INFO", "WARNING", "ERROR" (any case). Returns 0 or -EINVAL. */
int log_level_parse(const char *text, enum log_level *out);
const char *log_level_name(enum log_level level);

void log_line(enum log_level level, const char *file, int line, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

/* At most one line per `every_ms`; the next line that passes tells how many were dropped. */
struct log_limit {
	_Atomic uint64_t next_ms;
	_Atomic uint64_t dropped;
};
/* True when the caller may log now. `dropped` receives the number suppressed since the last line. */
bool log_limit_pass(struct log_limit *limit, uint64_t every_ms, uint64_t *dropped);
/* The same for events that rightly come in bursts (engines of a cluster register together): `burst` lines at once, then one per
 * `every_ms`. A limit is used with one of the two functions only. */
bool log_burst_pass(struct log_limit *limit, uint32_t burst, uint64_t every_ms, uint64_t *dropped);

#define log_at(level, ...)                                                  \
	do {                                                                \
		if ((level) >= log_get_level())                             \
			log_line((level), __FILE__, __LINE__, __VA_ARGS__); \
	} while (0)
#define log_error(...) log_at(LOG_LVL_ERROR, __VA_ARGS__)
#define log_warn(...)  log_at(LOG_LVL_WARNING, __VA_ARGS__)
#define log_info(...)  log_at(LOG_LVL_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_LVL_DEBUG, __VA_ARGS__)

#endif
