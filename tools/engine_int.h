/* engine_int.h - between engine.c (life), engine_io.c (requests) and engine_driven.c (copies by the engine). */
#ifndef TOOLS_ENGINE_INT_H
#define TOOLS_ENGINE_INT_H

#include "tools/engine.h"

/* Memory of the paged KV of one worker: made, registered, unlinked. */
int eng_memory_register(struct engine *e, struct eng_worker *w, struct why *why);
void eng_memory_release(struct engine *e, struct eng_worker *w);

/* Sends to one client and waits for its answer; see ctl_call. */
int eng_call(struct engine *e, struct ctl_client *c, const struct wire_req *req, struct wire_reply *reply,
	     struct why *why);

#endif
