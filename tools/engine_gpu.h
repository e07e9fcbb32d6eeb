/* engine_gpu.h - paged KV of pretended engines in the memory of a GPU: what an engine's process does with the CUDA driver.
 *
 * `egpu_host`: the driver and the GPUs of this process. `egpu`: the memory of one worker on one GPU: tensors in a few allocations, their
 * handles of CUDA IPC, a stream, events that the server can open. The CPU writes and checks patterns in a *window*: pinned memory
 * laid out like the pages, in which block i is the i-th block of a request, wherever that lies on the GPU.
 *
 * Who owns what: wrappers and event handles borrow from the egpu. Threads: egpu_host any; an egpu belongs to one thread, whose current
 * CUDA context it sets. What can fail: everything that asks the driver; 0 or -errno, `why` names the call and CUDA's error.
 */
#ifndef TOOLS_ENGINE_GPU_H
#define TOOLS_ENGINE_GPU_H

#include "daemon/base/slice.h"
#include "daemon/base/why.h"
#include "tools/kvmodel.h"

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum egpu_wrapper { EGPU_TORCH, EGPU_RAW };     /* kinds A and B of the protocol reference, section 8 */
enum egpu_events { EGPU_EVENT, EGPU_TIMELINE }; /* 64 bytes, or the 81 of isolated engines */

struct egpu_conf {
	const char *library; /* NULL: libcuda.so.1 */
	int32_t ordinal;     /* the GPU of all workers; < 0: one after another in turn */
	uint32_t workers;    /* how many there will be: no more GPUs than that get a context */
	enum egpu_wrapper wrapper;
	enum egpu_events events;
};

struct egpu_host;
struct egpu;

/* -ENOENT (no driver), -ENODEV (no GPU, or not that one), and what cuda_driver_load says. */
int egpu_host_open(const struct egpu_conf *conf, struct egpu_host **out, struct why *why);
void egpu_host_close(struct egpu_host *h);
/* "cuda:0 NVIDIA H100 80GB HBM3", "cuda: 8 x ..." */
void egpu_host_describe(const struct egpu_host *h, char *buf, size_t cap);
/* Bytes per nanosecond of one large copy between pinned memory and the first GPU, alone, best of a few: what transfers are held against. */
int egpu_host_limit(struct egpu_host *h, double *to_gpu, double *from_gpu, struct why *why);
/* torch's reference counters of tensors that were closed, and how many of them the server had not given back by then. */
void egpu_host_counters(const struct egpu_host *h, uint64_t *counters, uint64_t *kept);

/* Allocates the tensors of `place`; a window of `window_blocks` blocks unless that is 0. */
int egpu_open(struct egpu_host *h, const struct km_place *place, uint64_t window_blocks, struct egpu **out,
	      struct why *why);
/* `registered`: a server had the memory and let go of it; then torch's reference counters are waited for a little. NULL is allowed. */
void egpu_close(struct egpu *g, bool registered);

/* Tensor i as it is registered: kind, handle, offsets, shape. */
void egpu_wrap(const struct egpu *g, uint32_t i, struct pk_wrapper *out);

const struct km_place *egpu_window(const struct egpu *g);
uint8_t *egpu_window_tensor(const struct egpu *g, uint32_t i);
/* Of the layers of a group (km_groups): blocks [first, first + n) of the window to, or from, the blocks blocks[first ...] of the pages. Upload is
 * only queued on the stream; download waits. */
int egpu_upload(struct egpu *g, uint32_t group, const uint32_t *blocks, uint64_t first, uint64_t n, struct why *why);
int egpu_download(struct egpu *g, uint32_t group, const uint32_t *blocks, uint64_t first, uint64_t n, struct why *why);

/* The handle of an event that covers what was queued so far: what a request carries. Valid until 64 more were taken. */
int egpu_record(struct egpu *g, struct slice *handle, struct why *why);
/* The stream waits for the event of a reply (-EPROTO when it is none); egpu_sync waits for the stream. */
int egpu_await(struct egpu *g, struct slice handle, struct why *why);
int egpu_sync(struct egpu *g, struct why *why);

#endif
