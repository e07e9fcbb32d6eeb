/* Requests, both directions, by the shapes of shape.c. */
#include "transport/wire/wire_int.h"

#include <errno.h>

#define MAX_TYPE_NAME 128 /* bytes of D7's string request types */

int wire_uid_decode(struct slice frame, uint64_t *uid)
{
	struct mp_in in = mp_in(frame);

	return mp_uint(&in, UINT64_MAX, uid) && mp_done(&in) ? 0 : -EPROTO;
}

int wire_type_decode(struct slice frame, uint64_t *number, struct slice *name)
{
	struct mp_in in = mp_in(frame);

	*number = 0;
	*name = (struct slice){0};
	if (mp_peek(&in) == MP_STR) {
		if (mp_str(&in, MAX_TYPE_NAME, name) && mp_done(&in) && wire_utf8(*name, NULL))
			return 0;
		*name = (struct slice){0};
		return -EPROTO;
	}
	return mp_uint(&in, UINT64_MAX, number) && mp_done(&in) ? 0 : -EPROTO;
}

static int no_shape(enum wire_dialect d, enum wire_op op, size_t nframes, struct why *why)
{
	const struct wire_shape *newest = wire_shape_newest(d, op);

	if (!newest)
		return why_set(why, -EOPNOTSUPP, "%s has no known payload in dialect %s", wire_op_name(op),
			       wire_dialect_name(d));
	return why_set(why, -EPROTO, "%s with %zu payload frames; dialect %s has %zu", wire_op_name(op), nframes,
		       wire_dialect_name(d), wire_shape_frames(newest));
}

static int decode_frame(struct wire_cur *c, const struct wire_item *item, size_t i, struct wire_req *req,
			struct why *why)
{
	if (wire_get_item(c, item, req) && mp_done(&c->in))
		return 0;
	return why_set(why, wire_in_error(&c->in), "%s as %s: payload frame %zu (%s): %s: %s", wire_op_name(req->op),
		       wire_dialect_name(req->dialect), i, item->name, c->at, c->in.err);
}

int wire_request_decode(enum wire_dialect d, enum wire_op op, const struct slice *payload, size_t nframes,
			struct wire_scratch *scratch, struct wire_req *out, struct why *why)
{
	const struct wire_shape *shape = wire_shape_find(d, op, nframes);
	struct wire_cur c = {.scratch = scratch, .dialect = d};

	memset(out, 0, sizeof(*out));
	out->op = op;
	out->dialect = d;
	if (!shape)
		return no_shape(d, op, nframes, why);
	wire_scratch_reset(scratch);
	for (size_t i = 0; i < nframes; i++) {
		int rc;

		c.in = mp_in(payload[i]);
		rc = decode_frame(&c, wire_field_item(shape->fields[i]), i, out, why);
		if (rc)
			return rc;
	}
	return 0;
}

static const struct wire_shape *shape_wanted(enum wire_dialect d, enum wire_op op, size_t nframes)
{
	if (nframes == 0)
		return wire_shape_newest(d, op);
	return wire_shape_find(d, op, nframes == WIRE_FRAMES_NONE ? 0 : nframes);
}

ssize_t wire_request_encode(enum wire_dialect d, uint64_t uid, const struct wire_req *req, size_t nframes_wanted,
			    void *buf, size_t cap, struct slice frames[WIRE_MAX_PAYLOAD_FRAMES + 2])
{
	const struct wire_shape *shape = shape_wanted(d, req->op, nframes_wanted);
	struct wire_pen pen = {mp_out(buf, cap), d};
	size_t total;

	if (!shape)
		return -EOPNOTSUPP;
	total = 2 + wire_shape_frames(shape);
	for (size_t i = 0; i < total; i++) {
		const uint8_t *start = pen.out.p;

		if (i == 0)
			mp_put_uint(&pen.out, uid);
		else if (i == 1)
			mp_put_uint(&pen.out, wire_dialect_number(d, req->op));
		else
			wire_put_item(&pen, wire_field_item(shape->fields[i - 2]), req);
		frames[i] = slice_of(start, (size_t)(pen.out.p - start));
	}
	return pen.out.overflow ? -ENOSPC : (ssize_t)total;
}
