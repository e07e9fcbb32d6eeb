/* Prints docs/l2-adapters.md. */
#include "daemon/l2/l2.h"

int main(void)
{
	l2_conf_write_docs(stdout);
	return 0;
}
