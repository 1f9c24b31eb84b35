/* What the tests that need a device share: contexts, buffers with guard zones, and one call checked
 * against the reference.
 *
 * CLORA_TEST_DEVICE is the selector of the device. CLORA_TEST_SUITE is tiny, short, normal (when it
 * is not set) or full. CLORA_TEST_MAY_REFUSE is set for drivers that are known to compute some
 * kernels wrongly: a kernel that the verdict gate refused there is reported, not failed.
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_DEVICE_TEST_H
#define CLORA_DEVICE_TEST_H

#include "clora_test.h"
#include "device/context.h"

enum suite { TINY, SHORT, NORMAL, FULL };
enum suite suite_size(void);

/* Runs the cases in this very process (a forked child of a process that uses OpenCL hangs), or
 * prints why there is nothing to run on and returns SKIPPED. */
int run_device_cases(const char *name, const TTest *const *cases, size_t count);

#define DEVICE_TEST_MAIN(name, ...)                                     \
  int main(void) {                                                      \
    const TTest *const cases[] = {__VA_ARGS__};                         \
    return run_device_cases(name, cases, sizeof cases / sizeof *cases); \
  }

/* A context of these options on the process's one cl_context: in every new one a driver may take
 * half a second to load its builtin functions. Warnings are kept unless a log is given. */
clora_context *make_context(clora_context_options options);

/* A context for one variant (NULL: any), made once a process and kept. */
clora_context *context_of(const char *variant);

/* The variants of the library that are worth running on this device, NULL-terminated. */
const char *const *variants_here(void);

/* Whether the product's table has a row of that name. */
struct clora__product;
bool computes(const struct clora__product *product, const char *variant);

/* The row of the table that is made for CPUs, of a product or of the forward. */
struct clora__variant;
const struct clora__variant *cpu_row(const struct clora__product *product);

bool is_cpu_here(void);

/* Whether nobody would choose the variant on this device (`gpu` on a CPU), so that the normal suite
 * runs a part of its cases there: every kernel is compiled for half a second. */
bool is_odd_here(const char *variant);

/* Whether the gate is known to refuse the variant's kernels on this driver; prints that. */
bool is_refused_here(const char *variant);

/* What the contexts of make_context() and context_of() logged last as a warning. */
const char *last_warning(void);

/* An in-order queue, and an out-of-order one or NULL with the reason printed. */
cl_command_queue ordered_queue(clora_context *context);
cl_command_queue unordered_queue(clora_context *context);

/* Repeatable values: standard normal, rounded to the dtype. */
float *random_values(size_t count, clora_dtype dtype, uint64_t seed);

/* How a matrix is laid out in its buffer. */
struct layout {
  clora_dtype dtype;
  size_t offset, padding; /* elements before the first, and after each stored row */
  bool transposed;
};

/* A buffer with a matrix in it and guard zones everywhere else. */
struct guarded {
  clora_matrix matrix;
  size_t bytes;
  unsigned char *before; /* the whole buffer as it was filled */
};

/* values [rows, cols], or NULL: NaN. */
struct guarded guarded_create(clora_context *context, size_t rows, size_t cols,
                              struct layout layout, const float *values);

/* Reads the elements back; fails the test when anything outside them changed. */
float *guarded_read(clora_context *context, const struct guarded *guarded);
void guarded_free(struct guarded *guarded);

/* One forward call. */
struct forward_case {
  size_t rows, d_in, r, d_out;
  float beta;
  struct layout x, a, b, y;
  bool wants_t, own_scratch, own_layer; /* own_layer: A, B owned by the layer, layouts unused */
  bool unordered;
};

/* Runs it on the device and compares y, and t when wanted, with the reference; fails the test with
 * the case in words. Returns the error over the bound, or NaN when the gate refused the kernel and
 * may do so here. */
double check_forward(clora_context *context, const struct forward_case *c, uint64_t seed);

struct weight_case {
  size_t d_in, r, d_out;
  float beta;
  struct layout a, b, w;
};

double check_weight(clora_context *context, const struct weight_case *c, uint64_t seed);

/* Sums up the cases of one variant. */
struct tally {
  clora_context *context;
  bool f32_only; /* CLBlast */
  size_t cases, refused;
  double worst;
};
void tally_add(struct tally *tally, double error);
void tally_report(const char *operation, const char *variant, const struct tally *tally);

/* Calls visit with `levels[f]` values a factor, so that every pair of values of every two factors
 * occurs; or, exhaustively over the first `product` factors, all their combinations. */
#define FACTOR_LIMIT 20
typedef void (*visit_function)(const unsigned *levels, uint64_t seed, void *data);
/* Names the kernels that a case needs by numbers below KIND_LIMIT, at most KIND_COUNT of them, and
 * returns how many: a new one is compiled for half a second, so that pairs are rather covered by
 * those that have occurred. */
#define KIND_LIMIT 1024
#define KIND_COUNT 5
typedef size_t (*kinds_function)(const unsigned *levels, unsigned *kinds);
void visit_pairs(size_t factors, const unsigned *levels, kinds_function kinds, visit_function visit,
                 void *data);

/* What the rules of shrink, expand and the forward for CPUs tell apart, below 9. */
unsigned rule_of(size_t rows, size_t r);

/* And that of gemm, below 6. */
unsigned gemm_rule_of(size_t rows, size_t cols);

void visit_product(size_t factors, const unsigned *levels, size_t product, visit_function visit,
                   void *data);

/* A small repeatable generator for choices. */
unsigned choice(uint64_t *state, unsigned below);

/* What random cases begin from, CLORA_TEST_SEED or `otherwise`, printed. */
uint64_t random_seed(uint64_t otherwise);

/* Levels of all factors, and sizes as small as the suite. */
struct random_case {
  unsigned levels[FACTOR_LIMIT];
  size_t rows, d_in, d_out, r;
};
struct random_case random_case(uint64_t *state, size_t factors, const unsigned *levels);

#endif
