#include "tools/session.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

static int ask_chunk_size(struct ctl_client *c, int timeout_ms, uint32_t *chunk_tokens, struct why *why)
{
	struct wire_req req = {.op = WIRE_GET_CHUNK_SIZE};
	struct wire_reply reply;
	int rc = ctl_call(c, &req, 0, timeout_ms, &reply, why);
	if (rc)
		return rc;
	if (reply.u < 1 || reply.u > WIRE_MAX_TOKENS)
		return why_set(why, -EPROTO, "the server says a chunk is %llu tokens", (unsigned long long)reply.u);
	*chunk_tokens = (uint32_t)reply.u;
	return 0;
}

int session_open(const struct url *url, enum wire_dialect dialect, uint32_t max_tokens, int timeout_ms,
		 struct ctl_client **out, uint32_t *chunk_tokens, struct why *why)
{
	struct ctl_client *c = NULL;
	int rc = url_reach(url, timeout_ms, why);
	if (!rc)
		rc = ctl_client_open(url->text, dialect, max_tokens, &c, why);
	if (!rc)
		rc = ask_chunk_size(c, timeout_ms, chunk_tokens, why);
	if (rc) {
		ctl_client_close(c);
		why_prefix(why, "Cannot connect to %s", url->text);
		return rc;
	}
	*out = c;
	return 0;
}

uint64_t session_random(void)
{
	uint64_t v = 0;
	if (getrandom(&v, sizeof(v), 0) != (ssize_t)sizeof(v))
		v = ((uint64_t)getpid() << 32) ^ (uint64_t)random();
	return v;
}
