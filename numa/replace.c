#include "numa/replace.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(int fd, const char *text, size_t len)
{
	while (len) {
		ssize_t n = write(fd, text, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n ? -errno : -EIO;
		text += n;
		len -= (size_t)n;
	}
	return fsync(fd) ? -errno : 0;
}

int replace_file(const char *path, unsigned mode, const char *text, size_t len, struct why *why)
{
	char folder[4096], temporary[4096];

	if (snprintf(temporary, sizeof(temporary), "%s.XXXXXX", path) >= (int)sizeof(temporary))
		return why_set(why, -ENAMETOOLONG, "%.64s...: a long name", path);
	snprintf(folder, sizeof(folder), "%s", path);
	mkdir(dirname(folder), 0755);
	int fd = mkostemp(temporary, O_CLOEXEC), rc = fd < 0 ? -errno : 0;
	if (rc == 0) {
		rc = fchmod(fd, mode) ? -errno : write_all(fd, text, len);
		if (close(fd) && !rc)
			rc = -errno;
		if (rc == 0 && rename(temporary, path))
			rc = -errno;
		if (rc)
			unlink(temporary);
	}
	return rc ? why_set(why, rc, "cannot write %s: %s", path, strerror(-rc)) : 0;
}
