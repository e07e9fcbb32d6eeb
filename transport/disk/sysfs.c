#include "transport/disk/engines.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void disk_whole(char *dir)
{
	char path[4096 + 16], *slash;

	snprintf(path, sizeof path, "%s/partition", dir);
	slash = strrchr(dir, '/');
	if (slash && !access(path, F_OK))
		*slash = 0;
}

bool disk_first_entry(const char *dir, char *out, size_t cap)
{
	char found[512] = "";
	struct dirent *e;
	DIR *d = opendir(dir);

	if (!d)
		return false;
	while ((e = readdir(d)))
		if (e->d_name[0] != '.' && (!found[0] || strcmp(e->d_name, found) < 0))
			snprintf(found, sizeof found, "%s", e->d_name);
	closedir(d);
	if (!found[0])
		return false;
	if (out == dir) {
		size_t n = strlen(out);
		return (size_t)snprintf(out + n, cap - n, "/%s", found) < cap - n;
	}
	return (size_t)snprintf(out, cap, "%s/%s", dir, found) < cap;
}
