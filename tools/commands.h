/* commands.h - the commands of the table in commands.c. */
#ifndef TOOLS_COMMANDS_H
#define TOOLS_COMMANDS_H

#include "tools/cli.h"

int cmd_ping_kvcache(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_ping_engine(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_describe_kvcache(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_query_kvcache(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_kvcache_clear(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_kvcache_end_session(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_bench_kvcache(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_bench_l2(const struct cli_cmd *cmd, int argc, char **argv);

int cmd_l2_format(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_l2_info(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_l2_verify(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_l2_dump(const struct cli_cmd *cmd, int argc, char **argv);

int cmd_numa_show(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_explain(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_plan(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_check(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_apply(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_undo(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_verify(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_capture(const struct cli_cmd *cmd, int argc, char **argv);
int cmd_numa_measure(const struct cli_cmd *cmd, int argc, char **argv);

#endif
