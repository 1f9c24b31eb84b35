/* What the files of the benchmark share. A *case* is one operation on one shape, an *engine* a way
 * to compute it, a *stage* the memory that an engine works on, a *peer* an engine that takes part
 * in a run, in this process or in a child. A run gives rows; reports only read them.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_BENCH_H
#define CLORA_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include <jansson.h>

#include "clora.h"

enum {
  BENCH_OK = 0,
  BENCH_FAILURE = 1,
  BENCH_USAGE = 2,
  BENCH_NO_DEVICE = 3,
  BENCH_WRONG = 4,  /* one of our results was wrong */
  BENCH_MISSED = 5, /* a floor was missed, or `compare` found something slower */
};

#define BENCH_MOST_ROUNDS 200
#define BENCH_MOST_PEERS 16
#define BENCH_MOST_DEVICES 16
#define BENCH_CHECKED_ROWS 16 /* rows of y that are compared with the reference */
#define BENCH_TEXT 320

#define BENCH_COUNT(table) (sizeof(table) / sizeof *(table))

/* Passes an exit code on. */
#define BENCH_TRY(call)                        \
  do {                                         \
    int bench_try_code = (call);               \
    if (bench_try_code) return bench_try_code; \
  } while (0)

/* ---- options and messages (options.c) ---- */

enum bench_op {
  BENCH_FORWARD,
  BENCH_BACKWARD,  /* dx, dA and dB, t given */
  BENCH_REDUCE,    /* dB alone */
  BENCH_STEP,      /* forward, backward and AdamW of A, B and the scale */
  BENCH_OPTIMIZER, /* AdamW of A and B */
  BENCH_OPS
};

struct bench_case {
  char name[96]; /* the key in every output: "llama3-8b.q rows=16 r=16 f32" */
  enum bench_op op;
  size_t rows, d_in, d_out, r;
  clora_dtype dtype;
  float beta;
};

struct bench_options {
  const char *device; /* a selector, "all", or NULL: the best device */
  const char *filter, *shape, *peers, *cblas, *json, *csv, *html, *floors;
  uint64_t rounds;
  double budget_seconds; /* of the whole run */
  bool brief, list;
};

/* The commands that share a set of options; bits. */
enum { BENCH_OF_SUITE = 1, BENCH_OF_FIRST_CALL = 2, BENCH_OF_COMPARE = 4 };

/* Reads argv behind the command's name. False when the command ends here, with *code. */
bool bench_parse(int argc, char **argv, unsigned command, struct bench_options *options,
                 const char **operands, size_t operand_count, int *code);
void bench_print_options(unsigned command);

/* Prints "clora-bench: ..." on stderr and gives the code. */
__attribute__((format(printf, 2, 3))) int bench_fail(int code, const char *format, ...);

/* A line on stderr that the next one replaces; nothing unless stderr is a terminal. */
__attribute__((format(printf, 1, 2))) void bench_progress(const char *format, ...);
void bench_end_progress(void);

double bench_seconds(void);

/* ---- outputs (output.c) ---- */

/* Whether all can be written, before anything is measured. If one is "-", it alone has stdout. */
int bench_check_outputs(const struct bench_options *options);
/* A file becomes what is at its path when it is committed complete. */
FILE *bench_create(const char *path);
int bench_commit(FILE *file, const char *path, bool is_complete);

/* ---- cases (cases.c) and their data (data.c) ---- */

/* The cases of a suite that the options ask for; the caller frees *cases. */
int bench_cases(const char *suite, const struct bench_options *options, struct bench_case **cases,
                size_t *count);
bool bench_find_dtype(const char *name, clora_dtype *dtype);

enum bench_operand {
  BENCH_X,
  BENCH_A,
  BENCH_B,
  BENCH_T,
  BENCH_Y,
  BENCH_DY,
  BENCH_DT,
  BENCH_DX,
  BENCH_DA,
  BENCH_DB,
  BENCH_OPERANDS
};

/* ---- operations (ops.c) ---- */

struct bench_factor {
  enum bench_operand operand;
  bool turned; /* its transpose */
};

struct bench_product { /* out = [scale] in weight; y is added to with beta */
  struct bench_factor in, weight;
  enum bench_operand out;
  bool is_scaled;
};

#define BENCH_MOST_PRODUCTS 6
#define BENCH_MOST_CHECKS 3

/* Sets of operands are bits. */
struct bench_op_about {
  const char *name;
  unsigned inputs, outputs, scratch; /* scratch: of who computes it by products */
  size_t product_count, check_count;
  struct bench_product products[BENCH_MOST_PRODUCTS];
  struct bench_check { /* an output that is scale times two or three factors; none: AdamW's */
    enum bench_operand operand;
    size_t factor_count;
    struct bench_factor factors[3];
  } checks[BENCH_MOST_CHECKS];
};

extern const struct bench_op_about bench_ops[BENCH_OPS];

const struct bench_op_about *bench_op_of(const struct bench_case *c);
bool bench_find_op(const char *name, enum bench_op *op);
bool bench_has(unsigned operands, enum bench_operand operand);
bool bench_is_read(const struct bench_case *c, enum bench_operand operand);
bool bench_accumulates(const struct bench_case *c); /* a second call gives another result */
double bench_flops(const struct bench_case *c);
double bench_bytes(const struct bench_case *c); /* every operand once */

#define BENCH_SCALE 0.5     /* of every layer */
#define BENCH_RATE 0x1p-12f /* of the optimizer's steps */

/* Values [first, first + count) of an operand, rounded to the dtype. The same in every process. */
void bench_values(const struct bench_case *c, enum bench_operand operand, size_t first,
                  size_t count, float *values);
clora_dtype bench_dtype_of(const struct bench_case *c, enum bench_operand operand);
size_t bench_rows_of(const struct bench_case *c, enum bench_operand operand);
size_t bench_cols_of(const struct bench_case *c, enum bench_operand operand);

/* ---- a device and the memory of a case (stage.c) ---- */

struct bench_device {
  clora_device about;
  cl_context opencl;
  cl_command_queue queue, profiled;
  size_t cache_bytes;      /* of the last level */
  size_t arena_bytes;      /* over which cold data rotates */
  size_t host_arena_bytes; /* the same for CPU peers */
  unsigned threads;        /* of CPU peers */
};

int bench_device_open(const char *selector, struct bench_device *device);
void bench_device_close(struct bench_device *device);

/* Copies of a case's operands, enough that a copy has left the caches when its turn comes again. */
struct bench_stage {
  struct bench_case problem;
  const struct bench_device *device;
  const char *argument; /* of the engine: a variant, or a library's file */
  bool on_host;
  bool reads_y; /* of an engine that reads y although beta is 0: then the poison is finite */
  cl_mem arena; /* where the copies lie on a device */
  char *memory; /* and on the host */
  size_t bytes; /* of arena or memory */
  size_t set_bytes, set_count, next_set;
  size_t offset[BENCH_OPERANDS]; /* bytes from the start of a set */
  char why[BENCH_TEXT];          /* what went wrong, in words */
  char plan[BENCH_TEXT];         /* how the engine computes the case */
};

/* Whether so many arenas with a case's operands fit into a device; if not, why has BENCH_TEXT. */
bool bench_has_room(const struct bench_case *c, const clora_device *about, size_t copies,
                    char *why);
bool bench_stage_fill(struct bench_stage *stage);
void bench_stage_free(struct bench_stage *stage);
clora_matrix bench_stage_matrix(const struct bench_stage *stage, size_t set,
                                enum bench_operand operand);
void *bench_stage_pointer(const struct bench_stage *stage, size_t set, enum bench_operand operand);
bool bench_stage_restore(struct bench_stage *stage, size_t set);
bool bench_stage_read(struct bench_stage *stage, size_t set, enum bench_operand operand,
                      size_t count, const size_t *rows, float *values);

/* Says why in stage->why; always false. */
__attribute__((format(printf, 2, 3))) bool bench_unable(struct bench_stage *stage,
                                                        const char *format, ...);
bool bench_scratch(struct bench_stage *stage, size_t bytes, cl_mem *mem);

/* ---- engines (peer_*.c) ---- */

struct bench_engine {
  const char *name;
  bool on_host, reads_y;
  bool (*open)(struct bench_stage *stage, void **state);
  bool (*prepare)(struct bench_stage *stage, void *state); /* after the stage was filled */
  /* Enqueues the case on set `set`; on the host it computes it. */
  bool (*call)(struct bench_stage *stage, void *state, size_t set, cl_command_queue queue,
               cl_event *event);
  void (*release)(void *state); /* what prepare made */
  void (*close)(void *state);
};

extern const struct bench_engine bench_engine_clora, bench_engine_clblast, bench_engine_tuned,
    bench_engine_seed, bench_engine_blas;

/* Conversions of the CPU peers, as fast as the CPU makes them (convert.c). */
void bench_widen(clora_dtype dtype, size_t count, const void *stored, float *values);
void bench_narrow(clora_dtype dtype, size_t count, const float *values, void *stored);

/* ---- peers (peers.c, worker.c) ---- */

enum bench_mode { BENCH_COLD, BENCH_WARM, BENCH_MODES };

const char *bench_mode_name(enum bench_mode mode);

enum bench_kind { BENCH_PREPARE, BENCH_TURN, BENCH_READ };

struct bench_request {
  enum bench_kind kind;
  struct bench_case problem; /* BENCH_PREPARE */
  enum bench_mode mode;      /* BENCH_TURN */
  unsigned calls, dropped_calls;
  bool wants_events;
  /* BENCH_READ: what the last call left, or of the first set, after outputs were restored and
   * computed, or as it is. */
  bool is_first_set, computes;
  enum bench_operand operand;
  size_t row_count, rows[BENCH_CHECKED_ROWS];
};

struct bench_reply {
  bool worked;
  char text[BENCH_TEXT]; /* why not, or how the engine computes the case */
  double host_seconds;   /* of one call: the median of the turn's */
  double event_seconds;  /* by the device's clock; negative: not known */
  size_t value_count;
  size_t launches; /* of one call: kernels and fills */
};

struct bench_server {
  const struct bench_engine *engine;
  struct bench_stage stage;
  void *state;
  bool is_open, is_prepared;
};

/* Answers one request; values has room for the rows of a BENCH_READ. */
void bench_serve(struct bench_server *server, const struct bench_request *request,
                 struct bench_reply *reply, float *values);
void bench_server_close(struct bench_server *server);

struct bench_peer {
  char name[32];
  const struct bench_engine *engine;
  char argument[256];
  bool in_child, is_ours;
  bool is_host_blas; /* one of those the best BLAS is chosen from */
  struct bench_server server;
  pid_t process;
  int to, from; /* pipes of the child */
};

/* The peers of a device. */
int bench_peers_open(const struct bench_device *device, const struct bench_options *options,
                     struct bench_peer *peers, size_t *count);
void bench_peers_close(struct bench_peer *peers, size_t count);
bool bench_ask(struct bench_peer *peer, const struct bench_device *device,
               const struct bench_request *request, struct bench_reply *reply, float *values);

size_t bench_launches(void); /* so far in this process (launches.c) */

/* Starts this program again with other arguments. extra: "NAME=value" settings, NULL at the end. */
pid_t bench_spawn(char *const *arguments, const char *const *extra, int *to, int *from);
void bench_reap(pid_t process);
bool bench_receive(int from, void *data, size_t bytes, double timeout_seconds);
bool bench_send(int to, const void *data, size_t bytes);
int bench_worker(int argc, char **argv);

/* ---- ceilings (ceilings.c) ---- */

enum bench_ceiling {
  BENCH_READ_RATE,
  BENCH_COPY_RATE,
  BENCH_FMA_RATE,
  BENCH_EMPTY,
  BENCH_CEILINGS
};

struct bench_ceiling_about {
  const char *name, *unit, *title;
};
extern const struct bench_ceiling_about bench_ceilings[BENCH_CEILINGS];

struct bench_gauge; /* the kernels that measure them on one device */

/* Takes about so many seconds at most: the fastest of the ways that were tried until then is kept.
 */
int bench_gauge_open(const struct bench_device *device, double seconds, struct bench_gauge **gauge);
void bench_gauge_close(struct bench_gauge *gauge);
/* bytes/s, bytes/s, flop/s, seconds. */
double bench_gauge_measure(struct bench_gauge *gauge, enum bench_ceiling ceiling);
const char *bench_gauge_choice(const struct bench_gauge *gauge, enum bench_ceiling ceiling);

/* ---- results (measure.c) ---- */

enum bench_status { BENCH_MEASURED, BENCH_WRONG_RESULT, BENCH_UNABLE };

struct bench_result { /* one peer on one case */
  char peer[32];
  bool is_ours, is_host_blas;
  bool is_elsewhere; /* it does not run on the row's device, whose limit says nothing of it */
  enum bench_status status;
  char text[BENCH_TEXT]; /* how, or why not */
  double error;          /* the largest error over the bound of clora_reference_forward() */
  double samples[BENCH_MODES][BENCH_MOST_ROUNDS]; /* seconds by round; negative: sat out */
  double events[BENCH_MOST_ROUNDS];
  double spent_seconds;
  size_t launches; /* of a call */
};

struct bench_row { /* one case on one device */
  struct bench_case problem;
  size_t device;
  size_t rounds, result_count;
  size_t set_count;
  double ceilings[BENCH_CEILINGS][BENCH_MOST_ROUNDS];
  struct bench_result results[BENCH_MOST_PEERS];
};

struct bench_summary {
  clora_device about;
  size_t cache_bytes, arena_bytes;
  unsigned threads;
  char choice[BENCH_CEILINGS][64];
  double ceiling[BENCH_CEILINGS]; /* medians over the run */
  double fma_drift;
  bool is_noisy;
};

struct bench_run {
  char suite[16];
  bool is_all; /* every device of the machine */
  uint64_t rounds;
  size_t device_count, row_count;
  struct bench_summary devices[BENCH_MOST_DEVICES];
  struct bench_row *rows;
};

int bench_measure(const struct bench_options *options, const struct bench_case *cases, size_t count,
                  struct bench_run *run);

/* ---- statistics (stats.c) ---- */

struct bench_spread {
  size_t count;
  double median, low, high; /* p10 and p90, or the 95 % interval of a ratio */
};

double bench_quantile(size_t count, const double *values, double p);  /* sorts nothing */
struct bench_spread bench_spread(size_t count, const double *values); /* negatives left out */
/* The median of above[i] / below[i] with its bootstrap 95 % interval. */
struct bench_spread bench_ratio(size_t count, const double *above, const double *below);
/* The same for two series that are not paired. */
struct bench_spread bench_ratio_unpaired(size_t above_count, const double *above,
                                         size_t below_count, const double *below);

/* What reports say about a row. */
struct bench_view {
  const struct bench_result *ours, *plain, *blas, *clblast; /* NULL: not measured */
  double limit_seconds;                                     /* what the ceilings allow */
  bool is_bandwidth_bound, is_launch_bound;
  struct bench_spread time[BENCH_MODES];
  double percent; /* of the limit, cold; negative: no time */
};

struct bench_view bench_look(const struct bench_row *row);
double bench_limit(const struct bench_row *row, const struct bench_case *c, bool *by_bandwidth,
                   bool *by_launch);
double bench_row_ceiling(const struct bench_row *row, enum bench_ceiling ceiling);
const struct bench_result *bench_find_result(const struct bench_row *row, const char *peer);
double bench_percent(const struct bench_row *row, const struct bench_result *result);

/* ---- checks (check.c) ---- */

#define BENCH_WRONG_PEER 1e4 /* times the bound: no rounding explains it */

/* Some rows of each checked output in float64, with their bounds. */
struct bench_truth {
  const struct bench_case *problem;
  size_t row_count[BENCH_MOST_CHECKS], rows[BENCH_MOST_CHECKS][BENCH_CHECKED_ROWS];
  double *expected[BENCH_MOST_CHECKS], *bound[BENCH_MOST_CHECKS];
};

bool bench_truth_open(const struct bench_case *c, const clora_device *device,
                      struct bench_truth *truth);
void bench_truth_close(struct bench_truth *truth);
/* The largest error over the bound in the rows of a check. */
double bench_truth_error(const struct bench_truth *truth, size_t check, const float *values);

/* ---- text (table.c) ---- */

#define BENCH_DIGITS 32
#define BENCH_CELL 512
#define BENCH_MOST_COLUMNS 16

/* "1.23", "12.3", "123"; nothing for a negative value, which was not measured. */
const char *bench_digits(char *text, double value);
/* "1.23x [1.20, 1.31]"; text has BENCH_CELL bytes. */
const char *bench_ratio_text(char *text, struct bench_spread ratio);

/* Cells row by row, the header first; align holds an l or r for each column. */
struct bench_table {
  const char *align;
  size_t count;
  char (*cells)[BENCH_CELL];
};

__attribute__((format(printf, 2, 3))) void bench_cell(struct bench_table *table, const char *format,
                                                      ...);
void bench_fill_row(struct bench_table *table);
void bench_table_print(struct bench_table *table); /* and empties it */

/* ---- reports ---- */

void bench_report_text(const struct bench_run *run, bool brief);
int bench_report_json(const struct bench_run *run, const char *path);
int bench_report_csv(const struct bench_run *run, const char *path);
int bench_report_html(const struct bench_run *run, const char *path);
void bench_draw_roofline(FILE *file, const struct bench_run *run, size_t device);
void bench_draw_ratios(FILE *file, const struct bench_run *run, size_t device);
int bench_check_floors(const char *path); /* whether it can be read, before anything is measured */
int bench_report_floors(const struct bench_run *run, const char *path);

#define BENCH_SCHEMA "clora-bench"
#define BENCH_SCHEMA_VERSION 1
/* Whether a file is of a schema and of the version that this program knows. */
int bench_check_schema(const json_t *file, const char *path, const char *schema);

/* ---- commands ---- */

int bench_compare(int argc, char **argv);
int bench_first_call(int argc, char **argv);
int bench_first_call_child(int argc, char **argv);

#endif
