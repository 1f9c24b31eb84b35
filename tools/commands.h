/* The commands, one a file. Each takes its own name as argv[0] and gives the exit code.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOL_COMMANDS_H
#define CLORA_TOOL_COMMANDS_H

int run_combine(int argc, char **argv);
int run_compress(int argc, char **argv);
int run_convert(int argc, char **argv);
int run_devices(int argc, char **argv);
int run_explain(int argc, char **argv);
int run_extract(int argc, char **argv);
int run_init(int argc, char **argv);
int run_inspect(int argc, char **argv);
int run_match(int argc, char **argv);
int run_merge(int argc, char **argv);
int run_forward(int argc, char **argv); /* clora run */
int run_train(int argc, char **argv);
int run_tune(int argc, char **argv);
int run_resize(int argc, char **argv);
int run_verify(int argc, char **argv);
int run_weight(int argc, char **argv);

#endif
