/* Registrations of GPU memory, on a driver that has whatever a handle asks for. The first byte picks: even = a wrapper's pickle follows;
 * odd = the fields of a wrapper, as no pickle may ever have them. Whatever is imported must lie within the allocation, and nothing may be
 * left of it after. */
#include "daemon/base/log.h"
#include "tests/unit/transport/cuda/any_handle.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* ---- one import ---------------------------------------------------------------------------------------------------------------------------- */

/* Element by element from the far end, in 128 bits, apart from how it is done in import.c. */
static void within(const struct pk_wrapper *w, const struct gpu_view *v)
{
	unsigned __int128 end = w->storage_offset;

	must(w->ndim > 0 && w->ndim <= PK_MAX_DIMS);
	for (uint32_t i = 0; i < w->ndim; i++) {
		must(w->shape[i] > 0 && w->stride[i] >= 0);
		end += (unsigned __int128)(w->shape[i] - 1) * (uint64_t)w->stride[i];
		must(end < (unsigned __int128)1 << 64);
	}
	end = (end + 1) * pk_dtype_size(w->dtype);
	must(end <= gpu_view_bytes(v));
	must(gpu_view_address(v) >= AT && gpu_view_address(v) - AT + gpu_view_bytes(v) <= dev.bytes);
}

static void try_import(struct gpu_door *d, const struct pk_wrapper *w)
{
	struct gpu_view *v = NULL, *again = NULL;
	struct why why = {0};

	any_handle_name(d, w->device_uuid);
	if (gpu_import(d, w, 0, &v, &why) == 0) {
		within(w, v);
		must(gpu_import(d, w, 0, &again, NULL) == 0 && gpu_view_address(again) == gpu_view_address(v));
		gpu_view_put(v);
		gpu_view_put(again);
	} else {
		must(!v && why.err < 0 && why.text[0] && memchr(why.text, '\0', sizeof(why.text)));
	}
	any_handle_nothing_left(d);
}

static void from_fields(struct gpu_door *d, const uint8_t *p, size_t n)
{
	struct pk_wrapper w = {.device_uuid = slice_str("3b1f3c52-0000-4000-8000-000000000007"),
			       .refcount_name = slice_str("/torch_none_here")};
	uint64_t fields[24] = {0};
	uint8_t handle[64] = {1};

	memcpy(fields, p, n < sizeof(fields) ? n : sizeof(fields));
	memcpy(handle + 60, fields, 4);
	w.kind = (enum pk_kind)(fields[0] >> 32 & 7);
	w.dtype = (enum pk_dtype)(fields[0] >> 40 & 31);
	w.ndim = (uint32_t)(fields[0] >> 48 & 15);
	w.vmm_fabric = fields[0] >> 56 & 1;
	w.event_sync = fields[0] >> 57 & 1;
	w.has_fd = fields[0] >> 58 & 1;
	w.mem_handle = w.fabric_blob = w.event_handle = slice_of(handle, 64);
	w.export_id = slice_of(handle, 16);
	for (uint32_t i = 0; i < PK_MAX_DIMS; i++) {
		w.shape[i] = fields[1 + i];
		w.stride[i] = (int64_t)fields[9 + i];
	}
	w.storage_offset = fields[17];
	w.base_offset = w.alloc_offset = fields[18];
	w.storage_bytes = w.nbytes = fields[19];
	w.alloc_bytes = fields[20];
	w.refcount_index = fields[21];
	try_import(d, &w);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct pk_mem *mem; /* one per process, as a server thread has it */
	static struct gpu_door *d;
	struct pk_wrapper w;

	if (!mem) {
		d = any_handle_door();
		must(pk_mem_create(&mem) == 0);
		log_set_level(LOG_LVL_ERROR);
	}
	if (size == 0)
		return 0;
	if (data[0] & 1)
		from_fields(d, data + 1, size - 1);
	else if (pk_wrapper_parse(slice_of(data + 1, size - 1), mem, &w, NULL) == 0)
		try_import(d, &w);
	return 0;
}
