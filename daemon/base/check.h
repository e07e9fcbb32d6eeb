/* check.h - assertions that stay on in release builds. For our own invariants only: bytes from outside and the
 * environment never trip one.
 */
#ifndef DAEMON_BASE_CHECK_H
#define DAEMON_BASE_CHECK_H

#include <stdio.h>
#include <stdlib.h>

#define check(cond)                                                                                                  \
	do {                                                                                                         \
		if (__builtin_expect(!(cond), 0)) {                                                                  \
			fprintf(stderr, "%s:%d: invariant broken in %s: %s\n", __FILE__, __LINE__, __func__, #cond); \
			abort();                                                                                     \
		}                                                                                                    \
	} while (0)

#endif
