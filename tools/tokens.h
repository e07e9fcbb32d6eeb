/* tokens.h - token ids from the command line, from files, and from documents.
 *
 * Threads: any. Arrays belong to the caller (mem_free).
 */
#ifndef TOOLS_TOKENS_H
#define TOOLS_TOKENS_H

#include "daemon/base/why.h"

#include <stddef.h>
#include <stdint.h>

#define TOKENS_MAX (8u << 20)

/* Numbers separated by commas or white space, optionally in one pair of brackets: "1,2,3", "[1, 2]". At least one.
 * 0, -EINVAL (with the place), -ERANGE (not a u32), -E2BIG, -ENOMEM. */
int tokens_parse(const char *text, size_t n, uint32_t **ids, uint32_t *count, struct why *why);

/* A file: text as above when it holds nothing but such text, else u32 little-endian numbers. */
int tokens_load(const char *path, uint32_t **ids, uint32_t *count, struct why *why);

/* What a byte-pair tokenizer would make of a text, without its tables: pieces of at most six bytes that end at word
 * boundaries, each given a fixed id below `vocabulary`. The same text gives the same ids everywhere. */
int tokens_of_document(const char *text, size_t n, uint32_t vocabulary, uint32_t **ids, uint32_t *count,
		       struct why *why);

/* A whole file, NUL-terminated behind its end; mem_free. -E2BIG above `max` bytes. */
int tokens_read_file(const char *path, size_t max, char **text, size_t *n, struct why *why);

#endif
