/* The journal of numa apply, which undo reads as root: whatever is in it, only files of the list come out. */
#include "numa/apply_journal.h"

#include "daemon/base/check.h"

#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct journal j = {.fd = -1, .boot = "b"};
	struct why why = {0};
	int rc = journal_parse(&j, (const char *)data, size, &why);

	check(rc == 0 || why.text[0]);
	check(j.end >= 0 && (size_t)j.end <= size);
	for (uint32_t i = 0; i < j.nsteps; i++) {
		check(apply_path_ok(j.steps[i].path));
		check(memchr(j.steps[i].found, '\0', sizeof(j.steps[i].found)));
		check(memchr(j.steps[i].wanted, '\0', sizeof(j.steps[i].wanted)));
	}
	journal_close(&j);
	return 0;
}
