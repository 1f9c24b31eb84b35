/* weight against the reference.
 * SPDX-License-Identifier: Apache-2.0 */
#include <math.h>

#include "device_test.h"

static const size_t sizes[] = {1, 3, 7, 17, 33, 64, 129, 1000};
/* The normal suite takes the first of these; expand is that of test_forward.c. */
enum { NORMAL_RANKS = 4, RANKS = 15 };
static const size_t ranks[RANKS] = {1, 7, 33, 129, 4, 16, 64, 300, 2, 3, 8, 12, 100, 128, 200};
static const float betas[] = {0, 1, 0.5f};

enum { D_IN, D_OUT, R, W_DTYPE, A_DTYPE, BETA, PADDING, OFFSET, A_VIEW, B_VIEW, W_VIEW, FACTORS };
static const unsigned levels[FACTORS] = {8, 8, RANKS, 3, 3, 3, 2, 2, 2, 2, 2};

static struct weight_case make_case(const unsigned *v, bool f32_only) {
  clora_dtype w = f32_only ? CLORA_F32 : (clora_dtype)v[W_DTYPE];
  clora_dtype a = f32_only ? CLORA_F32 : (clora_dtype)((v[W_DTYPE] + v[A_DTYPE]) % 3);
  size_t padding = v[PADDING] * 3, offset = v[OFFSET] * 5;
  return (struct weight_case){.d_in = sizes[v[D_IN]],
                              .r = ranks[v[R]],
                              .d_out = sizes[v[D_OUT]],
                              .beta = betas[v[BETA]],
                              .a = {a, offset, padding, v[A_VIEW]},
                              .b = {a, offset, padding, v[B_VIEW]},
                              .w = {w, offset, padding, v[W_VIEW]}};
}

static void visit(const unsigned *values, uint64_t seed, void *data) {
  struct tally *p = data;
  struct weight_case c = make_case(values, p->f32_only);
  tally_add(p, check_weight(p->context, &c, seed));
}

/* expand; of a transposed W, by columns. */
static size_t kinds(const unsigned *v, unsigned *kinds) {
  unsigned rule = rule_of(sizes[v[W_VIEW] ? v[D_OUT] : v[D_IN]], ranks[v[R]]);
  unsigned views = v[W_VIEW] ? v[B_VIEW] * 2 + !v[A_VIEW] : v[A_VIEW] * 2 + v[B_VIEW];
  kinds[0] = ((rule * 9) + v[W_DTYPE] * 3 + v[A_DTYPE]) * 4 + views;
  return 1;
}

START_TEST(every_variant_covers_all_pairs) {
  for (const char *const *variant = variants_here(); *variant != NULL; variant++) {
    struct tally p = {context_of(*variant), strcmp(*variant, "clblast") == 0, 0, 0, 0};
    unsigned few[FACTORS];
    memcpy(few, levels, sizeof few);
    few[R] = NORMAL_RANKS;
    if (suite_size() < FULL) few[A_DTYPE] = 2; /* that of W, or another */
    /* Oclgrind does 0.15 million multiply-adds a second; CLBlast is checked anew for each shape. */
    bool small = suite_size() < NORMAL || p.f32_only || is_odd_here(*variant);
    if (small) few[D_IN] = few[D_OUT] = few[R] = 4;
    if (suite_size() == TINY) {
      few[W_DTYPE] = 2;
      few[A_DTYPE] = 1;
      few[D_IN] = few[D_OUT] = few[R] = 3;
    }
    if (suite_size() == FULL && !p.f32_only) {
      visit_product(FACTORS, levels, 5, visit, &p);
    } else {
      visit_pairs(FACTORS, few, kinds, visit, &p);
    }
    tally_report("weight", *variant, &p);
  }
}
END_TEST

START_TEST(bad_arguments_are_named_with_both_values) {
  clora_context *context = context_of(NULL);
  clora_layer *layer;
  ck_ok(clora_layer_create(context, &(clora_layer_options){.dim = 5, .dim_out = 3}, &layer));
  struct guarded w = guarded_create(context, 5, 3, (struct layout){0}, NULL);
  cl_command_queue queue = ordered_queue(context);
  clora_matrix bad = w.matrix;
  bad.cols = 4;
  ck_fails(clora_enqueue_weight(queue, layer, &bad, NULL, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "w has 4 columns, 3 expected");
  clora_layer_info info;
  ck_ok(clora_layer_describe(layer, &info));
  bad = info.a;
  bad.rows = 5;
  bad.cols = 3;
  ck_fails(clora_enqueue_weight(queue, layer, &bad, NULL, 0, NULL, NULL), CLORA_INVALID_ARGUMENT,
           "overlaps A");
  ck_fails(clora_enqueue_weight(queue, layer, &w.matrix,
                                &(clora_weight_options){.beta = (float)INFINITY}, 0, NULL, NULL),
           CLORA_INVALID_ARGUMENT, "beta is inf");
  free(guarded_read(context, &w));
  guarded_free(&w);
  clReleaseCommandQueue(queue);
  clora_layer_destroy(layer);
}
END_TEST

DEVICE_TEST_MAIN("weight", every_variant_covers_all_pairs, bad_arguments_are_named_with_both_values)
