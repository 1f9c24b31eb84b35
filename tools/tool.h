/* What the commands of the tool share: the option table that feeds both getopt_long() and the help
 * text, messages and exit codes, a device with its queue, and JSON. What a command does is in the
 * file of its name.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_TOOL_H
#define CLORA_TOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <jansson.h>

#include "clora.h"

/* The exit codes of every command. */
enum {
  TOOL_OK = 0,
  TOOL_FAILURE = 1,
  TOOL_USAGE = 2,
  TOOL_NO_DEVICE = 3,
  TOOL_WRONG = 4, /* a numeric check failed */
};

/* One call of a command: what every command is asked. */
struct tool {
  const char *command; /* "run" */
  bool json, verbose;
  const char *device;      /* a selector, or NULL: the best device */
  clora_load_options load; /* how adapters are loaded */
  uint64_t given;          /* bit n: option n of the command's own table was given */
  int exit_code;           /* of a call that ends with the options, see tool_parse() */
  bool shows_progress;     /* a progress line stands on stderr */
};

/* Passes an exit code on, or turns a status into a message and an exit code. */
#define TOOL_TRY(call)                       \
  do {                                       \
    int tool_try_code = (call);              \
    if (tool_try_code) return tool_try_code; \
  } while (0)

#define TOOL_CLORA(tool, call)                                               \
  do {                                                                       \
    clora_status tool_status = (call);                                       \
    if (tool_status != CLORA_OK) return tool_fail_status(tool, tool_status); \
  } while (0)

#define TOOL_CL(tool, what, code)                                                      \
  do {                                                                                 \
    cl_int tool_cl_code = (code);                                                      \
    if (tool_cl_code != CL_SUCCESS) return tool_fail_opencl(tool, what, tool_cl_code); \
  } while (0)

/* ---- options ---- */

enum tool_kind {
  TOOL_SWITCH, /* to a bool */
  TOOL_TEXT,   /* to a const char *; not empty */
  TOOL_NUMBER, /* to an uint64_t from `least` to `most` */
  TOOL_REAL,   /* to a double, finite */
  TOOL_CHOICE, /* to a size_t: the index of the name */
};

struct tool_option {
  char letter; /* 0: the long name alone */
  const char *name, *value, *help;
  enum tool_kind kind;
  void *to;
  bool is_required;
  uint64_t least, most;
  const char *(*choice)(size_t index); /* the names to choose from; NULL past the last */
};

/* Operands of which there may be many. */
enum { TOOL_MOST_OPERANDS = 1024 };
struct tool_operands {
  const char *texts[TOOL_MOST_OPERANDS];
  size_t count;
};

struct tool_usage {
  const char *synopsis; /* what follows "clora run " */
  const char *about, *examples;
  const char *operand; /* "ADAPTER"; NULL: the command takes none */
  const char **operand_to;
  const char *others; /* "BASE": one or more further operands; NULL: the command takes none */
  struct tool_operands *others_to;
  bool may_lack_others; /* then none are enough */
  bool uses_device;     /* then it has --device and --verbose too */
  bool loads_adapter;   /* then it has --adapter and --changed-base too */
  const struct tool_option *options;
  size_t option_count;
};

/* The last words of an option's row. */
#define TOOL_REQUIRED .is_required = true
#define TOOL_OPTIONAL .is_required = false
#define TOOL_RANGE(first, last) .least = (first), .most = (last)

#define TOOL_LARGEST_DIMENSION 2147483647 /* what an int of a kernel can count */

/* Reads the text as the option's value; and the other way round, false when there is none. */
int tool_option_read(struct tool *tool, const struct tool_option *option, const char *text);
bool tool_option_text(const struct tool_option *option, char *text, size_t size);

/* Choices: the dtypes, and the variants, of which SIZE_MAX is none. */
const char *tool_dtype_choice(size_t index);
const char *tool_variant_choice(size_t index);
const char *tool_variant_of(size_t index);

/* Reads argv. False when the command ends here, with tool->exit_code: after -h, or an error. */
bool tool_parse(struct tool *tool, const struct tool_usage *usage, int argc, char **argv);

/* The name most like `word`, or NULL when none is near. */
const char *tool_nearest(const char *word, size_t count, const char *(*name)(size_t index));

/* ---- messages ---- */

/* Prints text with its control and format characters escaped, for names that come from files or
 * drivers.
 * Gives the number of columns; stream may be NULL, to count alone. */
size_t tool_put(FILE *stream, const char *text);

/* The same as a word of a shell's, to be pasted. */
void tool_put_word(FILE *stream, const char *text);

/* The same, filled with spaces to `width` columns on stdout. */
void tool_put_column(const char *text, size_t width);

/* Print "clora run: ..." on stderr and give the exit code. */
__attribute__((format(printf, 3, 4))) int tool_fail(struct tool *tool, int code, const char *format,
                                                    ...);
int tool_fail_status(struct tool *tool, clora_status status);
int tool_fail_opencl(struct tool *tool, const char *what, cl_int code);

/* Whether stderr can show a line that is replaced. */
bool tool_is_terminal(void);

/* A line on stderr that the next output replaces; nothing unless stderr is a terminal. */
__attribute__((format(printf, 2, 3))) void tool_progress(struct tool *tool, const char *format,
                                                         ...);
void tool_end_progress(struct tool *tool);

/* ---- JSON ---- */

json_t *tool_json_text(const char *text);
json_t *tool_json_real(double value);     /* null when not finite: JSON has no word for it */
json_t *tool_json_number(uint64_t value); /* a string above what a JSON integer holds here */
json_t *tool_json_lines(const char *text);

/* Prints the object on stdout and releases it. */
int tool_print_json(struct tool *tool, json_t *object);

/* ---- adapters and their layers ---- */

/* As the options of the command say. */
int tool_adapter_open(struct tool *tool, const char *path, clora_adapter **adapter);

/* The format that it was read from: "peft", "kohya", "gguf", "npy". */
const char *tool_adapter_format(const clora_adapter *adapter);

/* Whether an adapter can be written there, before anything is computed. */
int tool_check_output(struct tool *tool, const char *path);

/* Says which copies of the base's tensors do not come along, on stderr. */
int tool_tell_left_out(struct tool *tool, const char *path, const clora_adapter *adapter);

struct tool_layer {
  clora_adapter *adapter;
  size_t index;
  clora_adapter_layer about;
};

int tool_layer_open(struct tool *tool, const char *path, const char *name,
                    struct tool_layer *layer);
void tool_layer_close(struct tool_layer *layer);

/* "linear", "embedding", "conv1x1". */
const char *tool_kind_name(clora_layer_kind kind);

/* "alpha/r", "alpha/sqrt(r)", "explicit". */
const char *tool_mode_name(clora_scale_mode mode);

/* "shrink cpu, expand cpu": the short of what clora_explain_*() wrote. */
void tool_serving(const char *explained, char *text, size_t size);

/* "[120, 384]". */
#define TOOL_SHAPE_SIZE 256
void tool_shape(const clora_array *array, char *text, size_t size);

/* All values of an array of two dimensions or more are finite, or an error names the first other.
 */
int tool_check_finite(struct tool *tool, const char *what, const clora_array *array);

/* ---- problems of a shape ---- */

struct tool_problem {
  size_t rows, d_in, d_out, r;
  clora_dtype dtype;
  float beta;
};

/* "rows=64,d_in=4096,r=16,dtype=f16"; d_in alone is required. */
int tool_problem_read(struct tool *tool, const char *text, struct tool_problem *problem);

/* Calls of that shape, without buffers: forward, backward to dx, dA and dB, where y is dy, and
 * weight. Where beta is not 0 gradients are added, too. The layer is the caller's to destroy, and
 * the options point into the call. */
struct tool_call {
  clora_layer *layer;
  clora_matrix x, y, w, da, db;
  clora_forward_options forward;
  clora_backward_options backward;
  clora_weight_options weight;
};
int tool_problem_open(struct tool *tool, const struct tool_problem *problem, clora_context *context,
                      struct tool_call *call);

struct tool_operation {
  const char *name;
  clora_status (*prepare)(struct tool_call *call);
  clora_status (*explain)(const struct tool_call *call, char *text, size_t size);
  clora_status (*tune)(struct tool_call *call, const clora_tune_options *options, size_t *found);
};

/* As --backward and --weight say; forward without them. */
int tool_operation_find(struct tool *tool, bool is_backward, bool is_weight,
                        const struct tool_operation **operation);

/* "backward, rows 64, 4096 -> 4096, r 16, f16, beta 1". */
void tool_problem_title(const struct tool_problem *problem, const struct tool_operation *operation,
                        char *title, size_t size);

/* ---- a device ---- */

struct tool_session {
  clora_context *context;
  cl_command_queue queue;
};

/* variant may be NULL. What the library logs goes to stderr. */
int tool_session_open(struct tool *tool, const char *selector, const char *variant,
                      struct tool_session *session);
void tool_session_close(struct tool_session *session);

/* "0:0 NAME". */
void tool_device_title(const clora_device *device, char *title, size_t size);

/* rows * cols, or an error that names what is too large. */
int tool_count(struct tool *tool, const char *what, size_t rows, size_t cols, size_t *count);

/* Allocates `count` values of f32, at least one. */
int tool_allocate(struct tool *tool, const char *what, size_t count, float **values);

/* Creates a buffer of `bytes` from `stored`, which may be NULL: then the content is undefined. */
int tool_buffer(struct tool *tool, const struct tool_session *session, const char *what,
                size_t bytes, void *stored, cl_mem *mem);
void tool_release(cl_mem mem); /* or NULL */

/* Host values to a new buffer in `dtype`, and back. The latter blocks. */
int tool_upload(struct tool *tool, const struct tool_session *session, const char *what,
                clora_dtype dtype, size_t count, const float *values, cl_mem *mem);
int tool_download(struct tool *tool, const struct tool_session *session, const char *what,
                  clora_dtype dtype, size_t count, cl_mem mem, float *values);

/* Waits for a command and checks that it worked; releases the event. */
int tool_wait(struct tool *tool, const char *what, cl_event event);

/* Calls the handler when the terminal, a user or the system wants an end (SIGINT, SIGTERM, SIGHUP),
 * but not for what is ignored, as under nohup. The flags are those of sigaction(). */
void tool_catch_interrupts(void (*handler)(int number), int flags);

/* Between the two, an interrupt waits: a process that ends while a kernel is being checked leaves
 * it refused in the store. A second one ends the program all the same. */
void tool_hold_interrupts(void);
void tool_release_interrupts(void);

double tool_time_ms(void);

#endif
