/* server.h - the daemon: `lmcache-appliance server`. Parses its options, starts the threads, serves until SIGTERM/SIGINT. */
#ifndef DAEMON_CORE_SERVER_H
#define DAEMON_CORE_SERVER_H

/* Exit code: 0 clean stop, 1 start failed, 2 usage. argv[0] is the name used in messages. */
int server_main(int argc, char **argv);

#endif
