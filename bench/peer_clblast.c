/* CLBlast as an engine: a Gemm call a product, or Gemv at one row; with its own parameters, and
 * with overridden ones. Also the order of the original class, x (A B): this library's weight, then
 * one Gemm. The one file of the benchmark that names CLBlast.
 *
 * f16 needs cl_khr_fp16 there and accumulates in half; bf16 does not exist. Gemv of 1.5.3
 * multiplies what y held by beta even when that is 0, so that a NaN there stays: y and t are finite
 * here. SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdlib.h>

#include <clblast_c.h>

/* Above this the original order takes minutes on a CPU and says nothing that the smaller cases do
 * not say. */
#define MOST_SEED_FLOPS 4e9

struct state {
  cl_mem w;               /* W in the original order */
  clora_context *context; /* of the original order */
  clora_layer *layer;
  cl_mem scratch;
};

struct operand {
  cl_mem mem;
  size_t offset, rows, cols; /* as stored */
  CLBlastTranspose turned;
};

/* In f16 every operand is, t too. */
static struct operand view(const struct bench_stage *stage, size_t set,
                           struct bench_factor factor) {
  const struct bench_case *c = &stage->problem;
  size_t bytes = set * stage->set_bytes + stage->offset[factor.operand];
  return (struct operand){stage->arena, bytes / clora_dtype_size(c->dtype),
                          bench_rows_of(c, factor.operand), bench_cols_of(c, factor.operand),
                          factor.turned ? CLBlastTransposeYes : CLBlastTransposeNo};
}

static bool open_plain(struct bench_stage *stage, void **result) {
  *result = calloc(1, sizeof(struct state));
  return *result != NULL || bench_unable(stage, "no memory");
}

static bool check_dtype(struct bench_stage *stage) {
  clora_dtype dtype = stage->problem.dtype;
  bool trains = stage->problem.op != BENCH_FORWARD;
  if (bench_op_of(&stage->problem)->product_count == 0) {
    return bench_unable(stage, "CLBlast has no optimizer");
  }
  if (trains && dtype != CLORA_F32) return bench_unable(stage, "f32 alone: gradients are f32");
  if (dtype == CLORA_BF16) return bench_unable(stage, "CLBlast has no bf16");
  if (dtype == CLORA_F16 && !stage->device->about.has_fp16) {
    return bench_unable(stage, "CLBlast's f16 needs cl_khr_fp16");
  }
  return true;
}

static CLBlastStatusCode gemm_half(struct operand a, struct operand b, struct operand c,
                                   float alpha, float beta, cl_command_queue queue,
                                   cl_event *event) {
  cl_half alpha_half, beta_half;
  clora_pack(CLORA_F16, 1, &alpha, &alpha_half);
  clora_pack(CLORA_F16, 1, &beta, &beta_half);
  return CLBlastHgemm(CLBlastLayoutRowMajor, a.turned, b.turned, c.rows, c.cols,
                      a.turned == CLBlastTransposeYes ? a.rows : a.cols, alpha_half, a.mem,
                      a.offset, a.cols, b.mem, b.offset, b.cols, beta_half, c.mem, c.offset, c.cols,
                      &queue, event);
}

static CLBlastStatusCode gemv_half(struct operand a, struct operand b, struct operand c,
                                   float alpha, float beta, cl_command_queue queue,
                                   cl_event *event) {
  cl_half alpha_half, beta_half;
  clora_pack(CLORA_F16, 1, &alpha, &alpha_half);
  clora_pack(CLORA_F16, 1, &beta, &beta_half);
  return CLBlastHgemv(CLBlastLayoutRowMajor, CLBlastTransposeYes, b.rows, b.cols, alpha_half, b.mem,
                      b.offset, b.cols, a.mem, a.offset, 1, beta_half, c.mem, c.offset, 1, &queue,
                      event);
}

/* c = beta c + alpha a b */
static CLBlastStatusCode multiply(const struct bench_stage *stage, struct operand a,
                                  struct operand b, struct operand c, float alpha, float beta,
                                  cl_command_queue queue, cl_event *event) {
  bool is_half = stage->problem.dtype == CLORA_F16;
  bool is_row = c.rows == 1 && stage->problem.op == BENCH_FORWARD;
  if (is_half && is_row) return gemv_half(a, b, c, alpha, beta, queue, event);
  if (is_half) return gemm_half(a, b, c, alpha, beta, queue, event);
  if (is_row) { /* c^T = beta c^T + alpha b^T a^T */
    return CLBlastSgemv(CLBlastLayoutRowMajor, CLBlastTransposeYes, b.rows, b.cols, alpha, b.mem,
                        b.offset, b.cols, a.mem, a.offset, 1, beta, c.mem, c.offset, 1, &queue,
                        event);
  }
  return CLBlastSgemm(CLBlastLayoutRowMajor, a.turned, b.turned, c.rows, c.cols,
                      a.turned == CLBlastTransposeYes ? a.rows : a.cols, alpha, a.mem, a.offset,
                      a.cols, b.mem, b.offset, b.cols, beta, c.mem, c.offset, c.cols, &queue,
                      event);
}

static bool check_status(struct bench_stage *stage, CLBlastStatusCode status) {
  return status == CLBlastSuccess || bench_unable(stage, "CLBlast: status %d", (int)status);
}

/* ---- the products ---- */

static bool call_products(struct bench_stage *stage, void *opaque, size_t set,
                          cl_command_queue queue, cl_event *event) {
  const struct bench_op_about *op = bench_op_of(&stage->problem);
  (void)opaque;
  for (size_t i = 0; i < op->product_count; i++) {
    const struct bench_product *p = &op->products[i];
    bool is_last = i + 1 == op->product_count;
    CLBlastStatusCode status = multiply(
        stage, view(stage, set, p->in), view(stage, set, p->weight),
        view(stage, set, (struct bench_factor){p->out, false}), p->is_scaled ? BENCH_SCALE : 1,
        p->out == BENCH_Y ? stage->problem.beta : 0, queue, is_last ? event : NULL);
    if (!check_status(stage, status)) return false;
  }
  return true;
}

static bool prepare_products(struct bench_stage *stage, void *opaque) {
  const struct bench_case *c = &stage->problem;
  if (!check_dtype(stage)) return false;
  bool is_row = c->rows == 1 && c->op == BENCH_FORWARD;
  snprintf(stage->plan, sizeof stage->plan, "%zu %c%s calls%s", bench_op_of(c)->product_count,
           c->dtype == CLORA_F16 ? 'H' : 'S', is_row ? "gemv" : "gemm",
           c->op == BENCH_STEP ? ", without the optimizer" : "");
  /* The first call compiles. */
  return call_products(stage, opaque, 0, stage->device->queue, NULL) &&
         (clFinish(stage->device->queue) == CL_SUCCESS || bench_unable(stage, "the device failed"));
}

/* ---- overridden parameters ---- */

struct parameter {
  const char *name;
  size_t value;
};

/* Larger tiles than the defaults that CLBlast takes for devices it does not know: what its database
 * holds for NVIDIA's compute capability 8.0, and a direct kernel of 32 x 32. */
static const struct parameter direct[] = {
    {"WGD", 32}, {"MDIMCD", 16}, {"NDIMCD", 8}, {"MDIMAD", 16}, {"NDIMBD", 8},
    {"KWID", 2}, {"VWMD", 2},    {"VWND", 2},   {"PADA", 1},    {"PADB", 1},
};
static const struct parameter indirect[] = {
    {"GEMMK", 0}, {"MWG", 32},   {"NWG", 64}, {"KWG", 32}, {"MDIMC", 8}, {"NDIMC", 16},
    {"MDIMA", 8}, {"NDIMB", 16}, {"KWI", 2},  {"VWM", 4},  {"VWN", 4},   {"STRM", 0},
    {"STRN", 0},  {"SA", 1},     {"SB", 1},   {"KREG", 1},
};

static bool override(struct bench_stage *stage, const char *kernel, size_t count,
                     const struct parameter *parameters) {
  const char *names[16];
  size_t values[16];
  for (size_t i = 0; i < count; i++) {
    names[i] = parameters[i].name;
    values[i] = parameters[i].value;
  }
  cl_device_id id = stage->device->about.id;
  return check_status(
      stage, CLBlastOverrideParameters(id, kernel, CLBlastPrecisionSingle, count, names, values));
}

static bool open_tuned(struct bench_stage *stage, void **result) {
  return override(stage, "XgemmDirect", BENCH_COUNT(direct), direct) &&
         override(stage, "Xgemm", BENCH_COUNT(indirect), indirect) && open_plain(stage, result);
}

static bool prepare_tuned(struct bench_stage *stage, void *state) {
  bool is_row = stage->problem.rows == 1 && stage->problem.op == BENCH_FORWARD;
  if (is_row) return bench_unable(stage, "at one row CLBlast's Gemv is measured");
  if (stage->problem.dtype != CLORA_F32) return bench_unable(stage, "tuned for f32 alone");
  return prepare_products(stage, state);
}

/* ---- x (A B) ---- */

static bool open_seed(struct bench_stage *stage, void **result) {
  const clora_context_options options = {.opencl = stage->device->opencl,
                                         .device = stage->device->about.id};
  if (!open_plain(stage, result)) return false;
  struct state *state = *result;
  if (clora_context_create(&options, &state->context) == CLORA_OK) return true;
  free(state);
  return bench_unable(stage, "%s", clora_error());
}

static clora_matrix view_weight(const struct bench_stage *stage, const struct state *state) {
  return (clora_matrix){.mem = state->w, .rows = stage->problem.d_in, .cols = stage->problem.d_out};
}

/* W is formed from one layer, in every call: that is what the class does. */
static bool call_seed(struct bench_stage *stage, void *opaque, size_t set, cl_command_queue queue,
                      cl_event *event) {
  struct state *state = opaque;
  const clora_weight_options options = {.scratch = state->scratch};
  clora_matrix w = view_weight(stage, state);
  struct operand weight = {state->w, 0, w.rows, w.cols, CLBlastTransposeNo};
  if (clora_enqueue_weight(queue, state->layer, &w, &options, 0, NULL, NULL) != CLORA_OK) {
    return bench_unable(stage, "%s", clora_error());
  }
  return check_status(
      stage, multiply(stage, view(stage, set, (struct bench_factor){BENCH_X, false}), weight,
                      view(stage, set, (struct bench_factor){BENCH_Y, false}), 1,
                      stage->problem.beta, queue, event));
}

static bool make_seed_layer(struct bench_stage *stage, struct state *state) {
  const struct bench_case *c = &stage->problem;
  clora_matrix a = bench_stage_matrix(stage, 0, BENCH_A), b = bench_stage_matrix(stage, 0, BENCH_B);
  const clora_layer_options options = {
      .dim = c->d_in,
      .dim_out = c->d_out,
      .r = c->r,
      .mode = CLORA_EXPLICIT_SCALE,
      .scale = BENCH_SCALE,
      .a = &a,
      .b = &b,
  };
  return clora_layer_create(state->context, &options, &state->layer) == CLORA_OK ||
         bench_unable(stage, "%s", clora_error());
}

static bool prepare_seed(struct bench_stage *stage, void *opaque) {
  struct state *state = opaque;
  const struct bench_case *c = &stage->problem;
  double flops = 2.0 * (double)c->d_in * (double)c->d_out * (double)(c->rows + c->r);
  if (c->op != BENCH_FORWARD) return bench_unable(stage, "its forward alone is measured");
  if (c->dtype != CLORA_F32) return bench_unable(stage, "measured in f32 alone");
  if (flops > MOST_SEED_FLOPS) {
    return bench_unable(stage, "%.0f Gflop: too many to wait for", flops * 1e-9);
  }
  snprintf(stage->plan, sizeof stage->plan, "clora weight, then %s",
           c->rows == 1 ? "Sgemv" : "Sgemm");
  size_t bytes = 0;
  clora_matrix w = view_weight(stage, state);
  if (!make_seed_layer(stage, state)) return false;
  if (clora_weight_workspace(state->layer, &w, NULL, &bytes) != CLORA_OK) {
    return bench_unable(stage, "%s", clora_error());
  }
  return bench_scratch(stage, bytes, &state->scratch) &&
         bench_scratch(stage, c->d_in * c->d_out * sizeof(float), &state->w) &&
         call_seed(stage, state, 0, stage->device->queue, NULL) &&
         (clFinish(stage->device->queue) == CL_SUCCESS || bench_unable(stage, "the device failed"));
}

static void release(void *opaque) {
  struct state *state = opaque;
  clora_layer_destroy(state->layer);
  if (state->w != NULL) clReleaseMemObject(state->w);
  if (state->scratch != NULL) clReleaseMemObject(state->scratch);
  *state = (struct state){.context = state->context};
}

static void close_state(void *opaque) {
  struct state *state = opaque;
  clora_context_destroy(state->context);
  free(state);
}

const struct bench_engine bench_engine_clblast = {
    .name = "clblast",
    .reads_y = true,
    .open = open_plain,
    .prepare = prepare_products,
    .call = call_products,
    .release = release,
    .close = close_state,
};

const struct bench_engine bench_engine_tuned = {
    .name = "clblast-tuned",
    .reads_y = true,
    .open = open_tuned,
    .prepare = prepare_tuned,
    .call = call_products,
    .release = release,
    .close = close_state,
};

const struct bench_engine bench_engine_seed = {
    .name = "seed",
    .reads_y = true,
    .open = open_seed,
    .prepare = prepare_seed,
    .call = call_seed,
    .release = release,
    .close = close_state,
};
