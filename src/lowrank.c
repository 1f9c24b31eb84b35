/* Truncated singular value decompositions, in f64 (Eckart, Young: no other matrix of the rank is
 * nearer). The one file that names LAPACK, which is loaded when it is first needed: it brings a
 * BLAS with threads of its own, which a program that only applies layers should not have in it.
 *
 *   A = Qa Ra,  B^T = Qb Rb,  scale Ra Rb^T = U S V^T  =>  scale A B = (Qa U) S (Qb V)^T
 *
 * The result's A is Qa U sqrt(S) and its B is sqrt(S) (Qb V)^T, of the first columns.
 * SPDX-License-Identifier: Apache-2.0 */
#include "lowrank.h"

#include <dlfcn.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <lapacke.h>

#include "base/os.h"
#include "base/size.h"
#include "base/status.h"

/* LAPACKE gives its own codes for memory, -n for an argument that it refuses, a NaN in it included,
 * and a positive number where an iteration did not end. */
static clora_status check_info(const char *routine, size_t rows, size_t cols, lapack_int info) {
  CHECK(info != LAPACK_WORK_MEMORY_ERROR && info != LAPACK_TRANSPOSE_MEMORY_ERROR,
        CLORA_OUT_OF_MEMORY, "no memory for LAPACK's %s of %zu x %zu", routine, rows, cols);
  CHECK(info >= 0, CLORA_INVALID_ARGUMENT,
        "LAPACK's %s of %zu x %zu refuses its argument %d: a value is NaN", routine, rows, cols,
        (int)-info);
  CHECK(info == 0, CLORA_INVALID_ARGUMENT, "LAPACK's %s of %zu x %zu did not converge (%d)",
        routine, rows, cols, (int)info);
  return CLORA_OK;
}

/* ---- the library ---- */

struct lapack {
  __typeof__(LAPACKE_dgesdd) *dgesdd;
  __typeof__(LAPACKE_dgeqrf) *dgeqrf;
  __typeof__(LAPACKE_dorgqr) *dorgqr;
};

/* It stays loaded: its threads would outlive it. */
static clora_status open_lapack(struct lapack *lapack) {
  void *library = clora__fault() ? NULL : dlopen("liblapacke.so.3", RTLD_NOW | RTLD_LOCAL);
  CHECK(library != NULL, CLORA_UNSUPPORTED,
        "this needs LAPACK, and liblapacke.so.3 cannot be loaded: on Debian or Ubuntu, apt-get "
        "install liblapacke");
  *(void **)&lapack->dgesdd = dlsym(library, "LAPACKE_dgesdd");
  *(void **)&lapack->dgeqrf = dlsym(library, "LAPACKE_dgeqrf");
  *(void **)&lapack->dorgqr = dlsym(library, "LAPACKE_dorgqr");
  CHECK(lapack->dgesdd != NULL && lapack->dgeqrf != NULL && lapack->dorgqr != NULL,
        CLORA_UNSUPPORTED, "liblapacke.so.3 has no dgesdd, dgeqrf and dorgqr");
  return CLORA_OK;
}

/* ---- how many columns ---- */

clora_status clora__rank_check(const clora_rank_options *options) {
  CHECK(options != NULL, CLORA_INVALID_ARGUMENT, "options is NULL");
  CHECK(options->r > 0 || options->error > 0, CLORA_INVALID_ARGUMENT,
        "neither a rank nor an error is given");
  CHECK(options->error >= 0 && options->error < 1, CLORA_INVALID_ARGUMENT,
        "the error is %g, at least 0 and below 1 is expected", options->error);
  return CLORA_OK;
}

/* The smallest rank whose error is within the option's, at least 1; or as many as asked for. */
static size_t choose_rank(const clora_rank_options *options, const double *s, size_t count,
                          double norm) {
  size_t most = options->r > 0 ? clora__min(options->r, count) : count;
  if (options->error <= 0) return most;
  double left = 0, allowed = options->error * norm;
  size_t r = count;
  while (r > 1 && left + s[r - 1] * s[r - 1] <= allowed * allowed) {
    r--;
    left += s[r] * s[r];
  }
  return clora__min(r, most);
}

static double norm_from(const double *s, size_t first, size_t count) {
  double sum = 0;
  for (size_t n = count; n-- > first;) sum += s[n] * s[n]; /* the small ones first */
  return sqrt(sum);
}

/* From the singular vectors u [rows of A, count] and vt [count, columns of B], row-major. */
static clora_status take(const double *u, size_t d_in, size_t u_stride, const double *s,
                         const double *vt, size_t d_out, size_t count,
                         const clora_rank_options *options, struct clora__lowrank *result) {
  result->norm = norm_from(s, 0, count);
  result->r = choose_rank(options, s, count, result->norm);
  result->error = norm_from(s, result->r, count);
  TRY(clora__allocate(d_in * result->r, sizeof(float), &result->a));
  TRY(clora__allocate(d_out * result->r, sizeof(float), &result->b));
  for (size_t j = 0; j < result->r; j++) {
    double root = sqrt(s[j]);
    for (size_t k = 0; k < d_in; k++) {
      result->a[k * result->r + j] = (float)(u[k * u_stride + j] * root);
    }
    for (size_t o = 0; o < d_out; o++) result->b[j * d_out + o] = (float)(vt[j * d_out + o] * root);
  }
  return CLORA_OK;
}

/* ---- dense ---- */

static clora_status check_sizes(size_t rows, size_t cols) {
  CHECK(rows <= INT_MAX && cols <= INT_MAX && rows * cols <= INT_MAX, CLORA_UNSUPPORTED,
        "a matrix of %zu x %zu is too large for LAPACK's 32-bit sizes", rows, cols);
  return CLORA_OK;
}

struct svd {
  double *u, *s, *vt; /* [rows, count], [count], [count, cols] */
  size_t count;
};

static void free_svd(struct svd *svd) {
  free(svd->u);
  free(svd->s);
  free(svd->vt);
}

static clora_status decompose(size_t rows, size_t cols, double *matrix, struct svd *svd) {
  size_t count = clora__min(rows, cols);
  struct lapack lapack;
  TRY(check_sizes(rows, cols));
  TRY(open_lapack(&lapack));
  svd->count = count;
  TRY(clora__allocate(rows * count, sizeof(double), &svd->u));
  TRY(clora__allocate(count, sizeof(double), &svd->s));
  TRY(clora__allocate(count * cols, sizeof(double), &svd->vt));
  lapack_int info =
      lapack.dgesdd(LAPACK_ROW_MAJOR, 'S', (lapack_int)rows, (lapack_int)cols, matrix,
                    (lapack_int)cols, svd->s, svd->u, (lapack_int)count, svd->vt, (lapack_int)cols);
  return check_info("dgesdd", rows, cols, info);
}

static void free_result(struct clora__lowrank *result) {
  free(result->a);
  free(result->b);
  *result = (struct clora__lowrank){0};
}

clora_status clora__lowrank_dense(size_t rows, size_t cols, double *matrix,
                                  const clora_rank_options *options,
                                  struct clora__lowrank *result) {
  struct svd svd = {0};
  *result = (struct clora__lowrank){0};
  clora_status status = decompose(rows, cols, matrix, &svd);
  if (status == CLORA_OK) {
    status = take(svd.u, rows, svd.count, svd.s, svd.vt, cols, svd.count, options, result);
  }
  free_svd(&svd);
  if (status != CLORA_OK) free_result(result);
  return status;
}

/* ---- factors ---- */

/* One tall factor F [rows, r] = Q R: q [rows, p], and R [p, r] with p = min(rows, r). */
struct qr {
  double *q, *r;
  size_t rows, p;
};

static void free_qr(struct qr *qr) {
  free(qr->q);
  free(qr->r);
}

/* values: F, or F^T when transposed. */
static clora_status factorize(size_t rows, size_t r, const float *values, bool transposed,
                              struct qr *qr) {
  double *work, *tau;
  qr->rows = rows;
  qr->p = clora__min(rows, r);
  struct lapack lapack;
  TRY(check_sizes(rows, r));
  TRY(open_lapack(&lapack));
  TRY(clora__allocate(rows * r, sizeof *work, &work));
  clora_status status = clora__allocate(qr->p, sizeof *tau, &tau);
  if (status == CLORA_OK) status = clora__allocate(rows * qr->p, sizeof(double), &qr->q);
  if (status == CLORA_OK) status = clora__allocate(qr->p * r, sizeof(double), &qr->r);
  lapack_int m = (lapack_int)rows, n = (lapack_int)r, p = (lapack_int)qr->p;
  if (status == CLORA_OK) {
    for (size_t i = 0; i < rows; i++) {
      for (size_t j = 0; j < r; j++) {
        work[i * r + j] = (double)(transposed ? values[j * rows + i] : values[i * r + j]);
      }
    }
    lapack_int info = lapack.dgeqrf(LAPACK_ROW_MAJOR, m, n, work, n, tau);
    status = check_info("dgeqrf", rows, r, info);
    for (size_t i = 0; i < qr->p; i++) {
      for (size_t j = i; j < r; j++) qr->r[i * r + j] = work[i * r + j];
    }
    for (size_t i = 0; i < rows; i++) {
      memcpy(qr->q + i * qr->p, work + i * r, qr->p * sizeof(double));
    }
    if (info == 0) {
      info = lapack.dorgqr(LAPACK_ROW_MAJOR, m, p, p, qr->q, p, tau);
      status = check_info("dorgqr", rows, qr->p, info);
    }
  }
  free(work);
  free(tau);
  return status;
}

/* core [a.p, b.p] = scale Ra Rb^T */
static void multiply_core(const struct qr *a, const struct qr *b, size_t r, double scale,
                          double *core) {
  for (size_t i = 0; i < a->p; i++) {
    for (size_t l = 0; l < b->p; l++) {
      double sum = 0;
      for (size_t j = 0; j < r; j++) sum += a->r[i * r + j] * b->r[l * r + j];
      core[i * b->p + l] = scale * sum;
    }
  }
}

/* u [rows, count] = Q [rows, p] times small [p, count]; or with small given as [count, p], and the
 * result as [count, rows]. */
static void multiply_q(const struct qr *qr, const double *small, size_t count, bool transposed,
                       double *result) {
  for (size_t i = 0; i < qr->rows; i++) {
    for (size_t c = 0; c < count; c++) {
      double sum = 0;
      for (size_t l = 0; l < qr->p; l++) {
        sum += qr->q[i * qr->p + l] * (transposed ? small[c * qr->p + l] : small[l * count + c]);
      }
      result[transposed ? c * qr->rows + i : i * count + c] = sum;
    }
  }
}

static clora_status expand(const struct qr *qa, const struct qr *qb, const struct svd *svd,
                           const clora_rank_options *options, struct clora__lowrank *result) {
  double *u, *vt = NULL;
  TRY(clora__allocate(qa->rows * svd->count, sizeof *u, &u));
  clora_status status = clora__allocate(svd->count * qb->rows, sizeof *vt, &vt);
  if (status == CLORA_OK) {
    multiply_q(qa, svd->u, svd->count, false, u);
    multiply_q(qb, svd->vt, svd->count, true, vt);
    status = take(u, qa->rows, svd->count, svd->s, vt, qb->rows, svd->count, options, result);
  }
  free(u);
  free(vt);
  return status;
}

clora_status clora__lowrank_factors(size_t d_in, size_t r, size_t d_out, const float *a,
                                    const float *b, double scale, const clora_rank_options *options,
                                    struct clora__lowrank *result) {
  struct qr qa = {0}, qb = {0};
  struct svd svd = {0};
  double *core = NULL;
  *result = (struct clora__lowrank){0};
  clora_status status = factorize(d_in, r, a, false, &qa);
  if (status == CLORA_OK) status = factorize(d_out, r, b, true, &qb);
  if (status == CLORA_OK) status = clora__allocate(qa.p * qb.p, sizeof *core, &core);
  if (status == CLORA_OK) {
    multiply_core(&qa, &qb, r, scale, core);
    status = decompose(qa.p, qb.p, core, &svd);
  }
  if (status == CLORA_OK) status = expand(&qa, &qb, &svd, options, result);
  free(core);
  free_svd(&svd);
  free_qr(&qa);
  free_qr(&qb);
  if (status != CLORA_OK) free_result(result);
  return status;
}

/* ---- orthonormal columns ---- */

static clora_status find_singular_values(const struct qr *qr, double *s) {
  struct lapack lapack;
  lapack_int p = (lapack_int)qr->p;
  TRY(open_lapack(&lapack));
  lapack_int info = lapack.dgesdd(LAPACK_ROW_MAJOR, 'N', p, p, qr->r, p, s, NULL, p, NULL, p);
  return check_info("dgesdd", qr->p, qr->p, info);
}

clora_status clora__orthonormalize(size_t rows, size_t cols, bool transposed, float *values,
                                   double *s) {
  struct qr qr = {0};
  clora_status status = factorize(rows, cols, values, transposed, &qr);
  if (status == CLORA_OK && s != NULL) status = find_singular_values(&qr, s);
  for (size_t i = 0; status == CLORA_OK && i < rows; i++) {
    for (size_t j = 0; j < cols; j++) {
      values[transposed ? j * rows + i : i * cols + j] = (float)qr.q[i * cols + j];
    }
  }
  free_qr(&qr);
  return status;
}
