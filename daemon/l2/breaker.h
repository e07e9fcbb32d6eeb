/* breaker.h - when to stop asking a device, and when to try again. Pure: no IO, no clock of its own, no lock.
 *
 *   closed      reads and writes
 *   writes off  reads only: writes fail, or the device has become slow
 *   open        nothing: reads fail, an operation has not come back for 2 s, or the device is gone
 *   half open   one probe, when the pause is over; else as before it. Good: closed. Bad: the pause doubles, from 1 s to 60 s
 *
 * Trips: three errors in a row; more than 1 % errors in 10 s (of at least 100 operations); the oldest operation older than 2 s; p99 of
 * reads for 30 s above 8 times its own usual value and above 4 times the median of the other devices (writes off, and after 30 s more of
 * it, open); the device gone, or read-only, at once.
 *
 * Threads: one per breaker. Times are of one clock in ns, the caller's.
 */
#ifndef DAEMON_L2_BREAKER_H
#define DAEMON_L2_BREAKER_H

#include <stdbool.h>
#include <stdint.h>

enum breaker_state { BREAKER_CLOSED, BREAKER_WRITES_OFF, BREAKER_OPEN, BREAKER_HALF_OPEN };
enum breaker_cause {
	BREAKER_NONE,
	BREAKER_READ_ERRORS,
	BREAKER_WRITE_ERRORS,
	BREAKER_HANGS,
	BREAKER_SLOW,
	BREAKER_READ_ONLY,
	BREAKER_GONE,
	BREAKER_CAUSES
};

#define BREAKER_SLOTS 10u  /* of the window for errors, 1 s each */
#define BREAKER_STEPS 176u /* of the histogram: four per power of two */

struct breaker {
	enum breaker_state state;
	enum breaker_cause cause;
	bool reads, writes; /* allowed */
	bool probing;       /* the probe is under way */
	uint64_t since_ns;  /* of this state */
	uint64_t pause_ns, retry_ns;
	uint32_t row[2]; /* errors one after another: reads, writes */
	struct {
		uint64_t second;
		uint32_t done[2], failed[2];
	} slot[BREAKER_SLOTS];
	uint32_t step[BREAKER_STEPS], samples; /* latencies of reads in this period of 10 s */
	uint64_t period_ns;                    /* when it began */
	uint64_t p99_ns;                       /* of the last whole period; 0: unknown */
	uint64_t usual_ns;                     /* slow average of it while all was well; 0: unknown */
	uint64_t slow_since_ns;                /* 0: is not */
	uint64_t changes, trips;
};

void breaker_init(struct breaker *b, uint64_t now);
/* An operation came back: err 0 or what the device said. ENOENT, EILSEQ, ENOSPC and the like say nothing about the device and are told as
 * 0. ns: of a read that went well, per MiB or part of one; else 0. */
void breaker_done(struct breaker *b, uint64_t now, bool write, int err, uint64_t ns);
/* Now and then. The age of the oldest operation in flight (0: none), the median of the other devices' p99 (0: there are none). */
void breaker_tick(struct breaker *b, uint64_t now, uint64_t oldest_ns, uint64_t peers_ns);
void breaker_gone(struct breaker *b, uint64_t now);
/* True: the caller sends the one probe now, and tells how it went. */
bool breaker_probe(struct breaker *b, uint64_t now);
void breaker_probed(struct breaker *b, uint64_t now, bool good);

const char *breaker_state_name(enum breaker_state s); /* "writes_off" */
const char *breaker_cause_text(enum breaker_cause c); /* "write errors" */

#endif
