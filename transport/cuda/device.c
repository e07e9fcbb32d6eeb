/* A GPU: what it is, and its primary context, which lives from the first user to the last. */
#include "transport/cuda/gpu_int.h"

#include "daemon/base/clock.h"
#include "daemon/base/log.h"
#include "daemon/base/mem.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

/* How long a registration waits for those who still hold a broken context. */
#define LOST_WAIT_MS 2000u

/* ---- facts ------------------------------------------------------------------------------------------------------------------ */

static int attribute(const struct gpu *g, CUdevice_attribute which)
{
	int value = 0;

	return g->door->cu->cuDeviceGetAttribute(&value, which, g->device) ? 0 : value;
}

static void uuid_text(const CUuuid *u, char out[48])
{
	static const char hex[] = "0123456789abcdef";
	char *p = out;

	for (uint32_t i = 0; i < sizeof(u->bytes); i++) {
		uint8_t b = (uint8_t)u->bytes[i];

		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[b >> 4];
		*p++ = hex[b & 15];
	}
	*p = 0;
}

/* What the driver tells without a context. */
static void read_abilities(struct gpu *g)
{
	const struct cuda_driver *cu = g->door->cu;
	struct gpu_facts *f = &g->facts;

	f->copy_engines = (uint32_t)attribute(g, CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT);
	f->sms = (uint32_t)attribute(g, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT);
	/* There is no attribute for it; the driver writes it into the name ("NVIDIA H100 MIG 1g.10gb"). */
	f->mig = strstr(f->name, "MIG ") != NULL;
	f->vmm = attribute(g, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED) &&
		 cu->cuMemImportFromShareableHandle && cu->cuMemAddressReserve && cu->cuMemAddressFree &&
		 cu->cuMemMap && cu->cuMemUnmap && cu->cuMemSetAccess && cu->cuMemRelease;
	f->fabric = f->vmm && attribute(g, CU_DEVICE_ATTRIBUTE_HANDLE_TYPE_FABRIC_SUPPORTED);
	f->timeline = attribute(g, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS) && cu->cuStreamWriteValue64;
}

static int read_facts(struct gpu *g, struct why *why)
{
	const struct cuda_driver *cu = g->door->cu;
	struct gpu_facts *f = &g->facts;
	size_t bytes = 0;
	CUuuid uuid = {{0}};
	CUresult rc;

	rc = cu->cuDeviceGet(&g->device, (int)g->index);
	if (!rc)
		rc = cu->cuDeviceGetName(f->name, sizeof(f->name), g->device);
	if (!rc)
		rc = cu->cuDeviceGetUuid(&uuid, g->device);
	if (!rc)
		rc = cu->cuDeviceGetPCIBusId(f->pci, sizeof(f->pci), g->device);
	if (!rc)
		rc = cu->cuDeviceTotalMem(&bytes, g->device);
	if (rc)
		return why_set(why, cuda_errno(rc), "GPU %u does not tell what it is: %s", g->index,
			       cuda_error(cu, rc));
	f->name[sizeof(f->name) - 1] = 0;
	f->pci[sizeof(f->pci) - 1] = 0;
	for (char *p = f->pci; *p; p++)
		*p = (char)tolower((unsigned char)*p);
	f->bytes = bytes;
	uuid_text(&uuid, f->uuid);
	read_abilities(g);
	return 0;
}

int gpu_init(struct gpu_door *d, uint32_t index, struct why *why)
{
	struct gpu *g = &d->gpu[index];
	pthread_condattr_t attr;
	int rc;

	g->door = d;
	g->index = index;
	rc = read_facts(g, why);
	if (rc)
		return rc;
	lk_init(&g->lk, LK_GPU);
	lk_init(&g->in, LK_QUEUE);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&g->idle, &attr);
	pthread_cond_init(&g->wake, &attr);
	pthread_cond_init(&g->answered, &attr);
	pthread_condattr_destroy(&attr);
	g->inbox_tail = &g->inbox;
	atomic_store(&g->oldest_ns, UINT64_MAX);
	return 0;
}

void gpu_fini(struct gpu *g)
{
	imports_destroy(g->imports);
	mem_free(g->known);
	pthread_cond_destroy(&g->answered);
	pthread_cond_destroy(&g->wake);
	pthread_cond_destroy(&g->idle);
	lk_destroy(&g->in);
	lk_destroy(&g->lk);
}

struct gpu *gpu_by_uuid(struct gpu_door *d, struct slice uuid)
{
	const char *p = uuid.p;
	size_t n = uuid.n;

	if (n > 4 && (!strncasecmp(p, "GPU-", 4) || !strncasecmp(p, "MIG-", 4))) {
		p += 4;
		n -= 4;
	}
	for (uint32_t i = 0; n && i < d->ngpus; i++)
		if (strlen(d->gpu[i].facts.uuid) == n && !strncasecmp(d->gpu[i].facts.uuid, p, n))
			return &d->gpu[i];
	return NULL;
}

/* ---- the context ------------------------------------------------------------------------------------------------------------ */

/* Those who hold a broken context have been told to let it go. */
static void wait_for_last_user(struct gpu *g)
{
	uint64_t until = clock_ns() + LOST_WAIT_MS * 1000000ull;
	struct timespec t = {.tv_sec = (time_t)(until / 1000000000u), .tv_nsec = (long)(until % 1000000000u)};

	while (atomic_load(&g->lost) && g->users)
		if (pthread_cond_timedwait(&g->idle, &g->lk.m, &t))
			return;
}

static int make_context(struct gpu *g, struct why *why)
{
	const struct cuda_driver *cu = g->door->cu;
	CUresult rc;

	wait_for_last_user(g);
	if (atomic_load(&g->lost))
		return why_set(why, -ENODEV,
			       "the CUDA context of GPU %u broke, and engines or mappings of it are still there",
			       g->index);
	if (g->ctx)
		return 0;
	rc = cu->cuDevicePrimaryCtxRetain(&g->ctx, g->device);
	if (rc) {
		g->ctx = NULL;
		return why_set(why, cuda_errno(rc), "no CUDA context on GPU %u (%s): %s", g->index, g->facts.pci,
			       cuda_error(cu, rc));
	}
	g->ctx_epoch = atomic_load(&g->epoch);
	log_info("GPU %u (%s, %s) is in use: its CUDA context is made", g->index, g->facts.name, g->facts.pci);
	return 0;
}

/* No call can be made to ask what "unknown" means here. */
static int result_of_setting(struct gpu *g, CUresult rc)
{
	return rc == CUDA_ERROR_UNKNOWN ? -EIO : gpu_result(g, rc);
}

int gpu_hold(struct gpu *g, struct why *why)
{
	CUresult rc = 0;
	int err;

	lk_lock(&g->lk);
	err = make_context(g, why);
	if (!err) {
		g->users++;
		rc = g->door->cu->cuCtxSetCurrent(g->ctx);
	}
	lk_unlock(&g->lk);
	if (!err && rc) {
		err = result_of_setting(g, rc);
		gpu_release(g);
		why_set(why, err, "the CUDA context of GPU %u cannot be used: %s", g->index,
			cuda_error(g->door->cu, rc));
	}
	return err;
}

/* The last user is gone. A broken context stays broken for whoever still has it, so it is reset, not only let go. */
static void drop_context(struct gpu *g)
{
	const struct cuda_driver *cu = g->door->cu;
	CUresult rc;

	cu->cuCtxSetCurrent(NULL);
	rc = cu->cuDevicePrimaryCtxRelease(g->device);
	g->ctx = NULL;
	if (atomic_load(&g->lost)) {
		rc = cu->cuDevicePrimaryCtxReset(g->device);
		log_info("GPU %u: the broken CUDA context is gone; engines can register again", g->index);
		atomic_store(&g->lost, false);
	} else if (!rc) {
		log_info("GPU %u is not in use any more: its CUDA context is given back", g->index);
	}
	if (rc)
		log_warn("GPU %u: its CUDA context was not given back: %s", g->index, cuda_error(cu, rc));
	pthread_cond_broadcast(&g->idle);
}

void gpu_release(struct gpu *g)
{
	lk_lock(&g->lk);
	if (--g->users == 0)
		drop_context(g);
	lk_unlock(&g->lk);
}

int gpu_enter(struct gpu *g)
{
	CUcontext ctx;

	if (atomic_load(&g->lost))
		return -ENODEV;
	lk_lock(&g->lk);
	ctx = g->ctx;
	lk_unlock(&g->lk);
	return ctx ? result_of_setting(g, g->door->cu->cuCtxSetCurrent(ctx)) : -ENODEV;
}

/* "Unknown" is what a broken context says, and now and then a driver that refuses something. Asked once more, a context that works
 * answers. */
static bool broke(const struct gpu *g, CUresult rc)
{
	size_t f = 0, t = 0;

	return cuda_sticky(rc) && (rc != CUDA_ERROR_UNKNOWN || g->door->cu->cuMemGetInfo(&f, &t) != 0);
}

int gpu_result(struct gpu *g, CUresult rc)
{
	if (rc == CUDA_ERROR_NOT_READY)
		return -EAGAIN;
	if (!broke(g, rc))
		return cuda_sticky(rc) ? -EIO : cuda_errno(rc);
	if (!atomic_exchange(&g->lost, true)) {
		atomic_fetch_add(&g->epoch, 1);
		atomic_fetch_add(&g->n.lost, 1);
		log_error(
			"GPU %u (%s): its CUDA context broke (%s): all copies under way there have failed, its engines "
			"must register again",
			g->index, g->facts.pci, cuda_error(g->door->cu, rc));
	}
	return -ENODEV;
}
