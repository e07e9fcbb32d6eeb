/* toy_imports.h - a part of toy.h: what engines map. */

void imports_destroy(struct imports *im)
{
	(void)im;
}
void imports_count(struct gpu *g, uint64_t *views, uint64_t *allocations, uint64_t *bytes)
{
	LOCKED(*views = (uint64_t)toy.views[g->index]);
	*allocations = *bytes = 0;
}
json_t *imports_status(struct gpu *g)
{
	uint64_t views, allocations, bytes;

	imports_count(g, &views, &allocations, &bytes);
	return json_pack("{s:I}", "views", (json_int_t)views);
}
/* The first byte of the handle: 1 the client's timeline, 2 a small allocation, others: each another one of 4096 slots; 0xff is refused. */
int mapping_open(struct gpu *g, const void *handle, struct mapping **out, struct why *why)
{
	static uint64_t other[4096];
	uint8_t kind = *(const uint8_t *)handle;

	(void)g, (void)why;
	if (kind == 0xff || toy_call())
		return -EACCES;
	*out = calloc(1, sizeof(**out));
	(*out)->base = (CUdeviceptr)(uintptr_t)(kind == 1 ? toy.slot : other);
	(*out)->bytes = kind == 1 || kind == 2 ? sizeof(toy.slot) : sizeof(other);
	LOCKED(toy.mapped++);
	return 0;
}
void mapping_put(struct mapping *m)
{
	if (!m)
		return;
	LOCKED(toy.mapped--);
	free(m);
}
CUdeviceptr mapping_base(const struct mapping *m)
{
	return m->base;
}
uint64_t mapping_bytes(const struct mapping *m)
{
	return m->bytes;
}
