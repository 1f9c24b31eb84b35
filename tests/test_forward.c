/* forward against the reference: covering sets, random cases, and the edges.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "device_test.h"

static const size_t sizes[] = {1, 3, 7, 17, 33, 64, 129, 1000};
/* The normal suite takes the first of these. */
enum { NORMAL_RANKS = 5, RANKS = 15 };
static const size_t ranks[RANKS] = {1, 7, 16, 64, 129, 4, 33, 300, 2, 3, 8, 12, 100, 128, 200};
static const float betas[] = {0, 1, 0.5f};

enum {
  ROWS,
  D_IN,
  D_OUT,
  R,
  X_DTYPE,
  A_DTYPE,
  BETA,
  PADDING,
  OFFSET,
  A_VIEW,
  B_VIEW,
  T,
  SCRATCH,
  OWN,
  UNORDERED,
  FACTORS
};
static const unsigned levels[FACTORS] = {8, 8, 8, RANKS, 3, 3, 3, 2, 2, 2, 2, 2, 2, 2, 2};

static struct forward_case make_case(const unsigned *v, bool f32_only) {
  clora_dtype x = f32_only ? CLORA_F32 : (clora_dtype)v[X_DTYPE];
  clora_dtype a = f32_only ? CLORA_F32 : (clora_dtype)((v[X_DTYPE] + v[A_DTYPE]) % 3);
  size_t padding = v[PADDING] * 3, offset = v[OFFSET] * 5;
  return (struct forward_case){
      .rows = sizes[v[ROWS]],
      .d_in = sizes[v[D_IN]],
      .r = ranks[v[R]],
      .d_out = sizes[v[D_OUT]],
      .beta = betas[v[BETA]],
      .x = {x, offset, padding, false},
      .y = {x, 2 * offset, 2 * padding, false},
      .a = {a, offset, padding, v[A_VIEW]},
      .b = {a, offset, padding, v[B_VIEW]},
      .wants_t = v[T],
      /* Oclgrind, where the set is tiny, tracks only what the host has filled */
      .own_scratch = v[SCRATCH] || suite_size() == TINY,
      .own_layer = v[OWN],
      .unordered = v[UNORDERED],
  };
}

static void visit(const unsigned *values, uint64_t seed, void *data) {
  struct tally *p = data;
  struct forward_case c = make_case(values, p->f32_only);
  tally_add(p, check_forward(p->context, &c, seed));
}

/* shrink, expand, and both in one launch. */
static size_t kinds(const unsigned *v, unsigned *kinds) {
  unsigned rule = rule_of(sizes[v[ROWS]], ranks[v[R]]);
  unsigned all = (rule * 9 + v[X_DTYPE] * 3 + v[A_DTYPE]) * 2;
  kinds[0] = all + v[A_VIEW];
  kinds[1] = 200 + all + v[B_VIEW];
  kinds[2] = 400 + all + v[A_VIEW];
  return v[B_VIEW] ? 2 : 3;
}

static bool is_clblast(const char *variant) {
  return strcmp(variant, "clblast") == 0;
}

START_TEST(every_variant_covers_all_pairs) {
  if (suite_size() < NORMAL) return; /* the random cases below are the shorter set */
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (is_odd_here(*variant)) continue; /* test_gpu.c goes through its edges */
    struct tally p = {context_of(*variant), is_clblast(*variant), 0, 0, 0};
    unsigned few[FACTORS];
    memcpy(few, levels, sizeof few);
    few[R] = NORMAL_RANKS;
    few[A_DTYPE] = 2; /* that of x, or another */
    /* every shape is another check of CLBlast's kernel: the rest only */
    if (p.f32_only) few[ROWS] = few[D_IN] = few[D_OUT] = few[R] = 4;
    if (suite_size() == FULL && !p.f32_only) {
      visit_product(FACTORS, levels, 4, visit, &p); /* all shapes; the rest drawn */
    } else {
      visit_pairs(FACTORS, few, kinds, visit, &p);
    }
    tally_report("forward", *variant, &p);
  }
}
END_TEST

START_TEST(random_cases) {
  static const unsigned counts[] = {[TINY] = 6, [SHORT] = 20, [NORMAL] = 8, [FULL] = 1000};
  uint64_t seed = random_seed(20260101);
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    struct tally p = {context_of(*variant), is_clblast(*variant), 0, 0, 0};
    uint64_t state = seed;
    unsigned count = counts[suite_size()] / (is_odd_here(*variant) ? 2 : 1);
    for (unsigned i = 0; i < count; i++) {
      struct random_case drawn = random_case(&state, FACTORS, levels);
      struct forward_case c = make_case(drawn.levels, p.f32_only);
      c.rows = drawn.rows;
      c.d_in = drawn.d_in;
      c.d_out = drawn.d_out;
      c.r = drawn.r;
      tally_add(&p, check_forward(p.context, &c, seed + 10 * i));
    }
    tally_report("forward", *variant, &p);
  }
}
END_TEST

static clora_layer *small_layer(clora_context *context) {
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 5, .dim_out = 3}, &layer));
  return layer;
}

START_TEST(zero_rows_succeed_with_an_event) {
  clora_context *context = context_of(NULL);
  clora_layer *layer = small_layer(context);
  clora_matrix x = {.cols = 5}, y = {.cols = 3};
  cl_command_queue queue = ordered_queue(context);
  cl_event done = NULL;
  ck_ok(clora_enqueue_forward(queue, layer, &x, &y, NULL, 0, NULL, &done));
  ck_assert_ptr_nonnull(done);
  ck_ok(clora__wait(done));
  clReleaseEvent(done);
  ck_ok(clora_enqueue_forward(queue, layer, &x, &y, NULL, 0, NULL, NULL));
  size_t bytes = 1;
  ck_ok(clora_forward_workspace(layer, &x, &y, NULL, &bytes));
  ck_assert_uint_eq(bytes, 0);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
}
END_TEST

/* A forward call whose arguments can be spoiled one at a time. */
struct call {
  clora_context *context;
  clora_layer *layer;
  struct guarded x, y, t;
  clora_forward_options options;
  cl_command_queue queue;
};

static struct call good_call(void) {
  struct call c = {.context = context_of(NULL)};
  struct layout f32 = {CLORA_F32, 0, 0, false};
  c.layer = small_layer(c.context);
  c.x = guarded_create(c.context, 4, 5, f32, NULL);
  c.y = guarded_create(c.context, 4, 3, f32, NULL);
  c.t = guarded_create(c.context, 4, 8, f32, NULL);
  c.queue = ordered_queue(c.context);
  return c;
}

static clora_status run(struct call *c) {
  return clora_enqueue_forward(c->queue, c->layer, &c->x.matrix, &c->y.matrix, &c->options, 0, NULL,
                               NULL);
}

static void end_call(struct call *c) {
  struct guarded *buffers[] = {&c->x, &c->y, &c->t};
  for (size_t i = 0; i < 3; i++) {
    free(guarded_read(c->context, buffers[i])); /* also: nothing was written */
    guarded_free(buffers[i]);
  }
  clReleaseCommandQueue(c->queue);
  clora_layer_destroy(c->layer);
}

START_TEST(bad_arguments_are_named_with_both_values) {
  struct call c = good_call();
#define BAD(change, restore, words)                 \
  change;                                           \
  ck_fails(run(&c), CLORA_INVALID_ARGUMENT, words); \
  restore;
  BAD(c.x.matrix.cols = 6, c.x.matrix.cols = 5, "x has 6 columns, 5 expected");
  BAD(c.y.matrix.cols = 4, c.y.matrix.cols = 3, "y has 4 columns, 3 expected");
  BAD(c.y.matrix.rows = 5, c.y.matrix.rows = 4, "y has 5 rows, 4 expected");
  BAD(c.x.matrix.stride = 4, c.x.matrix.stride = 5, "x has a stride of 4 elements");
  BAD(c.x.matrix.dtype = 9, c.x.matrix.dtype = 0, "x has the unknown dtype 9");
  BAD(c.y.matrix.dtype = CLORA_F16, c.y.matrix.dtype = CLORA_F32, "x is f32, y is f16");
  BAD(c.x.matrix.transposed = true, c.x.matrix.transposed = false, "x is transposed");
  BAD(c.x.matrix.offset = 1000, c.x.matrix.offset = 48, "x needs");
  BAD(c.x.matrix.offset = SIZE_MAX / 2, c.x.matrix.offset = 48, "exceed 64 bits");
  BAD(c.y.matrix.stride = SIZE_MAX / 2, c.y.matrix.stride = 3, "exceed 64 bits");
  cl_mem x = c.x.matrix.mem, y = c.y.matrix.mem;
  BAD(c.x.matrix.mem = NULL, c.x.matrix.mem = x, "x has no buffer");
  BAD(c.y.matrix.mem = x, c.y.matrix.mem = y, "y (bytes");
  BAD(c.options.beta = (float)NAN, c.options.beta = 0, "beta is nan");
  BAD(c.options.t = &c.x.matrix, c.options.t = NULL, "t has 5 columns, 8 expected");
  BAD((c.options.scratch = x, c.options.scratch_offset_bytes = 4),
      (c.options.scratch = NULL, c.options.scratch_offset_bytes = 0), "not a multiple of 64");
  BAD((c.options.scratch = x, c.options.scratch_offset_bytes = 64),
      (c.options.scratch = NULL, c.options.scratch_offset_bytes = 0), "scratch");
  clora_layer *layer = c.layer;
  BAD(c.layer = NULL, c.layer = layer, "layer is NULL");
  cl_command_queue queue = c.queue;
  BAD(c.queue = NULL, c.queue = queue, "queue is NULL");
#undef BAD
  ck_fails(clora_enqueue_forward(c.queue, c.layer, NULL, &c.y.matrix, NULL, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "x is NULL");
  ck_fails(clora_enqueue_forward(c.queue, c.layer, &c.x.matrix, &c.y.matrix, NULL, 1, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "wait_count is 1, wait_list is NULL");
  cl_event none = NULL;
  ck_fails(clora_enqueue_forward(c.queue, c.layer, &c.x.matrix, &c.y.matrix, NULL, 1, &none, NULL),
           CLORA_INVALID_ARGUMENT, "event 0 of wait_list is NULL");
  end_call(&c);
}
END_TEST

START_TEST(objects_of_another_context_are_refused) {
  struct call c = good_call();
  clora_context *other;
  ck_ok(clora_context_create(&(clora_context_options){.selector = getenv("CLORA_TEST_DEVICE")},
                             &other));
  cl_command_queue queue = c.queue, foreign = ordered_queue(other);
  c.queue = foreign;
  ck_fails(run(&c), CLORA_INVALID_ARGUMENT, "queue belongs to another cl_context");
  c.queue = queue;
  struct guarded x = c.x;
  c.x = guarded_create(other, 4, 5, (struct layout){CLORA_F32, 0, 0, false}, NULL);
  ck_fails(run(&c), CLORA_INVALID_ARGUMENT, "x belongs to another cl_context");
  guarded_free(&c.x);
  c.x = x;
  clReleaseCommandQueue(foreign);
  clora_context_destroy(other);
  end_call(&c);
}
END_TEST

START_TEST(x_and_y_may_be_columns_of_one_buffer) {
  clora_context *context = context_of(NULL);
  clora_layer *layer = small_layer(context);
  struct guarded both = guarded_create(context, 4, 8, (struct layout){0}, NULL);
  clora_matrix x = both.matrix, y = both.matrix;
  x.cols = 5;
  y.cols = 3;
  y.offset += 5;
  cl_command_queue queue = ordered_queue(context);
  ck_ok(clora_enqueue_forward(queue, layer, &x, &y, NULL, 0, NULL, NULL));
  clFinish(queue);
  y.offset -= 1;
  ck_fails(clora_enqueue_forward(queue, layer, &x, &y, NULL, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "overlaps x");
  clReleaseCommandQueue(queue);
  guarded_free(&both);
  clora_layer_destroy(layer);
}
END_TEST

START_TEST(not_a_number_goes_where_it_should) {
  clora_context *context = context_of(NULL);
  float a[6] = {1, 0, 0, 1, 0, 0}, b[6] = {1, 2, 3, 4, 5, 6}; /* A [3, 2], B [2, 3] */
  float x[6] = {1, 2, (float)NAN, (float)INFINITY, 1, 1};     /* row 0: NaN times 0 */
  clora_layer *layer;
  ck_ok(clora_layer_create(
      context, &(clora_layer_options){.dim = 3, .dim_out = 3, .r = 2, .a_values = a, .b_values = b},
      &layer));
  struct guarded x_buffer = guarded_create(context, 2, 3, (struct layout){0}, x);
  struct guarded y_buffer = guarded_create(context, 2, 3, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  ck_ok(
      clora_enqueue_forward(queue, layer, &x_buffer.matrix, &y_buffer.matrix, NULL, 0, NULL, NULL));
  clFinish(queue);
  float *y = guarded_read(context, &y_buffer);
  for (int o = 0; o < 3; o++) {
    ck_assert_msg(y[o] != y[o], "NaN in x was lost: y[0,%d] is %g", o, (double)y[o]);
    ck_assert_msg(y[3 + o] != y[3 + o], "Inf * 0 in x is NaN, y[1,%d] is %g", o, (double)y[3 + o]);
  }
  free(y);
  guarded_free(&x_buffer);
  guarded_free(&y_buffer);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
}
END_TEST

/* The largest halves: y overflows to infinity where it must, and nowhere else. */
START_TEST(half_overflows_to_infinity) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    if (is_clblast(*variant) || is_refused_here(*variant)) continue;
    clora_context *context = context_of(*variant);
    float a[1] = {1}, b[3] = {1, 2, -2}, x[1] = {40000};
    clora_layer *layer;
    ck_ok(clora_layer_create(
        context,
        &(clora_layer_options){.dim = 1, .dim_out = 3, .r = 1, .a_values = a, .b_values = b},
        &layer));
    struct guarded x_buffer = guarded_create(context, 1, 1, (struct layout){.dtype = CLORA_F16}, x);
    struct guarded y_buffer =
        guarded_create(context, 1, 3, (struct layout){.dtype = CLORA_F16}, NULL);
    cl_command_queue queue = ordered_queue(context);
    ck_ok(clora_enqueue_forward(queue, layer, &x_buffer.matrix, &y_buffer.matrix, NULL, 0, NULL,
                                NULL));
    clFinish(queue);
    float *y = guarded_read(context, &y_buffer);
    ck_assert_float_eq(y[0], 40000);
    ck_assert_float_eq(y[1], (float)INFINITY);
    ck_assert_float_eq(y[2], -(float)INFINITY);
    free(y);
    guarded_free(&x_buffer);
    guarded_free(&y_buffer);
    clReleaseCommandQueue(queue);
    clora_layer_destroy(layer);
  }
}
END_TEST

DEVICE_TEST_MAIN("forward", every_variant_covers_all_pairs, random_cases,
                 zero_rows_succeed_with_an_event, bad_arguments_are_named_with_both_values,
                 objects_of_another_context_are_refused, x_and_y_may_be_columns_of_one_buffer,
                 not_a_number_goes_where_it_should, half_overflows_to_infinity)
