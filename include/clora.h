/* clora: low-rank (LoRA) linear layers on any OpenCL device.
 *
 *   y = beta*y + scale * (x A) B
 *
 * Letters used everywhere: rows, d_in, d_out and r are dimensions; i is a row, k an input, o an
 * output and j an index into the rank. x [rows, d_in], A [d_in, r], B [r, d_out], y [rows, d_out],
 * t = x A [rows, r], W = scale A B [d_in, d_out]. Matrices are row-major. Offsets and strides count
 * elements; sizes that end in _bytes count bytes.
 *
 * The parts, from simple to special:
 *   1 status    2 devices and contexts    3 matrices    4 layers    5 operations
 *   6 the definition on the host    7 arrays in .npy files    8 adapters    9 bases    10 training
 *
 * Threads: every function may be called from any thread. A context and the layers made from it may
 * be used from several threads at once; writing a layer while another thread uses it is the
 * caller's to order, as is destroying anything.
 *
 * The library never prints, exits, or installs handlers, and keeps no state outside the objects
 * below. After fork() a child that uses a context gets CLORA_FORKED.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef CLORA_H
#define CLORA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <CL/cl.h>

#define CLORA_VERSION_MAJOR 0
#define CLORA_VERSION_MINOR 1
#define CLORA_VERSION_PATCH 0

#if defined(__GNUC__)
#define CLORA_API __attribute__((visibility("default")))
#else
#define CLORA_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* "0.1.0": the version of the library that runs, which may differ from the macros above. */
CLORA_API const char *clora_version(void);

/* ---- 1 status --------------------------------------------------------------------------------
 *
 * Every function that can fail returns a status. What exactly went wrong is said by clora_error().
 * A failed call changed nothing, except that the output of a computation that failed midway
 * (CLORA_OPENCL_FAILURE) is unspecified inside its own elements. */

#define CLORA_STATUS_LIST(X)                                              \
  X(OK, "success")                                                        \
  X(INVALID_ARGUMENT, "an argument is invalid")                           \
  X(OUT_OF_MEMORY, "out of host or device memory")                        \
  X(NO_DEVICE, "no OpenCL device fits")                                   \
  X(OPENCL_FAILURE, "an OpenCL call failed")                              \
  X(NO_VARIANT, "no kernel passed its check on this device")              \
  X(NOT_PREPARED, "the context may not compile and this is not prepared") \
  X(IO_FAILURE, "a file could not be read or written")                    \
  X(BAD_FILE, "a file does not follow its format")                        \
  X(UNSUPPORTED, "valid, but not supported by this version")              \
  X(FORKED, "the context belongs to the parent process")                  \
  X(CANCELLED, "the caller's callback stopped it")

typedef enum clora_status {
#define CLORA_STATUS_ENUMERATOR(name, text) CLORA_##name,
  CLORA_STATUS_LIST(CLORA_STATUS_ENUMERATOR)
#undef CLORA_STATUS_ENUMERATOR
} clora_status;

/* "INVALID_ARGUMENT: an argument is invalid". Static text, never NULL. */
CLORA_API const char *clora_status_text(clora_status status);

/* The last failure on this thread in words: it names the thing and both values, for example
 * "x has 7 columns, the layer has d_in 33". Valid until the next failure on the same thread. */
CLORA_API const char *clora_error(void);

/* ---- 2 devices and contexts ------------------------------------------------------------------
 *
 * A context is one device of one cl_context, with the kernels built and checked for it and one
 * private queue on which it checks them. It retains the cl_context. */

/* One OpenCL device as found on this machine. */
typedef struct clora_device {
  cl_platform_id platform;
  cl_device_id id;
  unsigned platform_index, device_index; /* the selector "P:D" */
  cl_device_type type;
  char platform_name[128], name[128], version[128], driver[128];
  unsigned compute_units;
  unsigned vector_width; /* native f32 lanes, as the device reports them */
  uint64_t memory_bytes, allocation_bytes, local_bytes;
  size_t group_size; /* largest work-group, in work-items */
  bool has_fp16;     /* cl_khr_fp16; clora stores f16 without it */
  bool has_subgroups;
  bool keeps_subnormals; /* CL_FP_DENORM for f32 */
  bool has_out_of_order_queues;
} clora_device;

/* Writes the first `capacity` devices to `devices` (may be NULL when capacity is 0) and their
 * number to *count, which may be larger. Platforms without devices are passed over.
 * CLORA_NO_DEVICE when there is none; clora_error() then says what to install. */
CLORA_API clora_status clora_devices(clora_device *devices, size_t capacity, size_t *count);

/* Finds one device. selector: "gpu", "cpu", "accelerator", "P:D" (platform and device number as
 * clora_devices() counts them), or a part of a device's or platform's name in any case. NULL or ""
 * is the first GPU, else the first accelerator, else the first CPU. The first match wins; devices
 * below OpenCL 1.2 are passed over unless they are named. */
CLORA_API clora_status clora_device_select(const char *selector, clora_device *device);

typedef enum clora_log_level { CLORA_LOG_INFO, CLORA_LOG_WARNING } clora_log_level;

/* Receives what the library has to say: compile times, refused kernels. `message` is valid during
 * the call, has no newline, and may come from any thread that calls the library. */
typedef void (*clora_log_function)(clora_log_level level, const char *message, void *user);

typedef struct clora_context clora_context;

typedef struct clora_context_options {
  const char *selector; /* as for clora_device_select(); used when opencl is NULL */
  cl_context opencl; /* the caller's own context, retained; then `device` is one of its devices */
  cl_device_id device;
  bool no_compile;     /* refuse (CLORA_NOT_PREPARED) instead of building inside an enqueue */
  const char *variant; /* serve by this variant alone ("plain", "cpu", ...); NULL: the best one;
                          calls that it does not fit, or an unknown name: CLORA_UNSUPPORTED */
  const char *store; /* the folder of the store, or "off"; NULL: as said at clora_explain_store() */
  clora_log_function log;
  void *log_user;
} clora_context_options;

/* Creates a context; options may be NULL. */
CLORA_API clora_status clora_context_create(const clora_context_options *options,
                                            clora_context **context);

/* Gives the caller's reference back; layers made from the context keep it alive until they are
 * destroyed too. NULL is allowed. Work that is still running keeps what it needs (OpenCL's rule).
 */
CLORA_API void clora_context_destroy(clora_context *context);

/* The OpenCL objects of a context, not retained for the caller. */
CLORA_API cl_context clora_context_opencl(const clora_context *context);
CLORA_API const clora_device *clora_context_device(const clora_context *context);

/* The names of all variants, in the order of the tables; NULL past the last. */
CLORA_API const char *clora_variant_name(size_t index);

/* What clora learns about kernels on a device, whether they passed their check and which of their
 * knobs are fast, it remembers from process to process in one SQLite file: in $CLORA_CACHE, in
 * clora in $XDG_CACHE_HOME, or in $HOME/.cache/clora; CLORA_CACHE=off switches it off. It is read
 * and written only while something is prepared or tuned. It holds no programs: drivers have caches
 * for those. Another version of the library, the device's driver or a kernel finds nothing there,
 * and a folder that somebody else may write to, a full disk or a damaged file is the same as no
 * store.
 *
 * Writes a text that says where the store is, "store: PATH", and what it knows about kernels on the
 * context's device, one line each, the oldest first:
 *   FUNCTION (KNOBS): passed, E of the bound | refused: WHY
 * A check whose process ended in it counts as refused, and is made again where nothing else
 * serves. Whether the store can be written shows in writing it alone, which this does. At most
 * `size` bytes with the final NUL. */
CLORA_API clora_status clora_explain_store(clora_context *context, char *text, size_t size);

/* Says whether what the context learns is kept: CLORA_IO_FAILURE, and why, when the store cannot be
 * written, is switched off, or did not take something that this context had for it. */
CLORA_API clora_status clora_check_store(clora_context *context);

/* Empties the store, for every device. What the context itself has learned stays. CLORA_IO_FAILURE
 * when there is no store or it cannot be written. */
CLORA_API clora_status clora_forget(clora_context *context);

/* ---- 3 matrices ------------------------------------------------------------------------------
 *
 * A matrix is a view of a buffer: it owns nothing and may be copied freely. Element (i, k) lies at
 *   offset + i*stride + k       or, transposed,       offset + k*stride + i.
 * Arithmetic is always f32; f16 and bf16 are storage, rounded to nearest even. */

typedef enum clora_dtype { CLORA_F32, CLORA_F16, CLORA_BF16 } clora_dtype;

typedef struct clora_matrix {
  cl_mem mem;
  size_t offset;     /* elements before element (0, 0) */
  size_t rows, cols; /* as seen through the view */
  size_t stride;     /* elements from one stored row to the next; 0: stored rows are dense */
  clora_dtype dtype;
  bool transposed; /* the buffer holds [cols, rows] */
} clora_matrix;

/* "f32", "f16", "bf16"; 4, 2, 2 bytes. */
CLORA_API const char *clora_dtype_name(clora_dtype dtype);
CLORA_API size_t clora_dtype_size(clora_dtype dtype);

/* Converts `count` host values between f32 and a storage dtype, rounding to nearest even. */
CLORA_API void clora_pack(clora_dtype dtype, size_t count, const float *values, void *stored);
CLORA_API void clora_unpack(clora_dtype dtype, size_t count, const void *stored, float *values);

/* ---- 4 layers --------------------------------------------------------------------------------
 *
 * A layer is A, B and the scale: the `Lora` class. A layer that owns its values is one buffer. The
 * scale is one f32 on the device, which the kernels read. The layer keeps its context alive. */

typedef enum clora_scale_mode {
  CLORA_ALPHA_OVER_R,      /* scale = alpha / r */
  CLORA_ALPHA_OVER_SQRT_R, /* scale = alpha / sqrt(r): rank-stabilised LoRA, arXiv 2312.03732 */
  CLORA_EXPLICIT_SCALE     /* the scale as given; alpha is scale * r */
} clora_scale_mode;

typedef enum clora_init {
  CLORA_INIT_NORMAL, /* A and B drawn from N(0, 1): the class */
  CLORA_INIT_LORA    /* A uniform in +-1/sqrt(d_in), B zero: the usual start of training */
} clora_init;

typedef struct clora_layer_options {
  size_t dim, dim_out; /* d_in and d_out, at least 1 */
  size_t r;            /* 0: 8 */
  clora_scale_mode mode;
  double alpha;      /* 0: left out, which is 1; for a scale of 0 use the explicit mode */
  double scale;      /* of CLORA_EXPLICIT_SCALE alone */
  clora_dtype dtype; /* of A and B; when a and b are given, theirs counts */

  /* Where the values come from, one of three: */
  clora_init init; /* drawn by Philox4x32-10 keyed by seed: the same on every device and platform */
  uint64_t seed;
  const float *a_values, *b_values; /* host, copied: A [d_in, r] and B [r, d_out], dense */
  const clora_matrix *a, *b; /* the caller's buffers, retained and used in place, never copied */
} clora_layer_options;

typedef struct clora_layer clora_layer;

/* Creates a layer. It is ready when the call returns. */
CLORA_API clora_status clora_layer_create(clora_context *context,
                                          const clora_layer_options *options, clora_layer **layer);

/* Destroys a layer. NULL is allowed. */
CLORA_API void clora_layer_destroy(clora_layer *layer);

typedef struct clora_layer_info {
  clora_context *context; /* not retained for the caller */
  size_t d_in, d_out, r;
  clora_dtype dtype;
  clora_scale_mode mode;
  double alpha;              /* as given, or scale * r in the explicit mode */
  double scale;              /* what alpha, r and the mode say; kernels use it rounded to f32 */
  clora_matrix a, b;         /* views of A and B as stored */
  clora_matrix scale_matrix; /* the scale that the kernels read: f32 [1, 1] */
} clora_layer_info;

CLORA_API clora_status clora_layer_describe(const clora_layer *layer, clora_layer_info *info);

/* Copy A [d_in, r] or B [r, d_out] to or from dense host values, whatever view the layer has of
 * them. Blocking, on the context's private queue: work of other queues on the layer must have
 * finished before. A write that failed leaves the values unspecified. */
CLORA_API clora_status clora_layer_read_a(const clora_layer *layer, float *values);
CLORA_API clora_status clora_layer_read_b(const clora_layer *layer, float *values);
CLORA_API clora_status clora_layer_write_a(clora_layer *layer, const float *values);
CLORA_API clora_status clora_layer_write_b(clora_layer *layer, const float *values);

/* Change the scale; blocking, as above. write_alpha keeps the mode (in the explicit mode the scale
 * becomes alpha / r); write_scale switches to the explicit mode. read_scale gives the f32 that the
 * device holds. */
CLORA_API clora_status clora_layer_write_alpha(clora_layer *layer, double alpha);
CLORA_API clora_status clora_layer_write_scale(clora_layer *layer, double scale);
CLORA_API clora_status clora_layer_read_scale(const clora_layer *layer, float *scale);

/* ---- 5 operations ----------------------------------------------------------------------------
 *
 * An enqueue function takes the caller's queue (in-order or out-of-order, of the same context and
 * device), the caller's buffers, a wait list and a place for an event, as clEnqueueNDRangeKernel
 * does. It checks everything first: when it fails with anything but CLORA_OPENCL_FAILURE, nothing
 * was enqueued. It returns at once; the result is ready when *event, which the caller releases, is
 * complete. A command that fails on the device shows in that event's status.
 *
 * The first call with a new kind of problem builds and checks its kernels on the calling thread
 * (about a second); clora_prepare_*() does that ahead of time. After that a call neither builds,
 * blocks nor flushes, and with scratch given it allocates nothing. Exception: the variant `clblast`
 * may allocate, and on an out-of-order queue it orders itself behind everything enqueued before.
 *
 * Results are deterministic: the same plan gives the same bits (not so for `clblast`).
 *
 * Scratch belongs to one call until its event completes: calls that may overlap need their own. */

typedef struct clora_forward_options {
  float beta;            /* 0: y is written without being read */
  const clora_matrix *t; /* receives t = x A, f32 [rows, r], complete; NULL: not wanted */
  cl_mem scratch; /* at least clora_forward_workspace() bytes; NULL: the call makes its own */
  size_t scratch_offset_bytes; /* a multiple of 64 */
} clora_forward_options;

/* y = beta*y + scale * (x A) B:
 *
 *   for i < rows:
 *     t[i,j] = sum over k of x[i,k] * A[k,j]                                     for j < r
 *     y[i,o] = beta * y[i,o] + scale * sum over j of t[i,j] * B[j,o]             for o < d_out
 *
 * x [rows, d_in] and y [rows, d_out] have one dtype, are not transposed and do not overlap.
 * rows may be 0: nothing is computed, the event still comes. options may be NULL. Every element
 * lies within the bound of clora_reference_forward(). */
CLORA_API clora_status clora_enqueue_forward(cl_command_queue queue, clora_layer *layer,
                                             const clora_matrix *x, const clora_matrix *y,
                                             const clora_forward_options *options,
                                             cl_uint wait_count, const cl_event *wait_list,
                                             cl_event *event);

typedef struct clora_weight_options {
  float beta;     /* 0: W is written without being read; 1: merge into a base */
  cl_mem scratch; /* as in clora_forward_options */
  size_t scratch_offset_bytes;
} clora_weight_options;

/* W = beta*W + scale * A B:
 *
 *   W[k,o] = beta * W[k,o] + scale * sum over j of A[k,j] * B[j,o]
 *
 * w [d_in, d_out] in any dtype; PyTorch keeps it as [d_out, d_in]: say transposed. */
CLORA_API clora_status clora_enqueue_weight(cl_command_queue queue, clora_layer *layer,
                                            const clora_matrix *w,
                                            const clora_weight_options *options, cl_uint wait_count,
                                            const cl_event *wait_list, cl_event *event);

/* The layer of an embedding, whose input is ids: the rows of A that they name, then B.
 *
 *   t[i,j] = A[ids[i], j], or 0 for an id outside 0 ... d_in - 1
 *   y[i,o] = beta * y[i,o] + scale * sum over j of t[i,j] * B[j,o]
 *
 * ids [rows], 32-bit integers from element ids_offset on; y [rows, d_out] in any dtype, not
 * transposed, overlapping none of the others. options as for a forward; the scratch is
 * clora_embedding_workspace(). Two launches. */
CLORA_API clora_status clora_enqueue_embedding(cl_command_queue queue, clora_layer *layer,
                                               cl_mem ids, size_t ids_offset, size_t rows,
                                               const clora_matrix *y,
                                               const clora_forward_options *options,
                                               cl_uint wait_count, const cl_event *wait_list,
                                               cl_event *event);
CLORA_API clora_status clora_embedding_workspace(const clora_layer *layer, size_t rows,
                                                 const clora_matrix *y,
                                                 const clora_forward_options *options,
                                                 size_t *bytes);
CLORA_API clora_status clora_prepare_embedding(clora_layer *layer, size_t rows,
                                               const clora_matrix *y,
                                               const clora_forward_options *options);

/* A layer merged into a W and taken out again. Merging W = W + scale A B rounds, so subtracting
 * does not give W back; the original is kept instead, in a buffer of clora_merge_bytes() on the
 * device (as large as W is), and unmerging copies it back: the same bits, however often. */
typedef struct clora_merge clora_merge;

/* w [d_in, d_out] in any dtype, transposed or not; its buffer is retained. The layer must live
 * until the merge is destroyed. Nothing is computed yet. */
CLORA_API clora_status clora_merge_create(clora_layer *layer, const clora_matrix *w,
                                          clora_merge **merge);

/* Releases the original; the w stays as it is. NULL is allowed. */
CLORA_API void clora_merge_destroy(clora_merge *merge);
CLORA_API size_t clora_merge_bytes(const clora_merge *merge);

/* Keep w and add the layer to it: clora_enqueue_weight() with beta 1; and put w back. An error for
 * what is merged already, or is not. The caller orders them with what else uses w. Of options the
 * scratch counts; NULL is allowed. */
CLORA_API clora_status clora_enqueue_merge(cl_command_queue queue, clora_merge *merge,
                                           const clora_weight_options *options, cl_uint wait_count,
                                           const cl_event *wait_list, cl_event *event);
CLORA_API clora_status clora_enqueue_unmerge(cl_command_queue queue, clora_merge *merge,
                                             cl_uint wait_count, const cl_event *wait_list,
                                             cl_event *event);

/* Which gradients backward computes: those that are not NULL, dx in the dtype of dy, the others f32
 * and row-major. */
typedef struct clora_backward_options {
  const clora_matrix *dx;     /* [rows, d_in] */
  const clora_matrix *da;     /* [d_in, r] */
  const clora_matrix *db;     /* [r, d_out] */
  const clora_matrix *dscale; /* [1, 1] */
  bool accumulate;            /* da, db and dscale are added to what is there */
  bool accumulate_dx;         /* dx too */
  bool dx_replaces_x;         /* dx is the view x: x is read to its end before it is overwritten */
  const clora_matrix *t;      /* as forward wrote it, f32 [rows, r]; NULL: computed from x again */
  cl_mem scratch;             /* as in clora_forward_options */
  size_t scratch_offset_bytes;
} clora_backward_options;

/* The gradients of a loss, given its gradient dy [rows, d_out] by y:
 *
 *   dt[i,j]    = sum over o of dy[i,o] * B[j,o]
 *   dx[i,k]  (+)= scale * sum over j of dt[i,j] * A[k,j]
 *   dA[k,j]  (+)= scale * sum over i of x[i,k] * dt[i,j]
 *   dB[j,o]  (+)= scale * sum over i of t[i,j] * dy[i,o]
 *   dscale   (+)= sum over i and j of t[i,j] * dt[i,j]
 *
 * (the chain rule on y = scale * (x A) B). The gradient of alpha is dscale / r, or dscale /
 * sqrt(r). x [rows, d_in] has the dtype of dy and may be NULL when neither da nor t is to be
 * computed from it. Outputs overlap neither inputs nor each other. Without rows da, db and dscale
 * become zero unless they accumulate. */
CLORA_API clora_status clora_enqueue_backward(cl_command_queue queue, clora_layer *layer,
                                              const clora_matrix *x, const clora_matrix *dy,
                                              const clora_backward_options *options,
                                              cl_uint wait_count, const cl_event *wait_list,
                                              cl_event *event);

/* Bytes of scratch that the call with these arguments needs, whatever variant serves it. Builds
 * nothing; `mem` of the matrices may be NULL. */
CLORA_API clora_status clora_forward_workspace(const clora_layer *layer, const clora_matrix *x,
                                               const clora_matrix *y,
                                               const clora_forward_options *options, size_t *bytes);
CLORA_API clora_status clora_weight_workspace(const clora_layer *layer, const clora_matrix *w,
                                              const clora_weight_options *options, size_t *bytes);
CLORA_API clora_status clora_backward_workspace(const clora_layer *layer, const clora_matrix *x,
                                                const clora_matrix *dy,
                                                const clora_backward_options *options,
                                                size_t *bytes);

/* Build and check what the call with these arguments needs; `mem` of the matrices may be NULL.
 * Blocks until done. CLORA_UNSUPPORTED when no variant of the context fits the problem,
 * CLORA_NO_VARIANT when those that do were refused on this device. */
CLORA_API clora_status clora_prepare_forward(clora_layer *layer, const clora_matrix *x,
                                             const clora_matrix *y,
                                             const clora_forward_options *options);
CLORA_API clora_status clora_prepare_weight(clora_layer *layer, const clora_matrix *w,
                                            const clora_weight_options *options);
CLORA_API clora_status clora_prepare_backward(clora_layer *layer, const clora_matrix *x,
                                              const clora_matrix *dy,
                                              const clora_backward_options *options);

/* Write a text that says which variant serves the call with these arguments and why the others do
 * not, from the verdicts known so far. One line per product and variant, best first:
 *   PRODUCT VARIANT: serves (...) | stands by: VARIANT serves | yields: WHY | does not fit: WHY
 *                    | refused: WHY
 * and below the one that serves an indented line for each knob that can be tuned: its value, and
 * the rule or the tuning that it comes from. Of backward a line with the name of what each product
 * gives stands above its lines: t, dt, dB, dA, dx. At most `size` bytes with the final NUL; longer
 * texts are cut. Builds nothing. */
CLORA_API clora_status clora_explain_forward(const clora_layer *layer, const clora_matrix *x,
                                             const clora_matrix *y,
                                             const clora_forward_options *options, char *text,
                                             size_t size);
CLORA_API clora_status clora_explain_weight(const clora_layer *layer, const clora_matrix *w,
                                            const clora_weight_options *options, char *text,
                                            size_t size);
CLORA_API clora_status clora_explain_backward(const clora_layer *layer, const clora_matrix *x,
                                              const clora_matrix *dy,
                                              const clora_backward_options *options, char *text,
                                              size_t size);

/* Tuning: kernels have knobs whose rules ask what the device reports; what it reports is not all
 * there is. These functions measure other values and keep what is faster, in the context and in the
 * store, for problems of the same class: the same dtypes, and the same sizes when rows are rounded
 * up to a power of four and the others to a power of two. No knob that is tuned changes a bit of
 * the result. */

/* Told what is measured now, or, is_result, what came out for one product. False stops the tuning,
 * which keeps what it found. `message` is valid during the call. */
typedef bool (*clora_tune_function)(bool is_result, const char *message, void *user);

typedef struct clora_tune_options {
  double seconds; /* stop after about so long; 0: 60 */
  clora_tune_function progress;
  void *user;
} clora_tune_options;

/* Tunes the call with these arguments; `mem` of the matrices may be NULL. Blocks, on buffers of its
 * own; measures in turns and keeps a value only when its kernel passed its check and the 95 %
 * interval of its gain lies above 1. *found, which may be NULL, is how many products gained.
 * options, but for backward's, and tune may be NULL. clora_check_store() says whether they are kept
 * in the store, too. */
CLORA_API clora_status clora_tune_forward(clora_layer *layer, const clora_matrix *x,
                                          const clora_matrix *y,
                                          const clora_forward_options *options,
                                          const clora_tune_options *tune, size_t *found);
CLORA_API clora_status clora_tune_weight(clora_layer *layer, const clora_matrix *w,
                                         const clora_weight_options *options,
                                         const clora_tune_options *tune, size_t *found);
CLORA_API clora_status clora_tune_backward(clora_layer *layer, const clora_matrix *x,
                                           const clora_matrix *dy,
                                           const clora_backward_options *options,
                                           const clora_tune_options *tune, size_t *found);

/* Write what the context knows of tuning as a JSON file, or read one: entries that the store keeps
 * for this device and driver, and those found since. Reading takes all or nothing: an entry with a
 * kernel, a knob or a value that this library or device does not have is CLORA_BAD_FILE, and the
 * message names it. A file says where it was measured (device, platform, device_version, driver);
 * elsewhere it is taken with a warning in the log, and its kernels are checked before they serve.
 * *count, which may be NULL, is the number of entries. */
CLORA_API clora_status clora_tuning_save(clora_context *context, const char *path, size_t *count);
CLORA_API clora_status clora_tuning_load(clora_context *context, const char *path, size_t *count);

/* ---- 6 the definition on the host ------------------------------------------------------------
 *
 * The operations as plain loops in float64, with a bound on the error that a correct f32
 * computation of the same stored values may have. All arrays are dense host memory. */

typedef struct clora_reference {
  size_t rows, d_in, r, d_out;
  const float *x, *a, *b; /* [rows, d_in], [d_in, r], [r, d_out] */
  double scale, beta;
  const float *y_before;   /* [rows, d_out]; read when beta is not 0 */
  clora_dtype dtype;       /* of the stored y: its rounding is part of the bound */
  int rounded_inputs;      /* how many of x, A and B the device holds rounded to dtype, 0 to 3; the
                              arrays here are then the unrounded ones */
  bool flushes_subnormals; /* !clora_device.keeps_subnormals */
} clora_reference;

/* y [rows, d_out] and bound [rows, d_out], either may be NULL. The bound is derived, not chosen:
 * gamma(k) = k u / (1 - k u) with u = 2^-24 and k the number of roundings on the longest path
 * (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1). */
CLORA_API clora_status clora_reference_forward(const clora_reference *problem, double *y,
                                               double *bound);

/* The largest |value - expected| / bound over `count` elements; infinite when a value that should
 * be finite is not, or the other way round. At most 1 means correct. */
CLORA_API double clora_reference_error(size_t count, const float *values, const double *expected,
                                       const double *bound, clora_dtype dtype);

/* ---- 7 arrays in .npy files ------------------------------------------------------------------
 *
 * Host arrays of f32, little-endian, C order. */

#define CLORA_ARRAY_RANK 8

typedef struct clora_array {
  size_t rank, shape[CLORA_ARRAY_RANK];
  size_t count;   /* the product of the shape: 1 for rank 0 */
  float *values;  /* owned by the array when it was loaded */
  size_t rounded; /* of a file of f8: how many values f32 does not hold and are rounded */
} clora_array;

/* Reads f2, f4, f8, u1, i4 or i8 (rounded to f32), header versions 1 to 3. Release with
 * clora_array_free(). *array is untouched after a failure. */
CLORA_API clora_status clora_array_load(const char *path, clora_array *array);

/* Reads i4 or i8 for clora_enqueue_embedding(): *ids [shape->count], which free() releases; an id
 * that is not below `limit` is an error that names it. *shape has no values. */
CLORA_API clora_status clora_array_load_ids(const char *path, size_t limit, clora_array *shape,
                                            int32_t **ids);

/* Writes f4 under a temporary name, syncs, and renames: the path holds the old file or the new. */
CLORA_API clora_status clora_array_save(const char *path, const clora_array *array);

/* Frees the values and empties the array. */
CLORA_API void clora_array_free(clora_array *array);

/* ---- 8 adapters ------------------------------------------------------------------------------
 *
 * An adapter is what an adapter file holds: named layers, on the host, and whatever else stood in
 * the file. The formats:
 *   peft   a folder with adapter_config.json and adapter_model.safetensors
 *   kohya  one .safetensors file with lora_down, lora_up and alpha for every module
 *   gguf   one .gguf file, llama.cpp's
 *   npy    one layer: A [d_in, r] in NAME.A.npy and B [r, d_out] in NAME.B.npy, unscaled; bf16 is
 *          written as f4, because numpy has none
 * Names of layers are kept as the file spells them; clora_adapter_rename() translates them. */

typedef struct clora_adapter clora_adapter;

typedef enum clora_layer_kind {
  CLORA_LINEAR,
  CLORA_EMBEDDING, /* x is ids, and d_in how many there are: t is the rows of A that they name */
  CLORA_POINTWISE  /* a 1x1 convolution: a linear layer whose rows are pixels */
} clora_layer_kind;

typedef struct clora_adapter_layer {
  const char *name; /* the module, "encoder.layer.0.attention.self.query"; owned by the adapter */
  size_t d_in, d_out, r;
  clora_dtype dtype; /* holds the values of both A and B exactly */
  clora_scale_mode mode;
  double alpha, scale; /* an alpha of 0 is 0 here, not left out */
  clora_layer_kind kind;
  clora_dtype a_dtype, b_dtype; /* as stored in the file */
  bool a_is_q8_0, b_is_q8_0; /* stored in GGUF's 8 bits, whose values f32, the dtype then, holds */
  bool has_bias;             /* B has a bias [d_out]: y += scale * bias (PEFT's lora_bias) */
  bool has_magnitude;        /* DoRA: see clora_adapter_dora() */
  bool base_transposed; /* the base keeps this W as [d_in, d_out], not PyTorch's [d_out, d_in]. Of a
                           PEFT adapter this is its fan_in_fan_out, one word for all layers: one
                           over Conv1D and Linear layers alike does not say which is which, and of
                           a square W, whose shape does not tell, this may be wrong; see
                           clora_adapter_transpose_base() */
} clora_adapter_layer;

/* A tensor that belongs to no layer: one of the base that was trained whole (modules_to_save, the
 * biases of "bias": "all"), or the base's own under an adapted layer, as PEFT saves an adapted
 * embedding's. It is carried along to files of the same format, byte for byte. */
typedef struct clora_adapter_tensor {
  const char *name;  /* the base's, which it replaces: "score.weight"; owned by the adapter */
  const char *dtype; /* as safetensors spells it: "F32" */
  size_t rank, shape[8];
  size_t bytes;
  bool is_base_copy; /* it is the base's, not trained: it replaces nothing, and sums and formats
                        that have no place for it leave it out */
} clora_adapter_tensor;

typedef struct clora_load_options {
  const char *name;  /* which adapter, where several lie in one file or in folders of their names */
  bool changed_base; /* take adapters that are right only over a base that their training changed
                        (PiSSA, OLoRA and others); without it they are refused */
} clora_load_options;

/* What saving as GGUF did beside writing what the adapter holds. */
typedef struct clora_save_report {
  size_t folded;       /* layers whose B was multiplied by what the one alpha leaves of the scale */
  size_t rounded;      /* values of theirs that this rounded */
  const char *assumed; /* the architecture written, where nothing said one; NULL: one was said */
} clora_save_report;

typedef struct clora_save_options {
  const char *format;       /* "peft", "kohya", "gguf", "npy"; NULL: by the path's ending */
  const char *architecture; /* gguf: the base's general.architecture; NULL: "llama" */
  bool q8_0;                /* gguf: 8 bits where rows are a multiple of 32, else f16; without it
                               what is stored so stays so where that gives its values back */
  bool fold; /* gguf has one alpha, an f32, for all layers: let what is left of a scale
                be multiplied into B, rounded; without it that is an error */
  clora_save_report *report; /* or NULL */
} clora_save_options;

/* Loads and checks the whole adapter; anything odd is an error that names the tensor. *adapter is
 * NULL after a failure. clora_adapter_load() has no options. */
CLORA_API clora_status clora_adapter_load(const char *path, clora_adapter **adapter);
CLORA_API clora_status clora_adapter_load_with(const char *path, const clora_load_options *options,
                                               clora_adapter **adapter);

/* An empty adapter. */
CLORA_API clora_status clora_adapter_create(clora_adapter **adapter);

/* Adds a layer under a name that the adapter does not have: a copy of one on a device (blocking, as
 * clora_layer_read_a()), or a new one from options as for clora_layer_create(), drawn or with host
 * values, which needs no device. Values must be finite. */
CLORA_API clora_status clora_adapter_add(clora_adapter *adapter, const char *name,
                                         const clora_layer *layer);
CLORA_API clora_status clora_adapter_add_new(clora_adapter *adapter, const char *name,
                                             const clora_layer_options *options);

/* Says how the base keeps the W of a linear layer, see clora_adapter_layer; as added: not so. */
CLORA_API clora_status clora_adapter_transpose_base(clora_adapter *adapter, size_t index,
                                                    bool transposed);

/* Says with which dropout it was trained, 0 <= p < 1: a PEFT config's lora_dropout. */
CLORA_API clora_status clora_adapter_note_dropout(clora_adapter *adapter, double p);

/* Writes the adapter: as .gguf, .safetensors (kohya) or .npy by the path's ending, without one (or
 * where there is a folder) as a PEFT folder; other endings (".bin") are an error. Every file is
 * complete on disk before it takes its place. Where a format has two, the old ones leave before the
 * new ones come: a process that is killed in that moment leaves a folder without
 * adapter_config.json, or no NAME.A.npy, which readers refuse, never old and new mixed. What the
 * format cannot hold is refused by name. */
CLORA_API clora_status clora_adapter_save(const clora_adapter *adapter, const char *path);
CLORA_API clora_status clora_adapter_save_with(const clora_adapter *adapter, const char *path,
                                               const clora_save_options *options);

CLORA_API void clora_adapter_destroy(clora_adapter *adapter);

CLORA_API size_t clora_adapter_count(const clora_adapter *adapter);
CLORA_API clora_status clora_adapter_describe(const clora_adapter *adapter, size_t index,
                                              clora_adapter_layer *layer);

typedef struct clora_rename_options {
  const char *from, *to;    /* "peft", "gguf" or "kohya" */
  const char *prefix;       /* of kohya names; NULL: "lora_unet_" */
  const char *architecture; /* of GGUF; NULL: what a GGUF file said, else "llama" */
  size_t heads, kv_heads;   /* of the base's attention; needed for q and k of llama's family, whose
                               rows llama.cpp reorders; kv_heads 0: as many as heads */
} clora_rename_options;

/* Translates the names of all layers from one format's spelling into another's: PEFT's
 * "model.layers.0.self_attn.q_proj", GGUF's "blk.0.attn_q" (B's columns of q and k move with the
 * name where llama.cpp keeps them in another order), kohya's "lora_unet_..." with _ for each dot.
 * Back from kohya's only where the file was written so: it keeps the dotted names in its metadata,
 * as a GGUF file keeps whether PEFT's had no "model." in front.
 * CLORA_UNSUPPORTED names a layer for which no other name is known. */
CLORA_API clora_status clora_adapter_rename(clora_adapter *adapter,
                                            const clora_rename_options *options);

/* Rounds all values of the layers to what dtype holds, and has them saved so. *changed is how many
 * became another value; may be NULL. Refuses values that would become infinite. */
CLORA_API clora_status clora_adapter_convert(clora_adapter *adapter, clora_dtype dtype,
                                             size_t *changed);

/* "peft", "kohya", "gguf", "npy": what lies at the path, and what a path is saved as by default;
 * NULL when the path holds none of them, or has an ending that none is saved with: clora_error()
 * then says which there are. */
CLORA_API const char *clora_adapter_format(const char *path);
CLORA_API const char *clora_adapter_format_of(const char *path);

/* Whose spelling the names of the layers have: "peft", "kohya" or "gguf"; NULL: anyone's, as of a
 * pair of .npy or an adapter made by clora_adapter_create(). */
CLORA_API const char *clora_adapter_spelling(const clora_adapter *adapter);

/* The tensors that are carried along. */
CLORA_API size_t clora_adapter_tensor_count(const clora_adapter *adapter);
CLORA_API clora_status clora_adapter_describe_tensor(const clora_adapter *adapter, size_t index,
                                                     clora_adapter_tensor *tensor);

/* How many values of layers were rounded to f32: those that stood in the file as f64, or, of a sum,
 * those of B that were multiplied. */
CLORA_API size_t clora_adapter_rounded(const clora_adapter *adapter);

/* "pissa", "olora": the initialisation that changed the base, over which alone the adapter is
 * right; NULL when none did. */
CLORA_API const char *clora_adapter_changed_base(const clora_adapter *adapter);

/* The layer with this full name, or the only one whose name contains it; NULL: the only layer.
 * Otherwise an error that names the candidates. */
CLORA_API clora_status clora_adapter_find(const clora_adapter *adapter, const char *name,
                                          size_t *index);

/* Dense f32 values of A [d_in, r] and B [r, d_out]; either may be NULL. Of B's bias and of DoRA's
 * magnitude, [d_out] each: CLORA_INVALID_ARGUMENT where the layer has none. */
CLORA_API clora_status clora_adapter_read(const clora_adapter *adapter, size_t index, float *a,
                                          float *b);
CLORA_API clora_status clora_adapter_read_bias(const clora_adapter *adapter, size_t index,
                                               float *bias);
CLORA_API clora_status clora_adapter_read_magnitude(const clora_adapter *adapter, size_t index,
                                                    float *magnitude);

/* What DoRA multiplies each output by, over the base's w [d_in, d_out], dense:
 *
 *   factors[o] = magnitude[o] / |column o of w + scale A B|
 *   y[i,o]     = factors[o] * (sum over k of x[i,k] w[k,o] + scale * sum over j of t[i,j] B[j,o])
 *
 * and then the base's bias, unscaled (arXiv 2402.09353, as PEFT computes it). The norms come from
 * |w|^2 + 2 scale (w^T A) B + scale^2 B^T (A^T A) B in f64: no d_in x d_out product is formed.
 * Without a magnitude the factors are 1. CLORA_INVALID_ARGUMENT for a column of norm 0. */
CLORA_API clora_status clora_adapter_dora(const clora_adapter *adapter, size_t index,
                                          const float *w, double *factors);

/* Puts a layer on a device, stored as dtype: A, B and the scale. Refuses values that the dtype
 * would make infinite; and with CLORA_UNSUPPORTED layers that are more than that: those with a bias
 * or a magnitude. An embedding's is for clora_enqueue_embedding(). */
CLORA_API clora_status clora_adapter_layer_create(const clora_adapter *adapter, size_t index,
                                                  clora_context *context, clora_dtype dtype,
                                                  clora_layer **layer);

/* A layer that is more, in three steps on a device, each of which rounds y to its dtype:
 *
 *   y = x W                        clora_enqueue_linear() with the base's W
 *   y = y + scale * (x A) B        clora_enqueue_forward() with beta 1 and the low-rank part
 *   y = factors[o] * y + shifts[o] clora_enqueue_columns()
 *
 * clora_adapter_low_rank_create() is clora_adapter_layer_create() for every layer: A, B, the scale.
 * clora_adapter_columns() computes the factors and the shifts, in f64 and rounded once, with w as
 * the base keeps it: [d_out, d_in], or [d_in, d_out] where base_transposed says so; bias is the
 * base's, or NULL. Without a magnitude the factors are 1 and w is not read; with a bias of B alone,
 * the first step may be left out, and the shifts are scale * B's bias. */
CLORA_API clora_status clora_adapter_low_rank_create(const clora_adapter *adapter, size_t index,
                                                     clora_context *context, clora_dtype dtype,
                                                     clora_layer **layer);
CLORA_API clora_status clora_adapter_columns(const clora_adapter *adapter, size_t index,
                                             const float *w, const float *bias, float *factors,
                                             float *shifts);

/* y[i,o] = factors[o] * y[i,o] + shifts[o]; y [rows, d_out] row-major in any dtype, factors and
 * shifts f32 [1, d_out]. */
CLORA_API clora_status clora_enqueue_columns(cl_command_queue queue, clora_context *context,
                                             const clora_matrix *y, const clora_matrix *factors,
                                             const clora_matrix *shifts, cl_uint wait_count,
                                             const cl_event *wait_list, cl_event *event);
CLORA_API clora_status clora_prepare_columns(clora_context *context, clora_dtype dtype); /* of y */

/* Sums, ranks, and adapters from dense weights. */

typedef struct clora_combine_part {
  const clora_adapter *adapter;
  double weight; /* may be negative */
} clora_combine_part;

/* The weighted sum of adapters, whose names one format spells: each layer that any of them has, A
 * side by side and B one below the other, so that the ranks add up. The first part's B keeps its
 * values, the others' are multiplied by what their weight * scale differs by, and rounded to f32
 * (clora_adapter_rounded() says how many were); one adapter with weight 1 is itself. A tensor that
 * adapters trained whole is kept as it is, where theirs are the same and have weights that add up
 * to 1; else that is an error, because what it learned is not known without the base. The sum of
 * adapters over a changed base belongs to that base too, unless their weights cancel, or another
 * part has the weight that cancels them: PiSSA's conversion to the stock base is the trained
 * adapter less the initial one.
 */
CLORA_API clora_status clora_adapter_combine(const clora_combine_part *parts, size_t count,
                                             clora_adapter **combined);

typedef struct clora_rank_options {
  size_t r;     /* at most; 0: as the error says */
  double error; /* the smallest rank whose relative error |what is left out| / |all|, Frobenius
                   norms, is at most this; 0: as r says */
} clora_rank_options;

typedef struct clora_rank_report {
  size_t layers, largest_r;
  double error;            /* Frobenius norm of all that was left out */
  double largest_relative; /* of one layer, and which; owned by the adapter */
  const char *largest_layer;
  size_t skipped; /* by clora_base_extract() */
} clora_rank_report;

/* Replaces every layer's A and B by the nearest of another rank, scale 1 and f32, by QR of the
 * factors and the SVD of the r x r core in f64. What f32 rounds comes on top of the reported error.
 * A failure midway leaves the layers before it resized. */
CLORA_API clora_status clora_adapter_resize(clora_adapter *adapter,
                                            const clora_rank_options *options,
                                            clora_rank_report *report);

/* Adds the layer whose A B is nearest to tuned - base, both dense [d_in, d_out]. An SVD of the
 * whole difference: about 20 d_in d_out min(d_in, d_out) operations in f64 and three times its
 * memory. The report, which may be NULL, is added to. */
CLORA_API clora_status clora_adapter_extract(clora_adapter *adapter, const char *name, size_t d_in,
                                             size_t d_out, const float *base, const float *tuned,
                                             const clora_rank_options *options,
                                             clora_rank_report *report);

/* A dense matrix as the product of two thin ones: its truncated singular value decomposition, whose
 * first n columns of A and rows of B are its nearest of rank n, for every n up to r. */
typedef struct clora_compressed {
  size_t d_in, d_out, r;
  float *a, *b;   /* A [d_in, r] and B [r, d_out], dense */
  double *errors; /* [r + 1]: the Frobenius norm of w - A B cut at rank n; [0]: of w */
} clora_compressed;

/* Finds the nearest A B to w [d_in, d_out], dense host memory, by subspace iteration (Halko,
 * Martinsson, Tropp, arXiv 0909.4061): the products with w on the device, in f32, and LAPACK for
 * the QR and the SVD of what is r and a few columns wide. The error is within a few 1e-5 of the
 * best possible, and is measured: w - A B is formed on the device. What an error given in the
 * options cannot be reached with gets as many columns as w has. Blocking, on the context's private
 * queue. Memory: on the device w and 1.25 r (d_in + d_out) values, on the host about three times
 * that. Values must be finite. *compressed is empty after a failure; clora_compressed_free()
 * releases it, and empties it. */
CLORA_API clora_status clora_compress(clora_context *context, size_t d_in, size_t d_out,
                                      const float *w, const clora_rank_options *options,
                                      clora_compressed *compressed);
CLORA_API void clora_compressed_free(clora_compressed *compressed);

/* ---- 9 bases -----------------------------------------------------------------------------------
 *
 * A base is a model's safetensors files. Of them only headers are read until something is merged.
 */

typedef struct clora_base clora_base;

/* Opens files; or one index (model.safetensors.index.json), whose shards lie beside it; or one
 * folder with model.safetensors or its index. */
CLORA_API clora_status clora_base_open(const char *const *paths, size_t count, clora_base **base);
CLORA_API void clora_base_close(clora_base *base);

/* Reads one tensor (F32, F16, BF16 or F64) as f32, in the shape that the file gives it: PyTorch
 * keeps the W of a linear layer as [d_out, d_in]. Release with clora_array_free(). *array is
 * untouched after a failure. */
CLORA_API clora_status clora_base_read(const clora_base *base, const char *tensor,
                                       clora_array *array);

/* Whether the base has a tensor of exactly this name. */
CLORA_API bool clora_base_has(const clora_base *base, const char *name);

typedef enum clora_match_kind {
  CLORA_APPLIED, /* the base has its tensor, and it fits */
  CLORA_UNUSED,  /* the base has no such tensor, or several */
  CLORA_MISFIT   /* the base's tensor has another shape, a dtype that cannot be merged into, or
                    takes another layer or tensor of the adapter too */
} clora_match_kind;

typedef struct clora_match {
  clora_match_kind kind;
  const char *name;   /* the layer's or the carried tensor's; owned by the adapter */
  const char *tensor; /* the base's, and the file it lies in; owned by the base; may be NULL */
  const char *path;
  bool weight_fits;  /* the tensor is the layer's weight, also where its bias has no place */
  bool is_base_copy; /* it is the base's own (clora_adapter_tensor), and no tensor is changed: a
                        merge takes the base's */
  char reason[512];  /* of what is not applied */
} clora_match;

/* Where layer `index` belongs in the base; beyond clora_adapter_count() come the tensors that are
 * carried along. Names agree exactly, or but for components in front ("model."), or as kohya names;
 * one tensor alone must fit. */
CLORA_API clora_status clora_base_match(const clora_base *base, const clora_adapter *adapter,
                                        size_t index, clora_match *match);

typedef struct clora_merge_options {
  /* Called with how many bytes are done; false stops the merge, which then leaves nothing. */
  bool (*progress)(uint64_t done_bytes, uint64_t total_bytes, void *user);
  void *user;
} clora_merge_options;

typedef struct clora_merge_report {
  size_t layers, replaced; /* merged; tensors that were written instead of the base's */
  uint64_t elements;       /* of the merged weights and biases, and of those tensors */
  uint64_t unmoved;        /* of those: the adapter would change them, and rounding undid it */
  uint64_t not_finite;     /* infinities and NaN of the base in the weights and biases: they stay */
  double largest_loss;     /* |rounding| / |change|, Frobenius norms, of the weight, bias or tensor
                              that lost most */
  const char *largest_loss_layer; /* the layer's or its own name, owned by the adapter; NULL:
                                     nothing was lost */
  uint64_t bytes;                 /* written */
} clora_merge_report;

/* Writes the base with the adapter merged in: W + scale A B (and B's bias, and DoRA's factors) in
 * f64 with one rounding to the base's dtype, f32, f16 or bf16; tensors carried along instead of the
 * base's; everything else byte for byte, metadata included. A base of one file becomes the file
 * `path`, several shards (and their index) the folder `path`, which must not exist; of the endings
 * of files the former may have .safetensors alone, the latter none. The result
 * appears complete under its name or not at all. Memory: the adapter, the headers and about 1 MB.
 * Fails, before anything is written, unless every layer and tensor is CLORA_APPLIED, and where
 * `path` is a file of the base or one that the adapter was read from, also by another name. */
CLORA_API clora_status clora_base_merge(const clora_base *base, const clora_adapter *adapter,
                                        const char *path, const clora_merge_options *options,
                                        clora_merge_report *report);

/* A new adapter from two models: a layer for every matrix "NAME.weight" that differs, as
 * clora_adapter_extract(), one at a time. The tuned model has all tensors of the base. What differs
 * and is no such matrix (biases, norms, embeddings), and what the tuned model alone has, is counted
 * in report->skipped; the report may not be NULL. */
CLORA_API clora_status clora_base_extract(const clora_base *base, const clora_base *tuned,
                                          const clora_rank_options *options,
                                          clora_adapter **adapter, clora_rank_report *report);

/* ---- 10 training -----------------------------------------------------------------------------
 *
 * A training step is forward, a loss, backward and an optimizer's step, all enqueued; nothing of it
 * is read by the host. An optimizer owns the gradients, the moments and, for 16-bit parameters, f32
 * master values. Its steps on one optimizer are ordered by the caller: a queue or events. */

/* y = beta*y + x W + bias: a dense layer, trained or frozen, alone or under a LoRA layer whose
 * forward adds to y with beta 1. x [rows, d_in] and y [rows, d_out] have one dtype and are
 * row-major; w [d_in, d_out] in any dtype (PyTorch keeps it as [d_out, d_in]: say transposed); bias
 * [1, d_out] in any dtype, or NULL. With a bias, y is rounded to its dtype once before the product
 * is added. */
typedef struct clora_linear_options {
  float beta;               /* 0: y is written without being read */
  const clora_matrix *bias; /* [1, d_out]; NULL: none */
  cl_mem scratch;           /* as in clora_forward_options */
  size_t scratch_offset_bytes;
} clora_linear_options;

CLORA_API clora_status clora_enqueue_linear(cl_command_queue queue, clora_context *context,
                                            const clora_matrix *x, const clora_matrix *w,
                                            const clora_matrix *y,
                                            const clora_linear_options *options, cl_uint wait_count,
                                            const cl_event *wait_list, cl_event *event);
CLORA_API clora_status clora_linear_workspace(const clora_context *context, const clora_matrix *x,
                                              const clora_matrix *w, const clora_matrix *y,
                                              const clora_linear_options *options, size_t *bytes);
CLORA_API clora_status clora_prepare_linear(clora_context *context, const clora_matrix *x,
                                            const clora_matrix *w, const clora_matrix *y,
                                            const clora_linear_options *options);

/* Which gradients of the dense layer to compute: those that are not NULL, dx in the dtype of dy,
 * the others f32 and row-major. */
typedef struct clora_linear_backward_options {
  const clora_matrix *dx;    /* [rows, d_in]: dy W^T */
  const clora_matrix *dw;    /* [d_in, d_out]: x^T dy */
  const clora_matrix *dbias; /* [1, d_out]: the sums of the columns of dy */
  bool accumulate;           /* dw and dbias are added to what is there */
  bool accumulate_dx;        /* dx too */
  cl_mem scratch;
  size_t scratch_offset_bytes;
} clora_linear_backward_options;

/* x may be NULL without dw, w without dx. */
CLORA_API clora_status clora_enqueue_linear_backward(cl_command_queue queue, clora_context *context,
                                                     const clora_matrix *x, const clora_matrix *w,
                                                     const clora_matrix *dy,
                                                     const clora_linear_backward_options *options,
                                                     cl_uint wait_count, const cl_event *wait_list,
                                                     cl_event *event);
CLORA_API clora_status clora_linear_backward_workspace(const clora_context *context,
                                                       const clora_matrix *x, const clora_matrix *w,
                                                       const clora_matrix *dy,
                                                       const clora_linear_backward_options *options,
                                                       size_t *bytes);
CLORA_API clora_status clora_prepare_linear_backward(clora_context *context, const clora_matrix *x,
                                                     const clora_matrix *w, const clora_matrix *dy,
                                                     const clora_linear_backward_options *options);

/* The operations below take row-major matrices of one shape and dtype, in place where a view is
 * given twice. One kernel serves every shape of a dtype. */

typedef enum clora_activation {
  CLORA_RELU,     /* max(0, x); its gradient at 0 is 0 */
  CLORA_GELU_ERF, /* x/2 (1 + erf(x / sqrt 2)); arXiv 1606.08415 */
  CLORA_GELU_TANH /* x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) */
} clora_activation;

/* y = f(x), and dx = dy f'(x). */
CLORA_API clora_status clora_enqueue_activation(cl_command_queue queue, clora_context *context,
                                                clora_activation kind, const clora_matrix *x,
                                                const clora_matrix *y, cl_uint wait_count,
                                                const cl_event *wait_list, cl_event *event);
CLORA_API clora_status clora_enqueue_activation_backward(
    cl_command_queue queue, clora_context *context, clora_activation kind, const clora_matrix *x,
    const clora_matrix *dy, const clora_matrix *dx, cl_uint wait_count, const cl_event *wait_list,
    cl_event *event);
/* Of both. */
CLORA_API clora_status clora_prepare_activation(clora_context *context, clora_activation kind,
                                                clora_dtype dtype);

/* y = beta*y + x / (1 - p) for the elements that are kept, beta*y for the others, each dropped with
 * probability p. Which are kept follows from seed, call and the element's place in the matrix
 * alone, on every device: backward is the same operation on the gradient, and no mask is stored. */
typedef struct clora_dropout_options {
  double p;            /* at least 0, below 1 */
  uint64_t seed, call; /* of the run; of this layer in this step */
  float beta;
} clora_dropout_options;

CLORA_API clora_status clora_enqueue_dropout(cl_command_queue queue, clora_context *context,
                                             const clora_matrix *x, const clora_matrix *y,
                                             const clora_dropout_options *options,
                                             cl_uint wait_count, const cl_event *wait_list,
                                             cl_event *event);
CLORA_API clora_status clora_prepare_dropout(clora_context *context, clora_dtype dtype);

/* What a loss gives. */
typedef struct clora_loss_options {
  const clora_matrix *row_loss; /* f32 [rows, 1]: the loss of every row; must be given */
  const clora_matrix *loss;     /* f32 [1, 1]: their mean; NULL: not wanted */
  const clora_matrix *dy;       /* the gradient of the mean by y, as y; NULL: not wanted */
} clora_loss_options;

/* Mean squared error: the loss of a row is the mean over o of (y[i,o] - target[i,o])^2. */
CLORA_API clora_status clora_enqueue_mse(cl_command_queue queue, clora_context *context,
                                         const clora_matrix *y, const clora_matrix *target,
                                         const clora_loss_options *options, cl_uint wait_count,
                                         const cl_event *wait_list, cl_event *event);
CLORA_API clora_status clora_prepare_mse(clora_context *context, clora_dtype dtype); /* of y */

/* Softmax cross-entropy: log(sum over o of exp(y[i,o])) - y[i, labels[i]]. labels holds a cl_int a
 * row from element labels_offset on; one that is no column of y makes its row NaN. */
CLORA_API clora_status clora_enqueue_cross_entropy(cl_command_queue queue, clora_context *context,
                                                   const clora_matrix *y, cl_mem labels,
                                                   size_t labels_offset,
                                                   const clora_loss_options *options,
                                                   cl_uint wait_count, const cl_event *wait_list,
                                                   cl_event *event);
CLORA_API clora_status clora_prepare_cross_entropy(clora_context *context, clora_dtype dtype);

typedef enum clora_optimizer_kind {
  CLORA_ADAMW, /* Loshchilov and Hutter, arXiv 1711.05101 */
  CLORA_SGD    /* with momentum; decay is added to the gradient */
} clora_optimizer_kind;

/* What is trained. The buffer is retained and updated in place. */
typedef struct clora_parameter {
  clora_matrix value; /* any view and dtype, writable */
  double rate;        /* times the rate of the step; 0: 1. LoRA+ (arXiv 2402.12354): 16 for B */
  double decay;       /* weight decay */
  double multiple;    /* what is trained is multiple * value; 0: 1. r for a scale: alpha learns */
} clora_parameter;

typedef struct clora_optimizer_options {
  clora_optimizer_kind kind;
  double beta1, beta2; /* of AdamW; 0: 0.9 and 0.999 */
  double epsilon;      /* of AdamW; 0: 1e-8 */
  double momentum;     /* of SGD; with AdamW 0 */
  double clip_norm;    /* gradients are scaled so that their global norm is at most this; 0: not */
} clora_optimizer_options;

typedef struct clora_optimizer clora_optimizer;

/* Makes an optimizer of `count` parameters; moments begin at 0. options may be NULL. */
CLORA_API clora_status clora_optimizer_create(clora_context *context,
                                              const clora_optimizer_options *options,
                                              const clora_parameter *parameters, size_t count,
                                              clora_optimizer **optimizer);
CLORA_API void clora_optimizer_destroy(clora_optimizer *optimizer);

/* The gradient of a parameter: an f32 matrix of its shape, dense, for backward to write. */
CLORA_API clora_status clora_optimizer_gradient(const clora_optimizer *optimizer, size_t index,
                                                clora_matrix *gradient);

/* Updates every parameter from its gradient, with n the number of steps done before plus one, g the
 * gradient after clipping, and w what is trained:
 *
 *   AdamW   m = beta1 m + (1 - beta1) g        v = beta2 v + (1 - beta2) g^2
 *           w = w - rate decay w - rate (m / (1 - beta1^n)) / (sqrt(v / (1 - beta2^n)) + epsilon)
 *   SGD     m = momentum m + g + decay w       w = w - rate m
 *
 * The norm is that of all gradients together, computed on the device in f32. When it is not finite
 * (or above 1.8e19, whose square is not) the step is left out there and counted as skipped. */
CLORA_API clora_status clora_enqueue_step(cl_command_queue queue, clora_optimizer *optimizer,
                                          double rate, cl_uint wait_count,
                                          const cl_event *wait_list, cl_event *event);

/* Builds and checks the kernels of a step; blocking. */
CLORA_API clora_status clora_prepare_step(clora_optimizer *optimizer);

typedef struct clora_optimizer_report {
  uint64_t steps, skipped; /* done, and left out */
  double norm;             /* of the last gradients, before clipping */
} clora_optimizer_report;

/* Reads how far the optimizer is. Blocking, on the context's private queue: steps on other queues
 * must have finished. */
CLORA_API clora_status clora_optimizer_read(const clora_optimizer *optimizer,
                                            clora_optimizer_report *report);

/* Write the optimizer's state (moments, masters, numbers of steps) as a safetensors file, complete
 * or not at all, and read it into an optimizer of the same kind and parameters: with the
 * parameters' own values the next steps are then the same, bit for bit. Blocking, as
 * clora_optimizer_read(). load: the error names the tensor, and nothing has changed unless it is
 * CLORA_OPENCL_FAILURE. */
CLORA_API clora_status clora_optimizer_save(const clora_optimizer *optimizer, const char *path);
CLORA_API clora_status clora_optimizer_load(clora_optimizer *optimizer, const char *path);

/* A checkpoint is a folder step-000100 with the adapter as PEFT's two files (which load as any
 * adapter), optimizer.safetensors, state.json, and DONE, which has the sums of the others. */
typedef struct clora_checkpoint {
  uint64_t step;
  const clora_adapter *adapter;
  const clora_optimizer *optimizer;
  const char *state; /* the caller's text: where it is in its data, and what it was asked to do */
} clora_checkpoint;

/* Writes a checkpoint into `folder`, which is made if need be: aside, synced and renamed, so that
 * it is there whole or not at all, whenever the process ends. Blocking. An error when it is there.
 */
CLORA_API clora_status clora_checkpoint_save(const char *folder,
                                             const clora_checkpoint *checkpoint);

/* The newest complete checkpoint of a folder, which need not exist. */
CLORA_API clora_status clora_checkpoint_find(const char *folder, uint64_t *step, bool *found);

/* Reads a checkpoint: CLORA_BAD_FILE, which names the file, when one is missing or not as it was
 * written. */
CLORA_API clora_status clora_checkpoint_check(const char *folder, uint64_t step);

/* Removes the checkpoints of a folder but the newest `keep` (at least 1), those that are not
 * complete, and what writers of checkpoints and adapters left there when they were killed. Nobody
 * else may be writing there. */
CLORA_API clora_status clora_checkpoint_clean(const char *folder, size_t keep);

/* How the rate of a step changes. It rises linearly from 0 over warmup_steps; then it stays, or
 * falls to 0 at total_steps on a line or on half a cosine (Loshchilov and Hutter, arXiv
 * 1608.03983). */
typedef enum clora_schedule_kind {
  CLORA_RATE_CONSTANT,
  CLORA_RATE_LINEAR,
  CLORA_RATE_COSINE
} clora_schedule_kind;

typedef struct clora_schedule {
  clora_schedule_kind kind;
  double rate; /* the highest */
  uint64_t warmup_steps;
  uint64_t total_steps; /* of those that fall, above warmup_steps: from it on the rate is 0 */
} clora_schedule;

/* The rate of step 0, 1, ... */
CLORA_API double clora_schedule_rate(const clora_schedule *schedule, uint64_t step);

/* Takes the scale that the device holds over into what clora_layer_describe() tells and adapters
 * save, after it was trained; alpha follows by the layer's mode. Blocking, as
 * clora_layer_read_scale(). */
CLORA_API clora_status clora_layer_refresh_scale(clora_layer *layer);

#ifdef __cplusplus
}
#endif

#endif /* CLORA_H */
