/* The ceilings of a device, measured where the cases are measured. Opening a gauge tries vector
 * widths and ways to divide the work, and keeps the fastest of each; measuring takes a few
 * milliseconds, so that every round of every case has ceilings of its own.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

extern const char clora__source_ceilings[]; /* ceilings.cl, embedded by the build */

#define FMA_CHAINS 12
#define FMA_START                                                                 \
  1.0f /* a chain begins here, then every step adds: exact, and it can be checked \
        */
#define FMA_ADDEND 0x1p-16f
#define TRIALS 5
#define LAUNCHES 16
#define LEAST_SECONDS 2e-3 /* of one measurement: far above the launch, far below a round */
#define MOST_STEPS 32764   /* of a work-item; llvmpipe ends every loop after 65535 */
#define WIDTHS 5

const struct bench_ceiling_about bench_ceilings[BENCH_CEILINGS] = {
    [BENCH_READ_RATE] = {"read", "B/s", "streaming read"},
    [BENCH_COPY_RATE] = {"copy", "B/s", "streaming copy, bytes read and written"},
    [BENCH_FMA_RATE] = {"fma", "flop/s", "multiply-add in registers"},
    [BENCH_EMPTY] = {"empty", "s", "empty launch to its completion"},
};

/* Ways to divide the work: CPUs want few work-items that walk contiguous memory, GPUs many that
 * share lines. */
static const struct division {
  size_t items_per_unit, group;
  bool is_contiguous;
} divisions[] = {
    {1, 1, true},     {4, 1, true},       {16, 1, true},
    {512, 64, false}, {1024, 256, false}, {4096, 256, false},
};

struct choice {
  unsigned width;
  struct division division;
  cl_kernel kernel;
  size_t steps, waves; /* of a work-item, and how many of them in a measurement */
};

struct bench_gauge {
  const struct bench_device *device;
  cl_program programs[WIDTHS];
  cl_kernel kernels[WIDTHS][BENCH_CEILINGS];
  cl_mem source, target; /* the arena's size each */
  size_t at;             /* where in them the next slice begins, in bytes */
  double end;            /* of trying ways to measure a ceiling */
  struct choice choices[BENCH_CEILINGS];
  char text[BENCH_CEILINGS][64];
};

static const unsigned widths[WIDTHS] = {1, 2, 4, 8, 16};

/* Never zeros: memory may be compressed, and arithmetic on zeros takes less power. */
static const float pattern[16] = {0.7f,  -0.4f, 0.9f,   0.3f,  -0.8f,  0.5f,  -0.6f, 0.35f,
                                  0.45f, 0.95f, -0.55f, 0.65f, -0.75f, 0.85f, 0.28f, -0.33f};

static double pattern_mean(void) {
  double sum = 0;
  for (size_t i = 0; i < BENCH_COUNT(pattern); i++) sum += (double)pattern[i];
  return sum / BENCH_COUNT(pattern);
}

/* ---- launching ---- */

static bool launch(struct bench_gauge *gauge, cl_kernel kernel, size_t items, size_t group) {
  cl_command_queue queue = gauge->device->queue;
  return clEnqueueNDRangeKernel(queue, kernel, 1, NULL, &items, &group, 0, NULL, NULL) ==
             CL_SUCCESS &&
         clFinish(queue) == CL_SUCCESS;
}

static size_t count_items(const struct bench_gauge *gauge, const struct choice *choice) {
  return choice->waves * choice->division.items_per_unit * gauge->device->about.compute_units;
}

/* Moves `steps` vectors a work-item; the slice rotates through the buffers, as cold data do. */
static double stream(struct bench_gauge *gauge, cl_kernel kernel, const struct choice *choice) {
  size_t items = count_items(gauge, choice);
  size_t vector_bytes = choice->width * sizeof(float);
  size_t bytes = items * choice->steps * vector_bytes;
  if (gauge->at + bytes > gauge->device->arena_bytes) gauge->at = 0;
  cl_ulong offset = gauge->at / vector_bytes;
  bool contiguous = choice->division.is_contiguous;
  cl_uint steps = (cl_uint)choice->steps, stride = contiguous ? 1 : (cl_uint)items;
  cl_uint spread = contiguous ? steps : 1;
  gauge->at += bytes;
  clSetKernelArg(kernel, 0, sizeof(cl_mem), &gauge->source);
  clSetKernelArg(kernel, 1, sizeof(cl_mem), &gauge->target);
  clSetKernelArg(kernel, 2, sizeof offset, &offset);
  clSetKernelArg(kernel, 3, sizeof steps, &steps);
  clSetKernelArg(kernel, 4, sizeof stride, &stride);
  clSetKernelArg(kernel, 5, sizeof spread, &spread);
  double start = bench_seconds();
  if (!launch(gauge, kernel, items, choice->division.group)) return -1;
  return (double)bytes / (bench_seconds() - start);
}

static double measure_read(struct bench_gauge *gauge, const struct choice *choice) {
  return stream(gauge, choice->kernel, choice);
}

static double measure_copy(struct bench_gauge *gauge, const struct choice *choice) {
  return 2 * stream(gauge, choice->kernel, choice);
}

static double measure_fma(struct bench_gauge *gauge, const struct choice *choice) {
  size_t items = count_items(gauge, choice);
  float values[] = {FMA_START, 1.0f, FMA_ADDEND};
  cl_uint steps = (cl_uint)choice->steps;
  clSetKernelArg(choice->kernel, 0, sizeof(cl_mem), &gauge->target);
  for (cl_uint i = 0; i < 3; i++) clSetKernelArg(choice->kernel, i + 1, sizeof(float), &values[i]);
  clSetKernelArg(choice->kernel, 4, sizeof steps, &steps);
  double start = bench_seconds();
  if (!launch(gauge, choice->kernel, items, choice->division.group)) return -1;
  double flops = 2.0 * FMA_CHAINS * choice->width * (double)items * (double)choice->steps;
  return flops / (bench_seconds() - start);
}

static double measure_empty(struct bench_gauge *gauge, const struct choice *choice) {
  double times[LAUNCHES];
  clSetKernelArg(choice->kernel, 0, sizeof(cl_mem), &gauge->target);
  for (size_t i = 0; i < LAUNCHES; i++) {
    double start = bench_seconds();
    if (!launch(gauge, choice->kernel, 1, 1)) return -1;
    times[i] = bench_seconds() - start;
  }
  return bench_quantile(LAUNCHES, times, 0.5);
}

static double (*const measures[BENCH_CEILINGS])(struct bench_gauge *, const struct choice *) = {
    [BENCH_READ_RATE] = measure_read,
    [BENCH_COPY_RATE] = measure_copy,
    [BENCH_FMA_RATE] = measure_fma,
    [BENCH_EMPTY] = measure_empty,
};

/* ---- choosing ---- */

/* Whether the buffers have room for it. */
static bool has_room(const struct bench_gauge *gauge, const struct choice *choice) {
  size_t vectors = count_items(gauge, choice) * choice->steps;
  return vectors <= gauge->device->arena_bytes / (choice->width * sizeof(float));
}

/* The next larger measurement: more steps, then more work-items. */
static struct choice enlarge(struct choice choice) {
  if (choice.steps * 4 <= MOST_STEPS) {
    choice.steps *= 4;
  } else {
    choice.waves *= 2;
  }
  return choice;
}

/* Large enough that a measurement lasts. */
static bool size_choice(struct bench_gauge *gauge, enum bench_ceiling ceiling,
                        struct choice *choice) {
  choice->steps = 4;
  choice->waves = 1;
  if (!has_room(gauge, choice)) return false;
  for (;;) {
    double start = bench_seconds();
    if (measures[ceiling](gauge, choice) < 0) return false;
    struct choice larger = enlarge(*choice);
    bool fits = has_room(gauge, &larger) || ceiling == BENCH_FMA_RATE;
    if (bench_seconds() - start > LEAST_SECONDS || !fits) return true;
    *choice = larger;
  }
}

/* Whether the device did what it was timed at, by the sum of what the work-items wrote. */
static bool is_right(const struct bench_gauge *gauge, enum bench_ceiling ceiling,
                     const struct choice *choice) {
  size_t lanes = count_items(gauge, choice) * choice->width;
  double sum = 0, wanted = 0;
  if (ceiling == BENCH_COPY_RATE) return true; /* leaves nothing that was not there before */
  float *values = malloc(lanes * sizeof *values);
  if (values == NULL) return false;
  bool worked = clEnqueueReadBuffer(gauge->device->queue, gauge->target, CL_TRUE, 0,
                                    lanes * sizeof *values, values, 0, NULL, NULL) == CL_SUCCESS;
  for (size_t i = 0; i < lanes; i++) sum += (double)values[i];
  free(values);
  for (int i = 0; i < FMA_CHAINS; i++) {
    wanted += (double)FMA_START + i * 0.01 + (double)FMA_ADDEND * (double)choice->steps;
  }
  if (ceiling == BENCH_READ_RATE) wanted = pattern_mean() * (double)choice->steps;
  return worked && fabs(sum / (double)lanes - wanted) < 0.01 * wanted;
}

static double try_choice(struct bench_gauge *gauge, enum bench_ceiling ceiling,
                         struct choice *choice) {
  double rates[TRIALS];
  if (choice->division.group > gauge->device->about.group_size) return -1;
  if (!size_choice(gauge, ceiling, choice)) return -1;
  for (size_t i = 0; i < TRIALS; i++) rates[i] = measures[ceiling](gauge, choice);
  if (!is_right(gauge, ceiling, choice)) return -1;
  return bench_quantile(TRIALS, rates, 0.5);
}

/* The index of the i-th width to try: from the device's own down, then those above. */
static size_t width_at(const struct bench_gauge *gauge, size_t i) {
  size_t own = 0;
  while (own + 1 < WIDTHS && widths[own] < gauge->device->about.vector_width) own++;
  return i <= own ? own - i : i;
}

static void choose(struct bench_gauge *gauge, enum bench_ceiling ceiling) {
  double best = 0;
  for (size_t i = 0; i < WIDTHS; i++) {
    size_t w = width_at(gauge, i);
    for (size_t d = 0; d < BENCH_COUNT(divisions); d++) {
      if (best > 0 && bench_seconds() > gauge->end) return;
      struct choice choice = {widths[w], divisions[d], gauge->kernels[w][ceiling], 0, 1};
      double rate = try_choice(gauge, ceiling, &choice);
      if (rate <= best) continue;
      best = rate;
      gauge->choices[ceiling] = choice;
      snprintf(gauge->text[ceiling], sizeof *gauge->text, "float%u, %zu items a unit, group %zu",
               choice.width, choice.division.items_per_unit, choice.division.group);
    }
  }
}

/* ---- opening ---- */

static bool build(struct bench_gauge *gauge, size_t w) {
  static const char *const names[BENCH_CEILINGS] = {"ceilings_read", "ceilings_copy",
                                                    "ceilings_fma", "ceilings_empty"};
  const char *source = clora__source_ceilings;
  const struct bench_device *device = gauge->device;
  char options[64];
  cl_int code;
  snprintf(options, sizeof options, "-cl-mad-enable -DWIDTH=%u", widths[w]);
  gauge->programs[w] = clCreateProgramWithSource(device->opencl, 1, &source, NULL, &code);
  if (code != CL_SUCCESS) return false;
  if (clBuildProgram(gauge->programs[w], 1, &device->about.id, options, NULL, NULL) != CL_SUCCESS) {
    return false;
  }
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    gauge->kernels[w][i] = clCreateKernel(gauge->programs[w], names[i], &code);
    if (code != CL_SUCCESS) return false;
  }
  return true;
}

static bool fill_source(struct bench_gauge *gauge) {
  cl_command_queue queue = gauge->device->queue;
  size_t bytes = gauge->device->arena_bytes / sizeof pattern * sizeof pattern;
  return clEnqueueFillBuffer(queue, gauge->source, pattern, sizeof pattern, 0, bytes, 0, NULL,
                             NULL) == CL_SUCCESS &&
         clEnqueueFillBuffer(queue, gauge->target, pattern, sizeof pattern, 0, bytes, 0, NULL,
                             NULL) == CL_SUCCESS &&
         clFinish(queue) == CL_SUCCESS;
}

static int open_gauge(struct bench_gauge *gauge, double seconds) {
  cl_int code, target_code;
  for (size_t w = 0; w < WIDTHS; w++) {
    if (!build(gauge, w))
      return bench_fail(BENCH_FAILURE, "the kernels of the ceilings do not build");
  }
  cl_context opencl = gauge->device->opencl;
  size_t bytes = gauge->device->arena_bytes;
  gauge->source = clCreateBuffer(opencl, CL_MEM_READ_WRITE, bytes, NULL, &code);
  gauge->target = clCreateBuffer(opencl, CL_MEM_READ_WRITE, bytes, NULL, &target_code);
  if (code != CL_SUCCESS || target_code != CL_SUCCESS || !fill_source(gauge)) {
    return bench_fail(BENCH_FAILURE, "no device memory for the ceilings");
  }
  for (int i = 0; i < BENCH_EMPTY; i++) {
    gauge->end = bench_seconds() + seconds / BENCH_EMPTY;
    choose(gauge, (enum bench_ceiling)i);
  }
  gauge->choices[BENCH_EMPTY].kernel = gauge->kernels[0][BENCH_EMPTY];
  snprintf(gauge->text[BENCH_EMPTY], sizeof *gauge->text, "median of %d", LAUNCHES);
  for (int i = 0; i < BENCH_CEILINGS; i++) {
    if (gauge->choices[i].kernel == NULL)
      return bench_fail(BENCH_FAILURE, "no ceiling: %s", bench_ceilings[i].title);
  }
  return BENCH_OK;
}

int bench_gauge_open(const struct bench_device *device, double seconds,
                     struct bench_gauge **gauge) {
  *gauge = calloc(1, sizeof **gauge);
  if (*gauge == NULL) return bench_fail(BENCH_FAILURE, "no memory");
  (*gauge)->device = device;
  return open_gauge(*gauge, seconds);
}

void bench_gauge_close(struct bench_gauge *gauge) {
  if (gauge == NULL) return;
  for (size_t w = 0; w < WIDTHS; w++) {
    for (int i = 0; i < BENCH_CEILINGS; i++) {
      if (gauge->kernels[w][i] != NULL) clReleaseKernel(gauge->kernels[w][i]);
    }
    if (gauge->programs[w] != NULL) clReleaseProgram(gauge->programs[w]);
  }
  if (gauge->source != NULL) clReleaseMemObject(gauge->source);
  if (gauge->target != NULL) clReleaseMemObject(gauge->target);
  free(gauge);
}

double bench_gauge_measure(struct bench_gauge *gauge, enum bench_ceiling ceiling) {
  return measures[ceiling](gauge, &gauge->choices[ceiling]);
}

const char *bench_gauge_choice(const struct bench_gauge *gauge, enum bench_ceiling ceiling) {
  return gauge->text[ceiling];
}
