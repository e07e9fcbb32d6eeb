#include "daemon/base/why.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int why_set(struct why *why, int err, const char *fmt, ...)
{
	if (why) {
		va_list ap;
		why->err = err;
		va_start(ap, fmt);
		vsnprintf(why->text, sizeof(why->text), fmt, ap);
		va_end(ap);
	}
	return err;
}

void why_prefix(struct why *why, const char *fmt, ...)
{
	char old[sizeof(why->text)];
	va_list ap;
	int n;

	if (!why)
		return;
	memcpy(old, why->text, sizeof(old));
	va_start(ap, fmt);
	n = vsnprintf(why->text, sizeof(why->text), fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= sizeof(why->text))
		return;
	snprintf(why->text + n, sizeof(why->text) - (size_t)n, ": %.*s", (int)(sizeof(why->text) - (size_t)n - 3), old);
}
