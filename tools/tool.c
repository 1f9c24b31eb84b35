/* Messages, JSON, adapters and a device, as the commands share them.
 * SPDX-License-Identifier: Apache-2.0 */
#include "tool.h"

#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ---- messages ---- */

/* What a terminal does not show but obeys, or shows as nothing: control characters, and Unicode's
 * format characters, which turn the direction of what follows or hide in a name. */
static const struct {
  uint32_t first, last;
} hidden[] = {{0x00, 0x1f},     {0x7f, 0x9f},     {0xad, 0xad},      {0x61c, 0x61c},
              {0x180e, 0x180e}, {0x200b, 0x200f}, {0x2028, 0x202e},  {0x2060, 0x206f},
              {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe007f}};

/* The character that text starts with, and its bytes. What is not UTF-8, a driver's name, say, is
 * passed on byte by byte: as a character that is not hidden. */
static uint32_t take_character(const char *text, size_t *bytes) {
  const unsigned char *at = (const unsigned char *)text;
  size_t more = *at >= 0xf0 ? 3 : *at >= 0xe0 ? 2 : *at >= 0xc2 ? 1 : 0;
  uint32_t character = more > 0 ? *at & (0x3fu >> more) : *at < 0x80 ? *at : 'x';
  *bytes = 1;
  for (size_t n = 1; n <= more; n++) {
    if ((at[n] & 0xc0) != 0x80) return 'x';
    character = character << 6 | (at[n] & 0x3fu);
  }
  *bytes = 1 + more;
  return character;
}

static bool is_hidden(uint32_t character) {
  size_t n = 0, count = sizeof hidden / sizeof *hidden;
  while (n < count && (character < hidden[n].first || character > hidden[n].last)) n++;
  return n < count;
}

/* "\x1b", "\u202e"; gives the columns. */
static size_t put_escaped(FILE *stream, uint32_t character) {
  char text[16];
  int columns = snprintf(text, sizeof text, "\\%c%0*x", character > 0xff ? 'u' : 'x',
                         character > 0xff ? 4 : 2, (unsigned)character);
  if (stream != NULL) fputs(text, stream);
  return (size_t)columns;
}

static size_t put(FILE *stream, const char *text, size_t length) {
  size_t columns = 0, bytes;
  for (const char *end = text + length; text < end; text += bytes) {
    uint32_t character = take_character(text, &bytes);
    if (is_hidden(character)) {
      columns += put_escaped(stream, character);
      continue;
    }
    if (stream != NULL) fwrite(text, 1, bytes, stream);
    columns++;
  }
  return columns;
}

size_t tool_put(FILE *stream, const char *text) {
  return put(stream, text, strlen(text));
}

void tool_put_word(FILE *stream, const char *text) {
  static const char plain[] =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./+:,=@%";
  if (text[strspn(text, plain)] == '\0') {
    tool_put(stream, text);
    return;
  }
  putc('\'', stream);
  for (size_t part; part = strcspn(text, "'"), put(stream, text, part), text[part] != '\0';) {
    fputs("'\\''", stream);
    text += part + 1;
  }
  putc('\'', stream);
}

void tool_put_column(const char *text, size_t width) {
  size_t columns = tool_put(stdout, text);
  printf("%*s", columns < width ? (int)(width - columns) : 0, "");
}

/* Further lines of a message are indented: no text from a file can look like a message. */
static void put_lines(const char *text) {
  size_t length = strlen(text);
  while (length > 0 && text[length - 1] == '\n') length--;
  for (const char *end = text + length; text <= end;) {
    const char *line_end = memchr(text, '\n', (size_t)(end - text));
    if (line_end == NULL) line_end = end;
    put(stderr, text, (size_t)(line_end - text));
    fputs(line_end < end ? "\n  " : "\n", stderr);
    text = line_end + 1;
  }
}

static void put_name(const struct tool *tool) {
  fprintf(stderr, "clora%s%s: ", tool->command ? " " : "", tool->command ? tool->command : "");
}

int tool_fail(struct tool *tool, int code, const char *format, ...) {
  char text[4096];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  tool_end_progress(tool);
  put_name(tool);
  put_lines(text);
  const char *space = tool->command ? " " : "", *command = tool->command ? tool->command : "";
  if (code == TOOL_USAGE) fprintf(stderr, "See: clora%s%s -h\n", space, command);
  return code;
}

int tool_fail_status(struct tool *tool, clora_status status) {
  int code = status == CLORA_NO_DEVICE ? TOOL_NO_DEVICE : TOOL_FAILURE;
  return tool_fail(tool, code, "%s", clora_error());
}

int tool_fail_opencl(struct tool *tool, const char *what, cl_int code) {
  return tool_fail(tool, TOOL_FAILURE, "%s: OpenCL error %d", what, (int)code);
}

bool tool_is_terminal(void) {
  const char *terminal = getenv("TERM");
  return isatty(STDERR_FILENO) && terminal != NULL && strcmp(terminal, "dumb") != 0;
}

void tool_progress(struct tool *tool, const char *format, ...) {
  if (!tool_is_terminal()) return;
  tool_end_progress(tool);
  char text[80]; /* a longer line would wrap and could not be taken back */
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  tool_put(stderr, text);
  fflush(stderr);
  tool->shows_progress = true;
}

void tool_end_progress(struct tool *tool) {
  if (tool->shows_progress) fputs("\r\033[K", stderr);
  tool->shows_progress = false;
}

static void print_log(clora_log_level level, const char *message, void *user) {
  struct tool *tool = user;
  if (level == CLORA_LOG_INFO && !tool->verbose) return;
  tool_end_progress(tool);
  put_name(tool);
  fputs(level == CLORA_LOG_WARNING ? "warning: " : "", stderr);
  char text[4096];
  snprintf(text, sizeof text, "%s", message);
  put_lines(text);
}

/* ---- JSON ---- */

json_t *tool_json_text(const char *text) {
  json_t *value = json_string(text);
  if (value != NULL) return value;
  char plain[256]; /* not UTF-8: a driver's name, say */
  snprintf(plain, sizeof plain, "%s", text);
  for (char *at = plain; *at != '\0'; at++) {
    if ((unsigned char)*at >= 0x80) *at = '?';
  }
  return json_string(plain);
}

json_t *tool_json_real(double value) {
  json_t *real = json_real(value);
  return real != NULL ? real : json_null();
}

json_t *tool_json_number(uint64_t value) {
  if (value <= INT64_MAX) return json_integer((json_int_t)value);
  char digits[24];
  snprintf(digits, sizeof digits, "%llu", (unsigned long long)value);
  return json_string(digits);
}

json_t *tool_json_lines(const char *text) {
  json_t *lines = json_array();
  while (*text != '\0') {
    size_t length = strcspn(text, "\n");
    json_array_append_new(lines, json_stringn(text, length));
    text += length + (text[length] == '\n');
  }
  return lines;
}

int tool_print_json(struct tool *tool, json_t *object) {
  int result =
      json_dumpf(object, stdout, JSON_INDENT(2) | JSON_ENSURE_ASCII | JSON_REAL_PRECISION(15));
  json_decref(object);
  if (result != 0) return tool_fail(tool, TOOL_FAILURE, "cannot write JSON to stdout");
  putchar('\n');
  return TOOL_OK;
}

/* ---- adapters and their layers ---- */

int tool_adapter_open(struct tool *tool, const char *path, clora_adapter **adapter) {
  TOOL_CLORA(tool, clora_adapter_load_with(path, &tool->load, adapter));
  size_t rounded = clora_adapter_rounded(*adapter);
  if (rounded == 0) return TOOL_OK;
  fprintf(stderr, "clora %s: %s: %zu value%s of f64 rounded to f32\n", tool->command, path, rounded,
          rounded == 1 ? "" : "s");
  return TOOL_OK;
}

const char *tool_adapter_format(const clora_adapter *adapter) {
  const char *spelling = clora_adapter_spelling(adapter);
  return spelling != NULL ? spelling : "npy"; /* a pair is called as its files are */
}

int tool_check_output(struct tool *tool, const char *path) {
  if (clora_adapter_format_of(path) != NULL) return TOOL_OK;
  return tool_fail(tool, TOOL_USAGE, "%s", clora_error());
}

int tool_tell_left_out(struct tool *tool, const char *path, const clora_adapter *adapter) {
  for (size_t n = 0; n < clora_adapter_tensor_count(adapter); n++) {
    clora_adapter_tensor tensor;
    TOOL_CLORA(tool, clora_adapter_describe_tensor(adapter, n, &tensor));
    if (!tensor.is_base_copy) continue;
    fprintf(stderr, "clora %s: %s: left out the copy of the base's own ", tool->command, path);
    tool_put(stderr, tensor.name);
    fputc('\n', stderr);
  }
  return TOOL_OK;
}

/* The library cannot know how a layer is chosen here. */
static int refuse_many(struct tool *tool, const char *path, const clora_adapter *adapter) {
  char names[2048] = "";
  size_t used = 0, count = clora_adapter_count(adapter);
  for (size_t i = 0; i < count; i++) {
    clora_adapter_layer layer;
    TOOL_CLORA(tool, clora_adapter_describe(adapter, i, &layer));
    if (used + strlen(layer.name) + 40 > sizeof names) {
      snprintf(names + used, sizeof names - used, "\nand %zu more", count - i);
      break;
    }
    used += (size_t)snprintf(names + used, sizeof names - used, "\n%s", layer.name);
  }
  return tool_fail(tool, TOOL_FAILURE, "%s has %zu layers; choose one with --layer:%s", path, count,
                   names);
}

int tool_layer_open(struct tool *tool, const char *path, const char *name,
                    struct tool_layer *layer) {
  TOOL_TRY(tool_adapter_open(tool, path, &layer->adapter));
  if (name == NULL && clora_adapter_count(layer->adapter) > 1) {
    return refuse_many(tool, path, layer->adapter);
  }
  TOOL_CLORA(tool, clora_adapter_find(layer->adapter, name, &layer->index));
  TOOL_CLORA(tool, clora_adapter_describe(layer->adapter, layer->index, &layer->about));
  return TOOL_OK;
}

void tool_layer_close(struct tool_layer *layer) {
  clora_adapter_destroy(layer->adapter);
  layer->adapter = NULL;
}

const char *tool_kind_name(clora_layer_kind kind) {
  return kind == CLORA_EMBEDDING ? "embedding" : kind == CLORA_POINTWISE ? "conv1x1" : "linear";
}

const char *tool_mode_name(clora_scale_mode mode) {
  switch (mode) {
    case CLORA_ALPHA_OVER_R:
      return "alpha/r";
    case CLORA_ALPHA_OVER_SQRT_R:
      return "alpha/sqrt(r)";
    case CLORA_EXPLICIT_SCALE:
      return "explicit";
  }
  return "unknown";
}

void tool_serving(const char *explained, char *text, size_t size) {
  size_t used = 0;
  text[0] = '\0';
  for (const char *at = explained; (at = strstr(at, ": serves")) != NULL; at++) {
    const char *start = at;
    while (start > explained && start[-1] != '\n') start--;
    int length = snprintf(text + used, size - used, "%s%.*s", used > 0 ? ", " : "",
                          (int)(at - start), start);
    used = used + (size_t)length < size ? used + (size_t)length : size - 1;
  }
  if (used == 0) snprintf(text, size, "nothing");
}

void tool_shape(const clora_array *array, char *text, size_t size) {
  size_t used = (size_t)snprintf(text, size, "[");
  for (size_t i = 0; i < array->rank; i++) {
    used += (size_t)snprintf(text + used, size - used, "%s%zu", i > 0 ? ", " : "", array->shape[i]);
  }
  snprintf(text + used, size - used, "]");
}

int tool_check_finite(struct tool *tool, const char *what, const clora_array *array) {
  size_t cols = array->shape[array->rank - 1];
  for (size_t i = 0; i < array->count; i++) {
    if (isfinite(array->values[i])) continue;
    return tool_fail(tool, TOOL_FAILURE, "%s: row %zu, column %zu is %g", what, i / cols, i % cols,
                     (double)array->values[i]);
  }
  return TOOL_OK;
}

/* ---- a device ---- */

int tool_session_open(struct tool *tool, const char *selector, const char *variant,
                      struct tool_session *session) {
  clora_context_options options = {
      .selector = selector, .variant = variant, .log = print_log, .log_user = tool};
  TOOL_CLORA(tool, clora_context_create(&options, &session->context));
  cl_int code;
  session->queue = clCreateCommandQueue(clora_context_opencl(session->context),
                                        clora_context_device(session->context)->id, 0, &code);
  TOOL_CL(tool, "clCreateCommandQueue", code);
  return TOOL_OK;
}

void tool_session_close(struct tool_session *session) {
  if (session->queue != NULL) clReleaseCommandQueue(session->queue);
  clora_context_destroy(session->context);
  *session = (struct tool_session){0};
}

void tool_device_title(const clora_device *device, char *title, size_t size) {
  snprintf(title, size, "%u:%u %s", device->platform_index, device->device_index, device->name);
}

int tool_count(struct tool *tool, const char *what, size_t rows, size_t cols, size_t *count) {
  if (rows > 0 && cols > PTRDIFF_MAX / sizeof(double) / rows) {
    return tool_fail(tool, TOOL_FAILURE, "%s would have %zu x %zu elements: too many", what, rows,
                     cols);
  }
  *count = rows * cols;
  return TOOL_OK;
}

int tool_allocate(struct tool *tool, const char *what, size_t count, float **values) {
  *values = calloc(count > 0 ? count : 1, sizeof **values);
  if (*values != NULL) return TOOL_OK;
  return tool_fail(tool, TOOL_FAILURE, "no memory for the %zu elements of %s", count, what);
}

int tool_buffer(struct tool *tool, const struct tool_session *session, const char *what,
                size_t bytes, void *stored, cl_mem *mem) {
  uint64_t most = clora_context_device(session->context)->allocation_bytes;
  if (bytes > most) {
    return tool_fail(tool, TOOL_FAILURE, "%s has %zu bytes, the device allows %llu in one buffer",
                     what, bytes, (unsigned long long)most);
  }
  cl_int code;
  cl_mem_flags flags = CL_MEM_READ_WRITE | (stored && bytes ? CL_MEM_COPY_HOST_PTR : 0);
  *mem = clCreateBuffer(clora_context_opencl(session->context), flags, bytes > 0 ? bytes : 1,
                        bytes > 0 ? stored : NULL, &code);
  TOOL_CL(tool, "clCreateBuffer", code);
  return TOOL_OK;
}

void tool_release(cl_mem mem) {
  if (mem != NULL) clReleaseMemObject(mem);
}

int tool_upload(struct tool *tool, const struct tool_session *session, const char *what,
                clora_dtype dtype, size_t count, const float *values, cl_mem *mem) {
  float *stored; /* wide enough for every dtype */
  TOOL_TRY(tool_allocate(tool, what, count, &stored));
  clora_pack(dtype, count, values, stored);
  int code = tool_buffer(tool, session, what, count * clora_dtype_size(dtype), stored, mem);
  free(stored);
  return code;
}

static int read_buffer(struct tool *tool, const struct tool_session *session, size_t bytes,
                       cl_mem mem, void *stored) {
  if (bytes == 0) return TOOL_OK;
  TOOL_CL(tool, "clEnqueueReadBuffer",
          clEnqueueReadBuffer(session->queue, mem, CL_TRUE, 0, bytes, stored, 0, NULL, NULL));
  return TOOL_OK;
}

int tool_download(struct tool *tool, const struct tool_session *session, const char *what,
                  clora_dtype dtype, size_t count, cl_mem mem, float *values) {
  float *stored;
  TOOL_TRY(tool_allocate(tool, what, count, &stored));
  int code = read_buffer(tool, session, count * clora_dtype_size(dtype), mem, stored);
  if (code == TOOL_OK) clora_unpack(dtype, count, stored, values);
  free(stored);
  return code;
}

int tool_wait(struct tool *tool, const char *what, cl_event event) {
  cl_int waited = clWaitForEvents(1, &event), status = CL_COMPLETE;
  cl_int asked =
      clGetEventInfo(event, CL_EVENT_COMMAND_EXECUTION_STATUS, sizeof status, &status, NULL);
  clReleaseEvent(event);
  if (asked == CL_SUCCESS && status < 0) { /* it says more than what waiting for it gave */
    return tool_fail(tool, TOOL_FAILURE, "%s failed on the device: OpenCL error %d", what,
                     (int)status);
  }
  TOOL_CL(tool, what, waited);
  TOOL_CL(tool, what, asked);
  return TOOL_OK;
}

static const int interrupts[] = {SIGINT, SIGTERM, SIGHUP};
#define INTERRUPTS (sizeof interrupts / sizeof *interrupts)
static struct sigaction former[INTERRUPTS];
static volatile sig_atomic_t held;

static void hold(int number) {
  held = number;
}

void tool_catch_interrupts(void (*handler)(int number), int flags) {
  const struct sigaction action = {.sa_handler = handler, .sa_flags = flags};
  for (size_t i = 0; i < INTERRUPTS; i++) {
    sigaction(interrupts[i], NULL, &former[i]);
    if (former[i].sa_handler != SIG_IGN) sigaction(interrupts[i], &action, NULL);
  }
}

void tool_hold_interrupts(void) {
  held = 0;
  tool_catch_interrupts(hold, (int)SA_RESETHAND);
}

void tool_release_interrupts(void) {
  for (size_t i = 0; i < INTERRUPTS; i++) sigaction(interrupts[i], &former[i], NULL);
  if (held != 0) raise(held);
}

double tool_time_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec * 1e-6;
}
