/* context_shape.c - what the contexts of one model and world size have in common, and the forms of their objects. */
#include "daemon/core/context.h"

#include <string.h>

/* Its place in s->forms; SESSION_FORMS: none left. */
static uint32_t form_of(struct ctx_shape *s, const struct ctx *c)
{
	uint32_t i = 0;

	while (i < s->nforms && memcmp(s->forms[i].layout, c->object_form, sizeof(c->object_form)) != 0)
		i++;
	if (i < s->nforms || i == SESSION_FORMS)
		return i;
	s->forms[s->nforms++].object_bytes = c->object_bytes;
	memcpy(s->forms[i].layout, c->object_form, sizeof(c->object_form));
	return i;
}

void ctx_shape_add(struct ctx_shape *s, const struct ctx *c, uint64_t owner)
{
	bool first = !s->object_bytes;
	uint32_t i = form_of(s, c);

	if (first) {
		s->object_bytes = c->object_bytes;
		s->home = c->home;
	}
	if (s->object_bytes != c->object_bytes)
		s->object_bytes = CTX_SIZES_DIFFER;
	if (!node_same(s->home, c->home))
		s->home = NODE_UNKNOWN;
	if (c->owner == owner && i >= s->nown && s->nown < SESSION_FORMS) {
		uint32_t from = i < s->nforms ? i : i - 1; /* a stranger's gives way */
		struct session_form own = {.object_bytes = c->object_bytes};

		memcpy(own.layout, c->object_form, sizeof(own.layout));
		s->forms[from] = s->forms[s->nown];
		s->forms[s->nown++] = own;
	}
}
