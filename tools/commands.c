/* commands.c - every command of the upstream tree: ours, and those this release answers by name only. */
#include "tools/commands.h"

#define LATER NULL

const struct cli_cmd cli_commands[] = {
	{"server", NULL, "Run the cache server in the foreground (ZMQ and HTTP)", LATER},
	{"ping", "kvcache", "Check that a cache server answers, and how fast", cmd_ping_kvcache},
	{"ping", "engine", "Check that an inference engine answers, and how fast", cmd_ping_engine},
	{"describe", "kvcache", "Show configuration, memory and registered engines of a cache server",
	 cmd_describe_kvcache},
	{"describe", "engine", "Show model and load of an inference engine", LATER},
	{"query", "kvcache", "Look a prompt's tokens up in the cache", cmd_query_kvcache},
	{"query", "engine", "Send a prompt to an inference engine and time it", LATER},
	{"query", "coordinator", "Ask a fleet coordinator", LATER},
	{"bench", "kvcache", "Load and verify a cache server through the real protocol", cmd_bench_kvcache},
	{"bench", "server", "Upstream's later name of bench kvcache, with other options", LATER},
	{"bench", "engine", "Load an inference engine", LATER},
	{"bench", "l2", "Load and verify a second-tier adapter, without a server", cmd_bench_l2},
	{"kvcache", "clear", "Drop every object from the first tier", cmd_kvcache_clear},
	{"kvcache", "end-session", "End the session of a request", cmd_kvcache_end_session},
	{"kvcache", "evict", "Evict objects now", LATER},
	{"l2", "format", "Make a second-tier store on a device, a partition or a file", cmd_l2_format},
	{"l2", "info", "Say what is on a device: our store, another one, a file system", cmd_l2_info},
	{"l2", "verify", "Read every record of a store and check it", cmd_l2_verify},
	{"l2", "dump", "List the records of a store", cmd_l2_dump},
	{"numa", "show", "Show the machine, and where memory and threads of the server go", cmd_numa_show},
	{"numa", "explain", "Show every fact about the machine, a node or a device with its source", cmd_numa_explain},
	{"numa", "plan", "Say where memory and threads should go, why, and the lines to get there", cmd_numa_plan},
	{"numa", "check", "Compare machine and limits with the plan; each finding with its remedy", cmd_numa_check},
	{"numa", "apply", "Do what the plan asks of the system (root)", cmd_numa_apply},
	{"numa", "undo", "Put back what apply found (root)", cmd_numa_undo},
	{"numa", "verify", "Look where pages and threads of the running server really are", cmd_numa_verify},
	{"numa", "capture", "Write the machine to a file that the other commands read with --from", cmd_numa_capture},
	{"numa", "measure", "Measure copies between nodes and devices", cmd_numa_measure},
	{"quota", "set", "Limit the bytes of a cache salt", LATER},
	{"quota", "get", "Show the limit of a cache salt", LATER},
	{"quota", "list", "Show all limits", LATER},
	{"quota", "delete", "Remove the limit of a cache salt", LATER},
	{"trace", "info", "Show what a storage trace holds", LATER},
	{"trace", "replay", "Replay a storage trace", LATER},
	{"trace", "replay-events", "Replay an event trace", LATER},
	{"coordinator", NULL, "Run a fleet coordinator", LATER},
	{"tool", NULL, "Upstream's collection of helpers", LATER},
	{"mock", NULL, "Run a server with a pretended GPU", LATER},
};

const size_t cli_ncommands = sizeof(cli_commands) / sizeof(cli_commands[0]);
