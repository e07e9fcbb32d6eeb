/* blend_int.h - Blend and P2P payloads: checked for type and bounds; the raw frame is kept. */
#ifndef TRANSPORT_WIRE_BLEND_INT_H
#define TRANSPORT_WIRE_BLEND_INT_H

#include "transport/wire/wire_int.h"

bool wire_get_ranges(struct wire_cur *c, void *req);
void wire_put_ranges(struct wire_pen *pen, const void *req);
bool wire_get_matches(struct wire_cur *c, void *req);
void wire_put_matches(struct wire_pen *pen, const void *req);
bool wire_get_object_keys(struct wire_cur *c, void *req);
void wire_put_object_keys(struct wire_pen *pen, const void *req);
bool wire_get_layouts(struct wire_cur *c, void *req);
void wire_put_layouts(struct wire_pen *pen, const void *req);
bool wire_get_group_to_cache(struct wire_cur *c, void *req);
void wire_put_group_to_cache(struct wire_pen *pen, const void *req);
bool wire_get_group_rot(struct wire_cur *c, void *req);
void wire_put_group_rot(struct wire_pen *pen, const void *req);

#endif
