/* e2e.h - what the end-to-end bench programs share: daemon and echo under way, engines, prompts, encoded requests.
 *
 * A failure of set-up or of an untimed request ends the program with its reason: a bench has nothing to recover.
 * Threads: main, except e2e_must.
 */
#ifndef TOOLS_E2E_H
#define TOOLS_E2E_H

#include "tools/engine.h"
#include "tools/rig.h"

#include <stdbool.h>
#include <stdint.h>

#define E2E_CHUNK      256u /* tokens */
#define E2E_TIMEOUT_MS 60000

/* One layer, one head: what LOOKUP and PREPARE cost does not depend on the size of an object, and 128k tokens fit in
 * 32 MiB. */
extern const struct km_model e2e_tiny;

struct e2e {
	const char *binary;
	struct rig_daemon daemon;
	struct rig_echo echo;
	struct rig_link *to_daemon, *to_echo;
	struct eng_env env;
	bool all_ok;
};

_Noreturn void e2e_die(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* `call` uses &why. */
#define e2e_must(call)                           \
	do {                                     \
		struct why why = {0};            \
		if ((call) != 0)                 \
			e2e_die("%s", why.text); \
	} while (0)

/* Starts the echo (first: it forks). LMCA_BIN names the daemon, else the one beside the folder of this program. */
void e2e_begin(struct e2e *b);
void e2e_end(struct e2e *b);
/* A daemon with so many workers, and links to it and to the echo. */
void e2e_start(struct e2e *b, double l1_gb, unsigned workers);
void e2e_stop(struct e2e *b);

/* One line of results; remembers a goal that was missed. */
void e2e_row(struct e2e *b, const char *name, double ours, double limit, const char *unit, const char *limit_name,
	     double ratio, const char *goal, bool ok);

void *e2e_get(size_t n, size_t size); /* zeroed; mem_free */
struct engine *e2e_engine(struct e2e *b, const struct km_model *m, uint32_t format, enum eng_mode mode,
			  uint32_t max_tokens);
void e2e_random_tokens(uint32_t *ids, uint32_t n);
struct eng_prompt e2e_prompt(uint32_t *ids, uint32_t n, const char *name, uint64_t number);
struct rig_message e2e_encode(const struct engine *e, uint64_t uid, enum wire_op op, const struct eng_prompt *p,
			      int worker, uint64_t end);
uint64_t e2e_timed(struct rig_link *l, const struct rig_message *m, struct slice *payload); /* ns */
void e2e_teach(struct e2e *b, const struct rig_message *like, enum rig_answer how, struct slice payload);

#endif
