/* context_gpu.c - the life of a context's GPU engine.
 *
 * The registry uses it, and so does, for a moment, whoever submits a copy. When the instance is dropped and nobody submits any more, the
 * engine is let go at once, not with the last reference to the context: the door then knows that nobody waits for it, and a copy that
 * waits for an event of a dead process can end. The layout, which the engine borrows, stays until the door says that it is gone.
 */
#include "daemon/core/context.h"

/* Any thread. What the farewell needs (the server) is there as long as the engine counts as leaving. */
static void gone(void *arg)
{
	struct ctx *c = arg;
	struct device_engines *engines = c->engines;

	if (c->farewell)
		c->farewell(c->farewell_arg);
	ctx_put(NULL, c);
	if (engines) {
		atomic_fetch_sub(&engines->all, 1);
		atomic_fetch_sub(&engines->leaving, 1);
	}
}

bool ctx_gpu_hold(struct ctx *c)
{
	uint32_t n = atomic_load(&c->gpu_users);

	while (n && !atomic_compare_exchange_weak(&c->gpu_users, &n, n + 1))
		;
	return n != 0;
}

void ctx_gpu_release(struct ctx *c)
{
	if (atomic_fetch_sub(&c->gpu_users, 1) != 1)
		return;
	if (c->engines)
		atomic_fetch_add(&c->engines->leaving, 1);
	atomic_fetch_add(&c->refs, 1);
	gpu_engine_put(c->gpu, gone, c);
}
