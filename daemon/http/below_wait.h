/* below_wait.h - operators' requests to L2, which answers later: a batch of them, and waiting for it with an end.
 *
 * A batch belongs to two: who waits, and the operations still under way. Whoever is last frees it, so a device that hangs costs
 * memory and not the answer. At most BELOW_WAITERS handlers wait at once: the threads of the door are four, and probes need one.
 */
#ifndef DAEMON_HTTP_BELOW_WAIT_H
#define DAEMON_HTTP_BELOW_WAIT_H

#include "daemon/http/http_int.h"

#define BELOW_WAITERS 2u
#define BELOW_WAIT_MS 10000u
#define BELOW_BATCH   256u

struct below_batch;
typedef void (*below_op)(struct l2 *a, struct l2_io *io);

/* False: as many as may wait do. */
bool below_enter(const struct http_call *call);
void below_leave(const struct http_call *call);

struct below_result {
	uint32_t ok, missing, failed;
};
/* `op` with every key (at most BELOW_BATCH; n 1 and keys NULL: it takes none), and waits. 0, -ENOMEM, -ETIMEDOUT; adds to `sum`. */
int below_each(struct l2 *a, below_op op, const struct seg_key *keys, uint32_t n, struct below_result *sum);
/* tier_flush, waited for. Its result, -EAGAIN, -ENOMEM, -ETIMEDOUT. */
int below_flush(struct tier *t);

#endif
