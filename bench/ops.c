/* What is measured: each operation with its operands, the products that a library of products would
 * compute it by, how its results are checked, and what it costs at least. Adding one is adding a
 * row.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <string.h>

#define X BENCH_X
#define A BENCH_A
#define B BENCH_B
#define T BENCH_T
#define Y BENCH_Y
#define DY BENCH_DY
#define DT BENCH_DT
#define DX BENCH_DX
#define DA BENCH_DA
#define DB BENCH_DB
#define BIT(operand) (1u << (operand))

/* Products by name; `scaled` ones are multiplied by the layer's scale. */
#define T_IS_X_A \
  { {X, false}, {A, false}, T, false }
#define Y_IS_T_B \
  { {T, false}, {B, false}, Y, true }
#define DT_IS_DY_B \
  { {DY, false}, {B, true}, DT, true }
#define DB_IS_T_DY \
  { {T, true}, {DY, false}, DB, true }
#define DA_IS_X_DT \
  { {X, true}, {DT, false}, DA, false }
#define DX_IS_DT_A \
  { {DT, false}, {A, true}, DX, false }

/* An output is scale times the product of its factors, whatever the order of computing it. */
#define CHECK_Y                 \
  {                             \
    Y, 3, {                     \
      {X, false}, {A, false}, { \
        B, false                \
      }                         \
    }                           \
  }
#define CHECK_DX                \
  {                             \
    DX, 3, {                    \
      {DY, false}, {B, true}, { \
        A, true                 \
      }                         \
    }                           \
  }
#define CHECK_DA                \
  {                             \
    DA, 3, {                    \
      {X, true}, {DY, false}, { \
        B, true                 \
      }                         \
    }                           \
  }
#define CHECK_DB   \
  {                \
    DB, 2, {       \
      {T, true}, { \
        DY, false  \
      }            \
    }              \
  }

const struct bench_op_about bench_ops[BENCH_OPS] = {
    [BENCH_FORWARD] = {.name = "forward",
                       .inputs = BIT(X) | BIT(A) | BIT(B),
                       .outputs = BIT(Y),
                       .scratch = BIT(T),
                       .product_count = 2,
                       .products = {T_IS_X_A, Y_IS_T_B},
                       .check_count = 1,
                       .checks = {CHECK_Y}},
    [BENCH_BACKWARD] = {.name = "backward",
                        .inputs = BIT(X) | BIT(A) | BIT(B) | BIT(T) | BIT(DY),
                        .outputs = BIT(DX) | BIT(DA) | BIT(DB),
                        .scratch = BIT(DT),
                        .product_count = 4,
                        .products = {DT_IS_DY_B, DB_IS_T_DY, DA_IS_X_DT, DX_IS_DT_A},
                        .check_count = 3,
                        .checks = {CHECK_DX, CHECK_DA, CHECK_DB}},
    [BENCH_REDUCE] = {.name = "reduce",
                      .inputs = BIT(A) | BIT(B) | BIT(T) | BIT(DY),
                      .outputs = BIT(DB),
                      .product_count = 1,
                      .products = {DB_IS_T_DY},
                      .check_count = 1,
                      .checks = {CHECK_DB}},
    [BENCH_STEP] = {.name = "step",
                    .inputs = BIT(X) | BIT(A) | BIT(B) | BIT(DY),
                    .outputs = BIT(Y) | BIT(DX) | BIT(T),
                    .scratch = BIT(DT) | BIT(DA) | BIT(DB),
                    .product_count = 6,
                    .products = {T_IS_X_A, Y_IS_T_B, DT_IS_DY_B, DB_IS_T_DY, DA_IS_X_DT,
                                 DX_IS_DT_A},
                    .check_count = 2,
                    .checks = {CHECK_Y, CHECK_DX}},
    [BENCH_OPTIMIZER] = {.name = "optimizer",
                         .inputs = BIT(A) | BIT(B) | BIT(DA) | BIT(DB),
                         .outputs = BIT(A) | BIT(B),
                         .check_count = 1,
                         .checks = {{A, 0, {{A, false}}}}},
};

const struct bench_op_about *bench_op_of(const struct bench_case *c) {
  return &bench_ops[c->op];
}

bool bench_find_op(const char *name, enum bench_op *op) {
  for (unsigned i = 0; i < BENCH_OPS; i++) {
    *op = (enum bench_op)i;
    if (strcmp(bench_ops[i].name, name) == 0) return true;
  }
  return false;
}

bool bench_has(unsigned operands, enum bench_operand operand) {
  return (operands & BIT(operand)) != 0;
}

bool bench_is_read(const struct bench_case *c, enum bench_operand operand) {
  return bench_has(bench_op_of(c)->inputs, operand) || (operand == Y && c->beta != 0);
}

bool bench_accumulates(const struct bench_case *c) {
  return c->beta != 0 || c->op == BENCH_OPTIMIZER;
}

/* ---- what it costs ---- */

/* Two a multiply-add. An optimizer's dozen an element count nothing beside its bytes. */
double bench_flops(const struct bench_case *c) {
  double product = 2.0 * (double)c->rows * (double)c->r; /* times d_in or d_out */
  double both = product * (double)(c->d_in + c->d_out);
  switch (c->op) {
    case BENCH_FORWARD:
      return both;
    case BENCH_BACKWARD:
      return 2 * both;
    case BENCH_REDUCE:
      return product * (double)c->d_out;
    case BENCH_STEP:
      return 3 * both;
    default:
      return 12.0 * (double)c->r * (double)(c->d_in + c->d_out);
  }
}

/* AdamW reads and writes a value and two moments, and reads the gradient twice: the update waits
 * for the norm of all. 16-bit values are written beside their f32 masters. */
static double optimizer_bytes(const struct bench_case *c) {
  double stored = c->dtype == CLORA_F32 ? 0 : (double)clora_dtype_size(c->dtype);
  return (double)c->r * (double)(c->d_in + c->d_out) * (32 + stored);
}

/* Every operand once, f32 or as stored; what is written and read again within the operation is
 * free, t of a step included. */
double bench_bytes(const struct bench_case *c) {
  double size = (double)clora_dtype_size(c->dtype), rows = (double)c->rows * size;
  double x = rows * (double)c->d_in, y = rows * (double)c->d_out;
  double weights = (double)c->r * (double)(c->d_in + c->d_out), t = 4 * (double)(c->rows * c->r);
  double backward = 2 * x + y + weights * (size + 4);
  switch (c->op) {
    case BENCH_FORWARD:
      return x + y * (c->beta != 0 ? 2 : 1) + weights * size;
    case BENCH_BACKWARD:
      return backward + t;
    case BENCH_REDUCE:
      return y + t + 4 * (double)(c->r * c->d_out);
    case BENCH_STEP:
      return x + y + weights * size + backward + optimizer_bytes(c);
    default:
      return optimizer_bytes(c);
  }
}
