/* l2.c - an adapter from its configuration. */
#include "daemon/l2/l2_int.h"

#include <errno.h>

int l2_create(const struct l2_conf *c, const struct l2_env *env, struct l2 **out, struct why *why)
{
	const struct l2_type_row *t = &l2_types[c->type];
	if (!t->create)
		return why_set(why, -ENOTSUP, "--l2-adapter #%u: %s is not in this build", c->index, t->name);
	int rc = t->create(c, env, out, why);
	if (rc)
		why_prefix(why, "--l2-adapter #%u (%s)", c->index, t->name);
	return rc;
}
