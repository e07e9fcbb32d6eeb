/* why.h - the reason of a failure, in words an operator can act on.
 *
 * A slow path takes a `struct why *` (may be NULL). The function that decides that something is an error fills
 * it; the function that handles the error prints it. Nobody in between logs. Fixed size, lives in the caller's
 * frame, never allocates.
 */
#ifndef DAEMON_BASE_WHY_H
#define DAEMON_BASE_WHY_H

struct why {
	int err; /* negative errno, 0 when nothing was set */
	char text[512];
};

/* Stores the reason and returns `err` (a negative errno), so that `return why_set(...)` reads well. */
int why_set(struct why *why, int err, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* Puts "prefix: " before the text already stored. */
void why_prefix(struct why *why, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#endif
