/* main.c - lmcache-appliance: the daemon and its tools in one binary. */
#include "daemon/core/server.h"
#include "tools/cli.h"

int main(int argc, char **argv)
{
	return cli_main(argc, argv, server_main);
}
