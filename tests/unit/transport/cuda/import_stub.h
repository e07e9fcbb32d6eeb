/* import_stub.h - the context of a GPU, in a line each. */
#ifndef TESTS_UNIT_TRANSPORT_CUDA_IMPORT_STUB_H
#define TESTS_UNIT_TRANSPORT_CUDA_IMPORT_STUB_H
#include "tests/unit/transport/cuda/import_fake.h"
#include <strings.h>
struct gpu *gpu_by_uuid(struct gpu_door *d, struct slice u)
{
	if (u.n > 4 && strncasecmp(u.p, "GPU-", 4) == 0)
		u = slice_of((const char *)u.p + 4, u.n - 4);
	return u.n == strlen(UUID) && strncasecmp(u.p, UUID, u.n) == 0 ? &d->gpu[0] : NULL;
}
int gpu_hold(struct gpu *g, struct why *why)
{
	int err = 0;

	lk_lock(&g->lk);
	if (g->lost && g->users)
		err = why_set(why, -ENODEV, "lost");
	else {
		atomic_store(&g->lost, false);
		g->users++;
	}
	lk_unlock(&g->lk);
	return err;
}
void gpu_release(struct gpu *g)
{
	lk_lock(&g->lk);
	g->users--;
	lk_unlock(&g->lk);
}
int gpu_enter(struct gpu *g)
{
	return g->lost ? -ENODEV : 0;
}
int gpu_result(struct gpu *g, CUresult rc)
{
	if (cuda_sticky(rc))
		g->lost = true;
	return cuda_errno(rc);
}
uint32_t gpu_count(const struct gpu_door *d)
{
	return d->ngpus;
}
#endif
