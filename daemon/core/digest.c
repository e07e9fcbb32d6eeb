/* digest.c - what the bytes of a context's objects mean, in 16 bytes. */
#include "daemon/core/context.h"

#include <blake3.h>
#include <stdio.h>
#include <string.h>

#define OBJECT_FORM 1 /* raised when transport/kv arranges objects differently */

static void add(blake3_hasher *b, const char *text)
{
	blake3_hasher_update(b, text, strlen(text) + 1);
}

/* Numbers and names as text: the digest outlives builds in which an enum may be numbered differently. How heads share the hidden
 * size does not change the bytes, and an engine-driven context does not tell it. */
static void add_group(blake3_hasher *b, uint32_t dtype, uint32_t kv_size, uint32_t layers, uint64_t hidden)
{
	char text[160];

	snprintf(text, sizeof(text), "group %s kv %u layers %u hidden %llu", pk_dtype_name((enum pk_dtype)dtype),
		 kv_size, layers, (unsigned long long)hidden);
	add(b, text);
}

void ctx_layout_digest(struct ctx *c, const struct chash *h)
{
	blake3_hasher b;
	char text[160];

	blake3_hasher_init(&b);
	snprintf(text, sizeof(text), "lmcache-appliance object %d, %u tokens, %s", OBJECT_FORM, h->chunk_tokens,
		 chash_name(h->algorithm));
	add(&b, text);
	blake3_hasher_update(&b, h->none.b, sizeof(h->none.b));
	for (uint32_t i = 0; c->layout && i < kv_layout_groups(c->layout); i++) {
		struct kv_group_facts f;

		kv_layout_group(c->layout, i, &f);
		add_group(&b, f.dtype, f.kv_size, f.nlayers, (uint64_t)f.num_heads * f.head_size);
	}
	if (!c->layout)
		add_group(&b, c->dtype, c->use_mla ? 1 : 2, c->num_layers, c->hidden);
	blake3_hasher_finalize(&b, c->object_form, sizeof(c->object_form));
}
