/* Prints docs/options.md. */
#include "daemon/conf/conf.h"

int main(void)
{
	conf_write_docs(stdout);
	return 0;
}
