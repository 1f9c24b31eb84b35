/* backward against the reference: covering sets, random cases, PyTorch's gradients, and the edges.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "base/reference.h"
#include "device_test.h"
#include "doubles.h"
#include "product/product.h"

static const size_t sizes[] = {1, 3, 7, 17, 33, 64, 129, 1000};
/* The normal suite takes the first of these: reduce is new here, shrink and expand are compiled for
 * every class of ranks in test_forward.c. */
enum { NORMAL_RANKS = 4, RANKS = 13 };
static const size_t ranks[RANKS] = {7, 1, 64, 200, 2, 3, 4, 8, 12, 16, 100, 128, 300};

enum {
  ROWS,
  D_IN,
  D_OUT,
  R,
  X_DTYPE,
  A_DTYPE,
  WANTED, /* a bit each: dx, dA, dB, dscale */
  ACCUMULATE,
  ACCUMULATE_DX,
  REPLACE,
  GIVEN_T,
  PADDING,
  A_VIEW,
  B_VIEW,
  SCRATCH,
  UNORDERED,
  FACTORS
};
static const unsigned levels[FACTORS] = {8, 8, 8, RANKS, 3, 3, 15, 2, 2, 2, 2, 2, 2, 2, 2, 2};

enum { DX = 1, DA = 2, DB = 4, DSCALE = 8 };

struct backward_case {
  size_t rows, d_in, r, d_out;
  clora_dtype x_dtype, a_dtype;
  unsigned wanted;
  bool accumulate, accumulate_dx, replace, given_t, a_view, b_view, own_scratch, unordered;
  size_t padding;
};

static struct backward_case make_case(const unsigned *v, bool f32_only) {
  return (struct backward_case){
      .rows = sizes[v[ROWS]],
      .d_in = sizes[v[D_IN]],
      .r = ranks[v[R]],
      .d_out = sizes[v[D_OUT]],
      .x_dtype = f32_only ? CLORA_F32 : (clora_dtype)v[X_DTYPE],
      .a_dtype = f32_only ? CLORA_F32 : (clora_dtype)((v[X_DTYPE] + v[A_DTYPE]) % 3),
      .wanted = v[WANTED] + 1,
      .accumulate = v[ACCUMULATE],
      .accumulate_dx = v[ACCUMULATE_DX],
      .replace = v[REPLACE],
      .given_t = v[GIVEN_T],
      .padding = v[PADDING] * 3,
      .a_view = v[A_VIEW],
      .b_view = v[B_VIEW],
      .own_scratch = v[SCRATCH],
      .unordered = v[UNORDERED],
  };
}

/* ---- one call ---- */

/* A matrix of the call: its values on both sides. */
struct operand {
  size_t count;
  float *values;
  double *doubles;
  struct guarded buffer;
};

static struct operand make_operand(clora_context *context, size_t rows, size_t cols,
                                   struct layout layout, bool filled, uint64_t seed) {
  struct operand m = {.count = rows * cols,
                      .values = random_values(rows * cols, layout.dtype, seed)};
  m.doubles = malloc((m.count + 1) * sizeof *m.doubles);
  for (size_t i = 0; i < m.count; i++) m.doubles[i] = (double)m.values[i];
  m.buffer = guarded_create(context, rows, cols, layout, filled ? m.values : NULL);
  return m;
}

static void free_operand(struct operand *m) {
  free(m->values);
  free(m->doubles);
  guarded_free(&m->buffer);
}

struct call {
  clora_context *context;
  const struct backward_case *c;
  char words[256];
  struct operand x, dy, a, b, t, dx, da, db, dscale;
  clora_layer *layer;
  clora_backward_options options;
};

static void open_call(struct call *q, clora_context *context, const struct backward_case *c,
                      uint64_t seed) {
  size_t p = c->padding, q2 = 2 * c->padding;
  *q = (struct call){.context = context, .c = c};
  snprintf(q->words, sizeof q->words,
           "rows %zu, d_in %zu, r %zu, d_out %zu, x %s, A %s%s, B%s, wanted %u, accumulate %d %d, "
           "replace %d, t %d, padding %zu, seed %llu",
           c->rows, c->d_in, c->r, c->d_out, clora_dtype_name(c->x_dtype),
           clora_dtype_name(c->a_dtype), c->a_view ? " transposed" : "",
           c->b_view ? " transposed" : "", c->wanted, c->accumulate, c->accumulate_dx, c->replace,
           c->given_t, p, (unsigned long long)seed);
  const struct layout f32 = {CLORA_F32, p, q2, false};
  q->x = make_operand(context, c->rows, c->d_in, (struct layout){c->x_dtype, p, p, false}, true,
                      seed + 1);
  q->a = make_operand(context, c->d_in, c->r, (struct layout){c->a_dtype, p, p, c->a_view}, true,
                      seed + 2);
  q->b = make_operand(context, c->r, c->d_out, (struct layout){c->a_dtype, p, q2, c->b_view}, true,
                      seed + 3);
  q->dy = make_operand(context, c->rows, c->d_out, (struct layout){c->x_dtype, p, q2, false}, true,
                       seed + 4);
  q->t = make_operand(context, c->rows, c->r, f32, false, seed + 5);
  q->dx = make_operand(context, c->rows, c->d_in, (struct layout){c->x_dtype, p, q2, false},
                       c->accumulate_dx, seed + 6);
  q->da = make_operand(context, c->d_in, c->r, f32, c->accumulate, seed + 7);
  q->db = make_operand(context, c->r, c->d_out, f32, c->accumulate, seed + 8);
  q->dscale = make_operand(context, 1, 1, f32, c->accumulate, seed + 9);
  clora_layer_options shape = {.dim = c->d_in,
                               .dim_out = c->d_out,
                               .r = c->r,
                               .alpha = 0.7,
                               .a = &q->a.buffer.matrix,
                               .b = &q->b.buffer.matrix};
  ck_ok(clora_layer_create(context, &shape, &q->layer));
  bool replace = c->replace && (c->wanted & DX);
  q->options = (clora_backward_options){
      .dx = !(c->wanted & DX) ? NULL
            : replace         ? &q->x.buffer.matrix
                              : &q->dx.buffer.matrix,
      .da = c->wanted & DA ? &q->da.buffer.matrix : NULL,
      .db = c->wanted & DB ? &q->db.buffer.matrix : NULL,
      .dscale = c->wanted & DSCALE ? &q->dscale.buffer.matrix : NULL,
      .accumulate = c->accumulate,
      .accumulate_dx = c->accumulate_dx,
      .dx_replaces_x = replace,
      .t = c->given_t ? &q->t.buffer.matrix : NULL,
  };
}

static void close_call(struct call *q) {
  clora_layer_destroy(q->layer);
  struct operand *all[] = {&q->x, &q->dy, &q->a, &q->b, &q->t, &q->dx, &q->da, &q->db, &q->dscale};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) free_operand(all[i]);
}

static clora_status enqueue_and_wait(struct call *q) {
  cl_command_queue queue = q->c->unordered ? unordered_queue(q->context) : NULL;
  if (queue == NULL) queue = ordered_queue(q->context);
  size_t bytes = 0;
  ck_ok(clora_backward_workspace(q->layer, &q->x.buffer.matrix, &q->dy.buffer.matrix, &q->options,
                                 &bytes));
  struct guarded scratch =
      guarded_create(q->context, 1, bytes / 4 + 64, (struct layout){CLORA_F32, 16, 0, false}, NULL);
  if (q->c->own_scratch && bytes > 0) {
    q->options.scratch = scratch.matrix.mem;
    q->options.scratch_offset_bytes = 256;
  }
  clora_status status = CLORA_OK;
  cl_event done = NULL, ready = NULL;
  if (q->c->given_t) { /* t as forward writes it; its y is not of interest */
    struct guarded y = guarded_create(q->context, q->c->rows, q->c->d_out,
                                      (struct layout){q->c->x_dtype, 0, 0, false}, NULL);
    status =
        clora_enqueue_forward(queue, q->layer, &q->x.buffer.matrix, &y.matrix,
                              &(clora_forward_options){.t = &q->t.buffer.matrix}, 0, NULL, &ready);
    guarded_free(&y);
  }
  if (status == CLORA_OK) {
    status =
        clora_enqueue_backward(queue, q->layer, &q->x.buffer.matrix, &q->dy.buffer.matrix,
                               &q->options, ready != NULL, ready != NULL ? &ready : NULL, &done);
  }
  if (done != NULL) ck_ok(clora__wait(done));
  if (done != NULL) clReleaseEvent(done);
  if (ready != NULL) clReleaseEvent(ready);
  clReleaseCommandQueue(queue);
  if (status == CLORA_OK) free(guarded_read(q->context, &scratch)); /* nothing outside it */
  guarded_free(&scratch);
  return status;
}

/* The worst error over the bound of one output, or a failed test; outputs that are not wanted must
 * be untouched. */
static double compare(struct call *q, const char *name, struct operand *m, bool wanted,
                      const struct clora__reference_gradient *g) {
  float *values = guarded_read(q->context, &m->buffer);
  double worst = 0;
  for (size_t n = 0; wanted && n < m->count; n++) {
    double error =
        clora_reference_error(1, &values[n], &g->values[n], &g->bound[n], m->buffer.matrix.dtype);
    ck_each_msg(error <= 1, "%s: %s[%zu] is %.9g, not %.9g within %.3g", q->words, name, n,
                (double)values[n], g->values[n], g->bound[n]);
    worst = fmax(worst, error);
  }
  free(values);
  return worst;
}

static struct clora__reference_gradient space(size_t count) {
  return (struct clora__reference_gradient){calloc(count + 1, sizeof(double)),
                                            calloc(count + 1, sizeof(double))};
}

static double check_call(struct call *q) {
  const struct backward_case *c = q->c;
  float scale;
  ck_ok(clora_layer_read_scale(q->layer, &scale));
  bool replace = q->options.dx_replaces_x;
  struct clora__reference_backward p = {
      .rows = c->rows,
      .d_in = c->d_in,
      .r = c->r,
      .d_out = c->d_out,
      .x = q->x.doubles,
      .a = q->a.doubles,
      .b = q->b.doubles,
      .dy = q->dy.doubles,
      .scale = (double)scale,
      .beta = c->accumulate,
      .dx_beta = c->accumulate_dx,
      .dx_before = replace ? q->x.doubles : q->dx.doubles,
      .da_before = q->da.doubles,
      .db_before = q->db.doubles,
      .dscale_before = q->dscale.doubles,
      .dtype = c->x_dtype,
      .flushes_subnormals = !clora_context_device(q->context)->keeps_subnormals};
  struct clora__reference_gradients g = {space(c->rows * c->d_in), space(c->d_in * c->r),
                                         space(c->r * c->d_out), space(1)};
  ck_ok(clora__reference_backward(&p, &g));
  double worst = compare(q, "dx", replace ? &q->x : &q->dx, c->wanted & DX, &g.dx);
  worst = fmax(worst, compare(q, "dA", &q->da, c->wanted & DA, &g.da));
  worst = fmax(worst, compare(q, "dB", &q->db, c->wanted & DB, &g.db));
  worst = fmax(worst, compare(q, "dscale", &q->dscale, c->wanted & DSCALE, &g.dscale));
  struct clora__reference_gradient *all[] = {&g.dx, &g.da, &g.db, &g.dscale};
  for (int i = 0; i < 4; i++) {
    free(all[i]->values);
    free(all[i]->bound);
  }
  return worst;
}

static double check_backward(clora_context *context, const struct backward_case *c, uint64_t seed) {
  struct call q;
  open_call(&q, context, c, seed);
  clora_status status = enqueue_and_wait(&q);
  bool may_refuse = getenv("CLORA_TEST_MAY_REFUSE") != NULL;
  ck_assert_msg(status == CLORA_OK || status == CLORA_UNSUPPORTED ||
                    (status == CLORA_NO_VARIANT && may_refuse),
                "%s: %s", q.words, clora_error());
  double error = status == CLORA_OK ? check_call(&q) : NAN;
  close_call(&q);
  return error;
}

/* ---- sets of calls ---- */

static bool is_clblast(const char *variant) {
  return strcmp(variant, "clblast") == 0;
}

static void visit(const unsigned *values, uint64_t seed, void *data) {
  struct tally *p = data;
  struct backward_case c = make_case(values, p->f32_only);
  /* The reference takes microseconds a thousand multiply-adds: the largest shapes in one dimension
   * at a time. */
  if (c.rows * c.r * (c.d_in + c.d_out) > 4000000) c.rows = 33;
  tally_add(p, check_backward(p->context, &c, seed));
}

/* t and dt, dx, dA and dB. */
static size_t kinds(const unsigned *v, unsigned *kinds) {
  size_t rows = sizes[v[ROWS]], r = ranks[v[R]];
  unsigned all = (rule_of(rows, r) * 9 + v[X_DTYPE] * 3 + v[A_DTYPE]) * 2;
  kinds[0] = all + v[A_VIEW];
  kinds[1] = all + !v[B_VIEW];
  kinds[2] = 200 + all + !v[A_VIEW];
  kinds[3] = 400 + gemm_rule_of(sizes[v[D_IN]], r) * 3 + v[X_DTYPE];
  kinds[4] = 450 + gemm_rule_of(r, sizes[v[D_OUT]]) * 3 + v[X_DTYPE];
  return 5;
}

START_TEST(every_variant_covers_all_pairs) {
  if (suite_size() < NORMAL) return; /* the random cases below are the shorter set */
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (!computes(&clora__reduce, *variant)) continue;
    if (is_odd_here(*variant)) continue; /* test_gpu.c goes through its edges */
    struct tally p = {context_of(*variant), is_clblast(*variant), 0, 0, 0};
    unsigned few[FACTORS];
    memcpy(few, levels, sizeof few);
    if (suite_size() < FULL) {
      few[R] = NORMAL_RANKS;
      few[A_DTYPE] = 1; /* that of x; the random cases mix them */
    }
    if (p.f32_only) few[ROWS] = few[D_IN] = few[D_OUT] = few[R] = 4; /* a check each */
    visit_pairs(FACTORS, few, kinds, visit, &p);
    tally_report("backward", *variant, &p);
  }
}
END_TEST

START_TEST(random_cases) {
  static const unsigned counts[] = {[TINY] = 6, [SHORT] = 20, [NORMAL] = 6, [FULL] = 1000};
  uint64_t seed = random_seed(20260201);
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (!computes(&clora__reduce, *variant)) continue;
    struct tally p = {context_of(*variant), is_clblast(*variant), 0, 0, 0};
    uint64_t state = seed;
    unsigned count = counts[suite_size()] / (is_odd_here(*variant) ? 2 : 1);
    if (is_clblast(*variant)) count = 20;
    for (unsigned i = 0; i < count; i++) {
      struct random_case drawn = random_case(&state, FACTORS, levels);
      struct backward_case c = make_case(drawn.levels, p.f32_only);
      c.rows = drawn.rows;
      c.d_in = drawn.d_in;
      c.d_out = drawn.d_out;
      c.r = drawn.r;
      tally_add(&p, check_backward(p.context, &c, seed + 10 * i));
    }
    tally_report("backward", *variant, &p);
  }
}
END_TEST

/* ---- PyTorch's numbers ---- */

#define STEP "training/step/"
enum { P_ROWS = 37, P_IN = 129, P_R = 5, P_OUT = 66 };

static float *load_floats(const char *name, size_t count) {
  double *doubles = load_doubles(name, count);
  float *values = malloc(count * sizeof *values);
  for (size_t i = 0; i < count; i++) values[i] = (float)doubles[i];
  free(doubles);
  return values;
}

/* The values lie within the bound of the reference that gets the same f32 inputs, and the reference
 * is PyTorch's up to the rounding of dy to f32. */
START_TEST(agrees_with_autograd) {
  clora_context *context = context_of(NULL);
  struct backward_case c = {
      .rows = P_ROWS, .d_in = P_IN, .r = P_R, .d_out = P_OUT, .wanted = DX | DA | DB | DSCALE};
  struct call q;
  open_call(&q, context, &c, 1);
  struct {
    struct operand *m;
    const char *name;
  } inputs[] = {{&q.x, "x.npy"}, {&q.a, "A.npy"}, {&q.b, "B.npy"}, {&q.dy, "f64/dy.npy"}};
  cl_command_queue queue = ordered_queue(context);
  for (int i = 0; i < 4; i++) {
    char path[64];
    snprintf(path, sizeof path, STEP "%s", inputs[i].name);
    float *values = load_floats(path, inputs[i].m->count);
    struct guarded *g = &inputs[i].m->buffer;
    for (size_t n = 0; n < inputs[i].m->count; n++) inputs[i].m->doubles[n] = (double)values[n];
    memcpy(g->before + g->matrix.offset * 4, values, inputs[i].m->count * 4);
    ck_assert_int_eq(
        clEnqueueWriteBuffer(queue, g->matrix.mem, CL_TRUE, 0, g->bytes, g->before, 0, NULL, NULL),
        CL_SUCCESS);
    free(values);
  }
  clReleaseCommandQueue(queue);
  ck_ok(clora_layer_write_alpha(q.layer, 8));
  ck_ok(enqueue_and_wait(&q));
  check_call(&q);
  struct {
    struct operand *m;
    const char *name;
  } outputs[] = {{&q.dx, "f64/dx.npy"},
                 {&q.da, "f64/dA.npy"},
                 {&q.db, "f64/dB.npy"},
                 {&q.dscale, "f64/dscale.npy"}};
  for (int i = 0; i < 4; i++) {
    char path[64];
    snprintf(path, sizeof path, STEP "%s", outputs[i].name);
    float *values = guarded_read(context, &outputs[i].m->buffer);
    for (size_t n = 0; n < outputs[i].m->count; n++) outputs[i].m->doubles[n] = (double)values[n];
    /* P_ROWS + P_IN + P_OUT + P_R roundings of 2^-24 each, of the largest element or so */
    check_close(outputs[i].name, outputs[i].m->doubles, path, outputs[i].m->count, 237 * 0x1p-24);
    free(values);
  }
  close_call(&q);
}
END_TEST

/* ---- the edges ---- */

START_TEST(zero_rows_give_zero_gradients) {
  clora_context *context = context_of(NULL);
  struct backward_case c = {
      .rows = 2, .d_in = 5, .r = 3, .d_out = 4, .padding = 3, .wanted = DX | DA | DB | DSCALE};
  for (int accumulate = 0; accumulate < 2; accumulate++) {
    struct call q;
    c.accumulate = accumulate;
    open_call(&q, context, &c, 3);
    clora_matrix x = {.cols = 5}, dy = {.cols = 4}, dx = {.cols = 5};
    q.options.dx = &dx;
    cl_command_queue queue = ordered_queue(context);
    cl_event done = NULL;
    ck_ok(clora_enqueue_backward(queue, q.layer, &x, &dy, &q.options, 0, NULL, &done));
    ck_ok(clora__wait(done));
    clReleaseEvent(done);
    struct operand *gradients[] = {&q.da, &q.db, &q.dscale};
    for (int i = 0; i < 3; i++) {
      float *values = guarded_read(context, &gradients[i]->buffer);
      for (size_t n = 0; n < gradients[i]->count; n++) {
        ck_assert_float_eq(values[n], accumulate ? gradients[i]->values[n] : 0);
      }
      free(values);
    }
    clReleaseCommandQueue(queue);
    close_call(&q);
  }
}
END_TEST

START_TEST(bad_arguments_are_named_with_both_values) {
  clora_context *context = context_of(NULL);
  struct backward_case c = {
      .rows = 4, .d_in = 5, .r = 3, .d_out = 6, .wanted = DX | DA | DB | DSCALE};
  struct call q;
  open_call(&q, context, &c, 3);
  cl_command_queue queue = ordered_queue(context);
  clora_matrix x = q.x.buffer.matrix, dy = q.dy.buffer.matrix, m;
  clora_backward_options o;
#define BAD(x_pointer, dy_pointer, words)                                                    \
  ck_fails(clora_enqueue_backward(queue, q.layer, x_pointer, dy_pointer, &o, 0, NULL, NULL), \
           CLORA_INVALID_ARGUMENT, words);                                                   \
  o = q.options;
  o = q.options;
  BAD(&x, NULL, "dy is NULL");
  BAD(NULL, &dy, "x is NULL, but da needs it");
  o.da = NULL;
  BAD(NULL, &dy, "x is NULL, but t, which is not given, needs it");
  o = (clora_backward_options){0};
  BAD(&x, &dy, "no gradient is asked for");
#define WITH(field, value, change, words) \
  m = value;                              \
  change;                                 \
  o.field = &m;                           \
  BAD(&x, &dy, words)
  WITH(da, q.da.buffer.matrix, m.cols = 4, "da has 4 columns, 3 expected");
  WITH(db, q.db.buffer.matrix, m.rows = 4, "db has 4 rows, 3 expected");
  WITH(dscale, q.dscale.buffer.matrix, m.rows = 2, "dscale has 2 rows, 1 expected");
  WITH(dx, q.dx.buffer.matrix, m.dtype = CLORA_F16, "dx is f16, dy is f32");
  WITH(da, q.da.buffer.matrix, m.dtype = CLORA_BF16, "da is bf16; it must be f32");
  WITH(da, q.x.buffer.matrix, (m.rows = 5, m.cols = 3), "da (bytes");
  WITH(dx, q.dy.buffer.matrix, m.cols = 5, "overlaps dy");
  WITH(dx, q.x.buffer.matrix, (void)0, "overlaps x");
  WITH(dx, q.dx.buffer.matrix, o.dx_replaces_x = true, "dx and x are different views");
  WITH(t, q.t.buffer.matrix, m.rows = 5, "t has 5 rows, 4 expected");
#undef WITH
#undef BAD
  o = q.options;
  o.dx_replaces_x = true;
  o.dx = &x;
  clora_matrix shifted = x;
  shifted.rows = 3;
  ck_fails(clora_enqueue_backward(queue, q.layer, &shifted, &dy, &o, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "x has 3 rows, 4 expected");
  struct operand *outputs[] = {&q.dx, &q.da, &q.db, &q.dscale, &q.x};
  for (int i = 0; i < 5; i++) { /* nothing was written */
    float *values = guarded_read(context, &outputs[i]->buffer);
    ck_assert_msg(i == 4 ? values[0] == q.x.values[0] : isnan(values[0]), "output %d changed", i);
    free(values);
  }
  clReleaseCommandQueue(queue);
  close_call(&q);
}
END_TEST

START_TEST(explains_every_product) {
  clora_context *context = context_of(NULL);
  struct backward_case c = {
      .rows = 4, .d_in = 5, .r = 3, .d_out = 6, .wanted = DX | DA | DB | DSCALE};
  struct call q;
  open_call(&q, context, &c, 3);
  char text[4096];
  ck_ok(clora_prepare_backward(q.layer, &q.x.buffer.matrix, &q.dy.buffer.matrix, &q.options));
  ck_ok(clora_explain_backward(q.layer, &q.x.buffer.matrix, &q.dy.buffer.matrix, &q.options, text,
                               sizeof text));
  static const char *const words[] = {
      "t\nshrink ",  "dt and dB\njoint ",       "dt\nshrink ", "dA\nreduce ", "dB\nreduce ",
      "dx\nexpand ", "serves (passed its check"};
  for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
    ck_assert_msg(strstr(text, words[i]) != NULL, "\"%s\" is not in:\n%s", words[i], text);
  }
  close_call(&q);
}
END_TEST

/* dy is so large that one launch gives dt and dB, where the kernel fits. */
START_TEST(a_large_dy_of_low_rank) {
  if (suite_size() < NORMAL) return;
  clora_context *context = context_of(NULL);
  struct backward_case c = {.rows = 523,
                            .d_in = 3,
                            .r = 3,
                            .d_out = 16111,
                            .wanted = DX | DA | DB | DSCALE,
                            .padding = 1,
                            .accumulate = true};
  for (int i = 0; i < 2; i++, c.given_t = true, c.own_scratch = true, c.accumulate = false) {
    ck_assert_double_le(check_backward(context, &c, 7 + i), 1);
  }
  struct call q;
  char text[4096];
  open_call(&q, context, &c, 9);
  ck_ok(clora_explain_backward(q.layer, &q.x.buffer.matrix, &q.dy.buffer.matrix, &q.options, text,
                               sizeof text));
  bool fits = is_cpu_here() && !is_refused_here("cpu") &&
              clora_context_device(context)->compute_units <= 4; /* slices of 523 rows */
  ck_assert_msg(!fits || strstr(text, "joint joint: serves (passed its check"), "%s", text);
  close_call(&q);
}
END_TEST

DEVICE_TEST_MAIN("backward", every_variant_covers_all_pairs, random_cases, agrees_with_autograd,
                 zero_rows_give_zero_gradients, bad_arguments_are_named_with_both_values,
                 explains_every_product, a_large_dy_of_low_rank)
