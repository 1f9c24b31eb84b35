/* The variant `clblast`: one Gemm of CLBlast a product, in f32. The only file that names CLBlast.
 *
 * CLBlast keeps process-wide state that is not safe on concurrent first use (1.5.3, and still in
 * 1.7.0), so calls are made under one lock. It keeps the cl_context until CLBlastClearCache(),
 * takes no wait list (barriers stand in for it) and may allocate. It picks its kernel by the volume
 * of the product, so a check holds for one inner and outer size and for rows within a power of two.
 * SPDX-License-Identifier: Apache-2.0 */
#include <limits.h>

#include <clblast_c.h>

#include "base/size.h"
#include "device/matrix.h"
#include "kernels.h"
#include "product/product.h"

/* Rows are handed over in blocks of at most this many elements of `in` or `out`: that bounds the
 * memory of a check, and keeps CLBlast's 32-bit indices far from their end. */
#define BLOCK_ELEMENTS ((size_t)1 << 24)

/* Below this many multiply-adds a library call costs more than the product. */
#define SMALL ((size_t)1 << 20)

static pthread_mutex_t library = PTHREAD_MUTEX_INITIALIZER;

static bool fits_int(const clora_matrix *m) {
  struct clora__steps step = clora__matrix_steps(m);
  return m->offset < INT_MAX / 2 && step.row < INT_MAX / 2 && step.col < INT_MAX / 2 &&
         m->rows < INT_MAX / 2 && m->cols < INT_MAX / 2;
}

static const char *misfit(const clora_device *device, const struct clora__problem *p) {
  (void)device;
  bool f32 = p->in.dtype == CLORA_F32 && p->weight.dtype == CLORA_F32 && p->out.dtype == CLORA_F32;
  if (!f32) return "CLBlast computes 16-bit matrices in 16 bits; this library does not";
  bool fits = fits_int(&p->in) && fits_int(&p->weight) && fits_int(&p->out);
  return fits ? NULL : "the matrix exceeds CLBlast's 32-bit sizes";
}

static const char *yields(const clora_device *device, const struct clora__problem *p) {
  (void)device;
  size_t work = p->out.rows * p->in.cols * p->out.cols;
  return work < SMALL ? "the product is too small for a library call" : NULL;
}

static size_t block_rows(const struct clora__problem *p) {
  size_t longest = clora__max(p->in.cols, p->out.cols);
  return clora__max(BLOCK_ELEMENTS / longest, 1);
}

static unsigned log2_of(size_t value) {
  unsigned log2 = 0;
  while (value >>= 1) log2++;
  return log2;
}

static unsigned rows_log2(const struct clora__problem *p) {
  return log2_of(clora__min(p->out.rows, block_rows(p)));
}

/* CLBlast takes the scale by value, ours is on the device: the smaller operand is multiplied by it
 * first, the same one for all rows that a check holds for. NULL: there is no scale. */
static const clora_matrix *scaled(const struct clora__problem *p) {
  if (p->scale == NULL) return NULL;
  return rows_log2(p) <= log2_of(p->out.cols) ? &p->in : &p->weight;
}

static void choose(const clora_device *device, const struct clora__problem *p,
                   struct clora__knobs *knobs) {
  (void)device;
  clora__knob(knobs, "rows_log2", rows_log2(p));
  clora__knob(knobs, "inner", (unsigned)p->in.cols);
  clora__knob(knobs, "cols", (unsigned)p->out.cols);
  clora__knob(knobs, "in_transposed", p->in.transposed && scaled(p) != &p->in);
  clora__knob(knobs, "weight_transposed", p->weight.transposed && scaled(p) != &p->weight);
}

/* The fewest and the most rows that the knobs stand for. */
static size_t shapes(const struct clora__knobs *knobs, const struct clora__problem *p,
                     struct clora__problem *shapes, size_t limit) {
  (void)knobs;
  size_t fewest = (size_t)1 << rows_log2(p);
  size_t most = clora__min(2 * fewest - 1, block_rows(p));
  for (size_t i = 0; i < 2 && i < limit; i++) {
    shapes[i] = *p;
    shapes[i].in.rows = shapes[i].out.rows = i == 0 ? fewest : most;
    shapes[i].in.stride = shapes[i].weight.stride = shapes[i].out.stride = 0;
    shapes[i].in.offset = shapes[i].weight.offset = shapes[i].out.offset = 0;
  }
  return 2;
}

static size_t workspace_bytes(const struct clora__problem *p) {
  const clora_matrix *operand = scaled(p);
  return operand != NULL ? operand->rows * operand->cols * sizeof(float) : 0;
}

/* *operand = scale * *operand, dense in scratch. */
static clora_status scale_operand(struct clora__chain *chain, const struct clora__plan *plan,
                                  const struct clora__problem *p, struct clora__scratch scratch,
                                  clora_matrix *operand) {
  const clora_matrix from = *operand;
  struct clora__steps step = clora__matrix_steps(&from);
  *operand = (clora_matrix){.mem = scratch.mem,
                            .offset = scratch.offset_bytes / sizeof(float),
                            .rows = from.rows,
                            .cols = from.cols,
                            .dtype = CLORA_F32};
  const cl_ulong shape[] = {from.offset,     step.row,  step.col, operand->offset,
                            p->scale_offset, from.rows, from.cols};
  struct clora__argument arguments[3 + sizeof shape / sizeof *shape] = {
      CLORA__ARGUMENT(from.mem), CLORA__ARGUMENT(operand->mem), CLORA__ARGUMENT(p->scale)};
  for (size_t i = 0; i < sizeof shape / sizeof *shape; i++) {
    arguments[3 + i] = (struct clora__argument)CLORA__ARGUMENT(shape[i]);
  }
  size_t group = clora__min(64, plan->kernel->group_size);
  struct clora__grid grid = {{clora__round_up(from.rows * from.cols, group), 1}, {group, 1}};
  return clora__launch(chain, plan->kernel, &grid, sizeof arguments / sizeof *arguments, arguments);
}

static size_t leading(const clora_matrix *m) {
  struct clora__steps step = clora__matrix_steps(m);
  return m->transposed ? step.col : step.row;
}

/* Rows [first, first + rows) of the product. */
static clora_status gemm(struct clora__chain *chain, const struct clora__problem *p, size_t first,
                         size_t rows, cl_event *event) {
  const clora_matrix *in = &p->in;
  struct clora__steps in_step = clora__matrix_steps(in), out_step = clora__matrix_steps(&p->out);
  pthread_mutex_lock(&library);
  CLBlastStatusCode code = CLBlastSgemm(
      CLBlastLayoutRowMajor, in->transposed ? CLBlastTransposeYes : CLBlastTransposeNo,
      p->weight.transposed ? CLBlastTransposeYes : CLBlastTransposeNo, rows, p->out.cols, in->cols,
      1.0f, in->mem, in->offset + first * in_step.row, leading(in), p->weight.mem, p->weight.offset,
      leading(&p->weight), p->beta, p->out.mem, p->out.offset + first * out_step.row,
      leading(&p->out), &chain->queue, event);
  pthread_mutex_unlock(&library);
  CHECK(code == CLBlastSuccess, clora__opencl_status(code), "CLBlastSgemm gave %d", (int)code);
  return CLORA_OK;
}

static clora_status gemms(struct clora__chain *chain, const struct clora__problem *p) {
  size_t block = block_rows(p);
  for (size_t first = 0; first < p->out.rows; first += block) {
    cl_event event = NULL;
    bool wanted = chain->wants_event || !chain->ordered;
    TRY(gemm(chain, p, first, clora__min(block, p->out.rows - first), wanted ? &event : NULL));
    clora__chain_append(chain, event);
  }
  return CLORA_OK;
}

static clora_status run(struct clora__chain *chain, const struct clora__plan *plan,
                        const struct clora__problem *p, struct clora__scratch scratch) {
  struct clora__problem q = *p;
  if (scaled(p) != NULL) {
    clora_matrix *operand = scaled(p) == &p->in ? &q.in : &q.weight;
    TRY(scale_operand(chain, plan, p, scratch, operand));
  }
  TRY(clora__chain_barrier(chain));
  TRY(gemms(chain, &q));
  if (chain->ordered) return CLORA_OK;
  cl_event all; /* several blocks, and what CLBlast enqueued before each, may run in any order */
  CL(clEnqueueBarrierWithWaitList, chain->queue, 0, NULL, &all);
  clora__chain_append(chain, all);
  return CLORA_OK;
}

const struct clora__variant clora__clblast = {
    .name = "clblast",
    .source = clora__source_clblast,
    .function = "clblast_scale",
    .misfit = misfit,
    .yields = yields,
    .choose = choose,
    .shapes = shapes,
    .workspace_bytes = workspace_bytes,
    .run = run,
};
