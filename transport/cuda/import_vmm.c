/* import_vmm.c - memory of the virtual-memory interface (vLLM's sleep mode, and others that ask for it to be exportable).
 *
 * A fabric handle is 64 bytes that travel in the wrapper. A posix descriptor does not: LMCache's clients keep it, for a channel whose
 * protocol is not published (they send `_fd` None). What the kernel lets us do without it is to duplicate a descriptor whose number we are told
 * (pidfd_getfd), if that process is in sight and of our user. The driver counts references to such memory, so that it outlives its
 * exporter as long as it is mapped here.
 */
#include "transport/cuda/import_int.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool driver_can(const struct cuda_driver *cu)
{
	return cu->cuMemImportFromShareableHandle && cu->cuMemAddressReserve && cu->cuMemAddressFree && cu->cuMemMap &&
	       cu->cuMemUnmap && cu->cuMemSetAccess && cu->cuMemRelease;
}

/* ---- descriptors ----------------------------------------------------------------------------------------------------------- */

static int not_duplicated(uint32_t pid, int err, struct why *why)
{
	switch (err) {
	case ESRCH:
	case EINVAL:
		return why_set(why, -EACCES,
			       "process %u, which has the descriptor of the KV memory, is gone or not in sight: server "
			       "and engine need a common pid namespace (--pid=host, hostPID: true)",
			       pid);
	case EPERM:
		return why_set(why, -EACCES,
			       "process %u does not let us duplicate the descriptor of its KV memory: run server and "
			       "engine as the same user, or give the server CAP_SYS_PTRACE (kernel.yama.ptrace_scope "
			       "may forbid it, too)",
			       pid);
	case EBADF:
		return why_set(why, -EACCES, "process %u has no such descriptor any more", pid);
	case ENOSYS:
		return why_set(why, -EOPNOTSUPP, "descriptors of KV memory need Linux 5.6 (pidfd_getfd)");
	default:
		return why_set(why, -EACCES, "cannot duplicate a descriptor of process %u: %s", pid, strerror(err));
	}
}

/* The number, and who has it. */
static int fetch_fd(const struct map_what *what, int *out, struct why *why)
{
	int pidfd, err;

	if (!what->has_fd)
		return why_set(
			why, -EOPNOTSUPP,
			"the KV memory is exported by a descriptor that was not sent along (LMCache's channel for "
			"it is not published): have the engine allocate it without sleep mode and without "
			"use_vmm_api, or so that it has a fabric handle (IMEX channel)");
	if (!what->from.pid)
		return why_set(why, -EOPNOTSUPP,
			       "the KV memory is exported by a descriptor, and the engine's process is not known here: "
			       "server and engine need a common pid namespace (--pid=host, hostPID: true)");
	pidfd = (int)syscall(SYS_pidfd_open, (pid_t)what->from.pid, 0);
	if (pidfd < 0)
		return not_duplicated(what->from.pid, errno, why);
	*out = (int)syscall(SYS_pidfd_getfd, pidfd, (int)what->fd, 0);
	err = errno;
	close(pidfd);
	return *out < 0 ? not_duplicated(what->from.pid, err, why) : 0;
}

/* ---- mapping ----------------------------------------------------------------------------------------------------------------- */

static int import_fabric(struct mapping *m, const struct map_what *what, struct why *why)
{
	struct gpu *g = m->im->gpu;
	CUmemFabricHandle h;
	CUresult rc;

	if (!g->facts.fabric)
		return why_set(
			why, -EOPNOTSUPP,
			"the KV memory has a fabric handle, and this GPU or driver has no fabric: give the server "
			"an IMEX channel (NVIDIA_IMEX_CHANNELS=0), or turn use_vmm_api off in the engine");
	memcpy(&h, what->key.p, sizeof(h));
	rc = g->door->cu->cuMemImportFromShareableHandle(&m->handle, &h, CU_MEM_HANDLE_TYPE_FABRIC);
	m->has_handle = rc == 0;
	return rc ? map_refused(g, rc, "the fabric handle", why) : 0;
}

static int import_fd(struct mapping *m, const struct map_what *what, struct why *why)
{
	struct gpu *g = m->im->gpu;
	CUresult rc;
	int fd = -1, err = fetch_fd(what, &fd, why);

	if (err)
		return err;
	rc = g->door->cu->cuMemImportFromShareableHandle(&m->handle, (void *)(intptr_t)fd,
							 CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR);
	close(fd); /* the driver has its own */
	m->has_handle = rc == 0;
	return rc ? map_refused(g, rc, "the descriptor", why) : 0;
}

/* The driver refuses to map more than the allocation has. */
static int map_it(struct mapping *m, struct why *why)
{
	struct gpu *g = m->im->gpu;
	const struct cuda_driver *cu = g->door->cu;
	CUmemAccessDesc who = {{CU_MEM_LOCATION_TYPE_DEVICE, g->device}, CU_MEM_ACCESS_FLAGS_PROT_READWRITE};
	CUdeviceptr base = 0;
	size_t bytes = 0;
	CUresult rc = cu->cuMemMap(m->base, m->reserved, 0, m->handle, 0);

	m->mapped = rc == 0;
	if (rc == CUDA_ERROR_INVALID_VALUE)
		return why_set(why, -ERANGE, "the allocation has not the %llu bytes that the engine claims",
			       (unsigned long long)m->reserved);
	if (!rc)
		rc = cu->cuMemSetAccess(m->base, m->reserved, &who, 1);
	if (!rc)
		rc = cu->cuMemGetAddressRange(&base, &bytes, m->base);
	if (rc)
		return map_refused(g, rc, "the allocation", why);
	if (base != m->base)
		return why_set(why, -EIO, "the driver placed the KV memory elsewhere than it was told");
	m->bytes = bytes < m->reserved ? bytes : m->reserved;
	return 0;
}

int vmm_map(struct mapping *m, const struct map_what *what, struct why *why)
{
	struct gpu *g = m->im->gpu;
	CUresult rc;
	int err;

	if (!driver_can(g->door->cu) || !g->facts.vmm)
		return why_set(why, -EOPNOTSUPP,
			       "the KV memory is of CUDA's virtual-memory interface, which this GPU or driver does not "
			       "offer: turn sleep mode and use_vmm_api off in the engine");
	/* First the addresses, which show whether the size makes sense. */
	rc = g->door->cu->cuMemAddressReserve(&m->base, what->alloc_bytes, 0, 0, 0);
	if (rc == CUDA_ERROR_INVALID_VALUE)
		return why_set(why, -EINVAL, "no allocation has the size that the engine claims, %llu bytes",
			       (unsigned long long)what->alloc_bytes);
	if (rc)
		return map_refused(g, rc, "addresses for the KV memory", why);
	m->reserved = what->alloc_bytes;
	err = what->kind == MAP_FABRIC ? import_fabric(m, what, why) : import_fd(m, what, why);
	if (!err)
		err = map_it(m, why);
	return err;
}

CUresult vmm_unmap(struct mapping *m)
{
	struct gpu *g = m->im->gpu;
	const struct cuda_driver *cu = g->door->cu;
	CUresult rc = 0;

	if (m->mapped) {
		rc = cu->cuMemUnmap(m->base, m->reserved);
		m->mapped = rc != 0;
	}
	if (!rc && m->reserved) {
		rc = cu->cuMemAddressFree(m->base, m->reserved);
		m->reserved = rc ? m->reserved : 0;
	}
	if (!rc && m->has_handle) {
		rc = cu->cuMemRelease(m->handle);
		m->has_handle = rc != 0;
	}
	return rc;
}
