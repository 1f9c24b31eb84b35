/* A device, and the memory that an engine computes on: one arena filled with copies ("sets") of a
 * case's operands. Cold calls go round the sets, so that a set comes again only after more bytes
 * than the last-level cache holds twice were touched; warm calls stay on one set.
 * SPDX-License-Identifier: Apache-2.0 */
#include "bench.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGNMENT 256 /* of an operand: what every device wants, and more than a cache line */
#define CHUNK 4096    /* values drawn at once */
#define MOST_SETS 4096

bool bench_unable(struct bench_stage *stage, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(stage->why, sizeof stage->why, format, arguments);
  va_end(arguments);
  return false;
}

/* ---- a device ---- */

static size_t measure_host_cache(void) {
  long bytes = 0;
#ifdef _SC_LEVEL3_CACHE_SIZE
  bytes = sysconf(_SC_LEVEL3_CACHE_SIZE);
#endif
  return bytes > (16 << 20) ? (size_t)bytes : 16u << 20; /* where nothing is known */
}

static size_t measure_cache(const clora_device *about) {
  cl_ulong reported = 0;
  bool is_cpu = about->type & CL_DEVICE_TYPE_CPU;
  size_t least = is_cpu ? measure_host_cache() : 64u << 20; /* GPUs may report their first level */
  clGetDeviceInfo(about->id, CL_DEVICE_GLOBAL_MEM_CACHE_SIZE, sizeof reported, &reported, NULL);
  return reported > least ? (size_t)reported : least;
}

/* Twice the cache, but no more than a share of the memory: every peer has an arena of its own. On
 * GPUs much more, so that streaming through it takes longer than the launch. */
static size_t choose_arena(const clora_device *about, size_t cache_bytes) {
  uint64_t bytes = 2 * (uint64_t)cache_bytes, most = about->memory_bytes / 40;
  if (!(about->type & CL_DEVICE_TYPE_CPU) && bytes < (4ull << 30)) bytes = 4ull << 30;
  if (most > about->allocation_bytes) most = about->allocation_bytes;
  return (size_t)(bytes < most ? bytes : most) & ~(size_t)(ALIGNMENT - 1);
}

static size_t choose_host_arena(const struct bench_device *device) {
  if (device->about.type & CL_DEVICE_TYPE_CPU) return device->arena_bytes;
  size_t bytes = 2 * measure_host_cache();
  return bytes < ((size_t)1 << 29) ? bytes : (size_t)1 << 29;
}

/* As many as the device has units; some report more units than there are processors. */
static unsigned count_threads(const clora_device *about) {
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  unsigned processors = online > 0 ? (unsigned)online : 1;
  bool is_cpu = about->type & CL_DEVICE_TYPE_CPU;
  return is_cpu && about->compute_units < processors ? about->compute_units : processors;
}

static int make_queues(struct bench_device *device) {
  cl_int code, profiled_code;
  device->queue = clCreateCommandQueue(device->opencl, device->about.id, 0, &code);
  device->profiled = clCreateCommandQueue(device->opencl, device->about.id,
                                          CL_QUEUE_PROFILING_ENABLE, &profiled_code);
  if (code == CL_SUCCESS && profiled_code == CL_SUCCESS) return BENCH_OK;
  return bench_fail(BENCH_FAILURE, "clCreateCommandQueue: OpenCL error %d", (int)code);
}

int bench_device_open(const char *selector, struct bench_device *device) {
  cl_int code;
  *device = (struct bench_device){.threads = 1};
  clora_status status = clora_device_select(selector, &device->about);
  if (status != CLORA_OK) return bench_fail(BENCH_NO_DEVICE, "%s", clora_error());
  device->opencl = clCreateContext(NULL, 1, &device->about.id, NULL, NULL, &code);
  if (code != CL_SUCCESS)
    return bench_fail(BENCH_FAILURE, "clCreateContext: OpenCL error %d", code);
  device->cache_bytes = measure_cache(&device->about);
  device->arena_bytes = choose_arena(&device->about, device->cache_bytes);
  device->host_arena_bytes = choose_host_arena(device);
  device->threads = count_threads(&device->about);
  return make_queues(device);
}

void bench_device_close(struct bench_device *device) {
  if (device->queue != NULL) clReleaseCommandQueue(device->queue);
  if (device->profiled != NULL) clReleaseCommandQueue(device->profiled);
  if (device->opencl != NULL) clReleaseContext(device->opencl);
  *device = (struct bench_device){0};
}

/* ---- memory ---- */

void bench_stage_free(struct bench_stage *stage) {
  if (stage->arena != NULL) clReleaseMemObject(stage->arena);
  free(stage->memory);
  stage->arena = NULL;
  stage->memory = NULL;
  stage->bytes = 0;
}

bool bench_scratch(struct bench_stage *stage, size_t bytes, cl_mem *mem) {
  cl_int code;
  if (*mem != NULL) clReleaseMemObject(*mem);
  *mem = NULL;
  if (bytes > stage->device->about.allocation_bytes) {
    return bench_unable(stage, "needs a buffer of %zu MiB, the device allows %llu", bytes >> 20,
                        (unsigned long long)stage->device->about.allocation_bytes >> 20);
  }
  *mem = clCreateBuffer(stage->device->opencl, CL_MEM_READ_WRITE, bytes ? bytes : 1, NULL, &code);
  return code == CL_SUCCESS || bench_unable(stage, "clCreateBuffer: OpenCL error %d", (int)code);
}

static bool allocate(struct bench_stage *stage, size_t bytes) {
  if (bytes <= stage->bytes) return true;
  bench_stage_free(stage);
  if (stage->on_host) {
    stage->memory = aligned_alloc(4096, (bytes + 4095) & ~(size_t)4095);
    if (stage->memory == NULL) return bench_unable(stage, "no memory for %zu MiB", bytes >> 20);
  } else if (!bench_scratch(stage, bytes, &stage->arena)) {
    return false;
  }
  stage->bytes = bytes;
  return true;
}

static size_t count_values(const struct bench_case *c, enum bench_operand operand) {
  return bench_rows_of(c, operand) * bench_cols_of(c, operand);
}

static void lay_out(struct bench_stage *stage) {
  stage->set_bytes = 0;
  const struct bench_op_about *op = bench_op_of(&stage->problem);
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) {
    if (!bench_has(op->inputs | op->outputs | op->scratch, operand)) continue;
    size_t size = clora_dtype_size(bench_dtype_of(&stage->problem, operand));
    size_t bytes = count_values(&stage->problem, operand) * size;
    stage->offset[operand] = stage->set_bytes;
    stage->set_bytes += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  }
}

/* In double, which holds also the bytes of shapes that no address reaches. */
bool bench_has_room(const struct bench_case *c, const clora_device *about, size_t copies,
                    char *why) {
  const struct bench_op_about *op = bench_op_of(c);
  double bytes = 0, unit = 1 << 20;
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) {
    if (!bench_has(op->inputs | op->outputs | op->scratch, operand)) continue;
    bytes += (double)bench_rows_of(c, operand) * (double)bench_cols_of(c, operand) *
             (double)clora_dtype_size(bench_dtype_of(c, operand));
  }
  double one = (double)about->allocation_bytes, all = (double)about->memory_bytes;
  if (bytes > one) {
    snprintf(why, BENCH_TEXT, "needs a buffer of %.0f MiB, the device allows %.0f", bytes / unit,
             one / unit);
  } else if (bytes * (double)copies > all) {
    snprintf(why, BENCH_TEXT,
             "%zu peers need %.0f MiB each, the device has %.0f MiB: --peers names fewer", copies,
             bytes / unit, all / unit);
  }
  return bytes <= one && bytes * (double)copies <= all;
}

void *bench_stage_pointer(const struct bench_stage *stage, size_t set, enum bench_operand operand) {
  return stage->memory + set * stage->set_bytes + stage->offset[operand];
}

clora_matrix bench_stage_matrix(const struct bench_stage *stage, size_t set,
                                enum bench_operand operand) {
  clora_dtype dtype = bench_dtype_of(&stage->problem, operand);
  size_t size = clora_dtype_size(dtype);
  return (clora_matrix){.mem = stage->arena,
                        .offset = (set * stage->set_bytes + stage->offset[operand]) / size,
                        .rows = bench_rows_of(&stage->problem, operand),
                        .cols = bench_cols_of(&stage->problem, operand),
                        .dtype = dtype};
}

/* An operand as stored. What is written without being read is poisoned: 0xff is a NaN in each
 * dtype, 0x7b a huge number. */
static void draw_operand(const struct bench_stage *stage, enum bench_operand operand,
                         char *stored) {
  const struct bench_case *c = &stage->problem;
  clora_dtype dtype = bench_dtype_of(c, operand);
  size_t count = count_values(c, operand), size = clora_dtype_size(dtype);
  if (!bench_is_read(c, operand)) {
    memset(stored, stage->reads_y ? 0x7b : 0xff, count * size);
    return;
  }
  float values[CHUNK];
  for (size_t i = 0; i < count; i += CHUNK) {
    size_t n = count - i < CHUNK ? count - i : CHUNK;
    bench_values(c, operand, i, n, values);
    clora_pack(dtype, n, values, stored + i * size);
  }
}

static bool write_bytes(struct bench_stage *stage, size_t at, size_t bytes, const char *data) {
  if (stage->on_host) {
    memcpy(stage->memory + at, data, bytes);
    return true;
  }
  cl_int code = clEnqueueWriteBuffer(stage->device->queue, stage->arena, CL_TRUE, at, bytes, data,
                                     0, NULL, NULL);
  return code == CL_SUCCESS || bench_unable(stage, "clEnqueueWriteBuffer: OpenCL error %d", code);
}

static bool copy_set(struct bench_stage *stage, size_t set) {
  size_t at = set * stage->set_bytes;
  if (stage->on_host) {
    memcpy(stage->memory + at, stage->memory, stage->set_bytes);
    return true;
  }
  cl_int code = clEnqueueCopyBuffer(stage->device->queue, stage->arena, stage->arena, 0, at,
                                    stage->set_bytes, 0, NULL, NULL);
  return code == CL_SUCCESS || bench_unable(stage, "clEnqueueCopyBuffer: OpenCL error %d", code);
}

static bool fill_operand(struct bench_stage *stage, size_t set, enum bench_operand operand) {
  const struct bench_case *c = &stage->problem;
  size_t bytes = count_values(c, operand) * clora_dtype_size(bench_dtype_of(c, operand));
  char *stored = malloc(bytes);
  if (stored == NULL) return bench_unable(stage, "no memory for %zu bytes", bytes);
  draw_operand(stage, operand, stored);
  bool worked = write_bytes(stage, set * stage->set_bytes + stage->offset[operand], bytes, stored);
  free(stored);
  return worked;
}

static bool fill_operands(struct bench_stage *stage, size_t set, unsigned operands) {
  for (int operand = 0; operand < BENCH_OPERANDS; operand++) {
    if (!bench_has(operands, operand)) continue;
    if (!fill_operand(stage, set, operand)) return false;
  }
  return true;
}

bool bench_stage_fill(struct bench_stage *stage) {
  if (!stage->on_host && !bench_has_room(&stage->problem, &stage->device->about, 1, stage->why)) {
    return false;
  }
  lay_out(stage);
  size_t wanted = stage->device->arena_bytes;
  if (!allocate(stage, wanted > stage->set_bytes ? wanted : stage->set_bytes)) return false;
  stage->set_count = stage->bytes / stage->set_bytes;
  if (stage->set_count > MOST_SETS) stage->set_count = MOST_SETS;
  stage->next_set = 0;
  const struct bench_op_about *op = bench_op_of(&stage->problem);
  if (!fill_operands(stage, 0, op->inputs | op->outputs | op->scratch)) return false;
  for (size_t set = 1; set < stage->set_count; set++) {
    if (!copy_set(stage, set)) return false;
  }
  return stage->on_host || clFinish(stage->device->queue) == CL_SUCCESS ||
         bench_unable(stage, "the device failed while it filled its memory");
}

bool bench_stage_restore(struct bench_stage *stage, size_t set) {
  return fill_operands(stage, set, bench_op_of(&stage->problem)->outputs);
}

static bool read_row(struct bench_stage *stage, size_t at, size_t bytes, void *stored) {
  if (stage->on_host) {
    memcpy(stored, stage->memory + at, bytes);
    return true;
  }
  cl_int code = clEnqueueReadBuffer(stage->device->queue, stage->arena, CL_TRUE, at, bytes, stored,
                                    0, NULL, NULL);
  return code == CL_SUCCESS || bench_unable(stage, "clEnqueueReadBuffer: OpenCL error %d", code);
}

bool bench_stage_read(struct bench_stage *stage, size_t set, enum bench_operand operand,
                      size_t count, const size_t *rows, float *values) {
  const struct bench_case *c = &stage->problem;
  clora_dtype dtype = bench_dtype_of(c, operand);
  size_t cols = bench_cols_of(c, operand), bytes = cols * clora_dtype_size(dtype);
  size_t first = set * stage->set_bytes + stage->offset[operand];
  char *stored = malloc(bytes);
  bool worked = stored != NULL;
  for (size_t i = 0; i < count && worked; i++) {
    worked = read_row(stage, first + rows[i] * bytes, bytes, stored);
    if (worked) clora_unpack(dtype, cols, stored, values + i * cols);
  }
  free(stored);
  return worked;
}
