/* Builds kernels from the embedded sources.
 * SPDX-License-Identifier: Apache-2.0 */
#include "device/program.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels.h"

void clora__knob(struct clora__knobs *knobs, const char *name, unsigned value) {
  knobs->list[knobs->count++] = (struct clora__knob){name, value, false};
}

void clora__free_knob(struct clora__knobs *knobs, const char *name, unsigned value) {
  knobs->list[knobs->count++] = (struct clora__knob){name, value, true};
}

unsigned clora__knob_value(const struct clora__knobs *knobs, const char *name) {
  for (unsigned i = 0; i < knobs->count; i++) {
    if (strcmp(knobs->list[i].name, name) == 0) return knobs->list[i].value;
  }
  return 0;
}

bool clora__knob_set(struct clora__knobs *knobs, const char *name, unsigned value) {
  for (unsigned i = 0; i < knobs->count; i++) {
    if (strcmp(knobs->list[i].name, name) != 0) continue;
    knobs->list[i].value = value;
    return true;
  }
  return false;
}

static bool agree(const struct clora__knobs *a, const struct clora__knobs *b, bool in_free_ones) {
  bool agree = a->in == b->in && a->weight == b->weight && a->out == b->out && a->count == b->count;
  for (unsigned i = 0; agree && i < a->count; i++) {
    const struct clora__knob *x = &a->list[i], *y = &b->list[i];
    agree = x->name == y->name && (x->value == y->value || (x->is_free && !in_free_ones));
  }
  return agree;
}

bool clora__knobs_equal(const struct clora__knobs *a, const struct clora__knobs *b) {
  return agree(a, b, true);
}

bool clora__knobs_serve(const struct clora__knobs *a, const struct clora__knobs *b) {
  return agree(a, b, false);
}

static void print_knobs(const struct clora__knobs *knobs, bool all, char *text, size_t size) {
  static const char *const dtypes[] = {
      [CLORA_F32] = "F32", [CLORA_F16] = "F16", [CLORA_BF16] = "BF16"};
  size_t used = (size_t)snprintf(text, size, "-D IN=%s -D WEIGHT=%s -D OUT=%s", dtypes[knobs->in],
                                 dtypes[knobs->weight], dtypes[knobs->out]);
  for (unsigned i = 0; i < knobs->count && used < size; i++) {
    const struct clora__knob *knob = &knobs->list[i];
    bool built = isupper((unsigned char)knob->name[0]);
    if (!built && !all) continue;
    used += (size_t)snprintf(text + used, size - used, " %s%s=%u", built ? "-D " : "", knob->name,
                             knob->value);
  }
}

void clora__knobs_options(const struct clora__knobs *knobs, char *text, size_t size) {
  print_knobs(knobs, false, text, size);
}

void clora__knobs_text(const struct clora__knobs *knobs, char *text, size_t size) {
  print_knobs(knobs, true, text, size);
}

static struct clora__kernel *find(struct clora__kernel *list, const char *source,
                                  const char *function, const struct clora__knobs *knobs) {
  for (; list != NULL; list = list->next) {
    if (list->source == source && strcmp(list->function, function) == 0 &&
        clora__knobs_equal(&list->knobs, knobs)) {
      return list;
    }
  }
  return NULL;
}

static clora_status find_or_add(clora_context *context, const char *source, const char *function,
                                const struct clora__knobs *knobs, struct clora__kernel **kernel) {
  *kernel = find(context->kernels, source, function, knobs);
  if (*kernel != NULL) return CLORA_OK;
  struct clora__kernel *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  made->source = source;
  made->function = function;
  made->knobs = *knobs;
  pthread_mutex_init(&made->preparing, NULL);
  pthread_mutex_init(&made->launching, NULL);
  made->next = context->kernels;
  *kernel = context->kernels = made;
  return CLORA_OK;
}

clora_status clora__kernel_find(clora_context *context, const char *source, const char *function,
                                const struct clora__knobs *knobs, struct clora__kernel **kernel) {
  pthread_mutex_lock(&context->mutex);
  clora_status status = find_or_add(context, source, function, knobs, kernel);
  pthread_mutex_unlock(&context->mutex);
  return status;
}

/* Fails with the first words of the compiler's log. */
static clora_status fail_build(const clora_context *context, cl_program program, cl_int code) {
  size_t bytes = 0;
  clGetProgramBuildInfo(program, context->device.id, CL_PROGRAM_BUILD_LOG, 0, NULL, &bytes);
  char *log = calloc(bytes + 1, 1);
  if (log != NULL) {
    clGetProgramBuildInfo(program, context->device.id, CL_PROGRAM_BUILD_LOG, bytes, log, NULL);
    for (char *c = log; *c != '\0'; c++) *c = isspace((unsigned char)*c) ? ' ' : *c;
  }
  clora_status status = clora__fail(CLORA_OPENCL_FAILURE, "the build failed with %s: %.400s",
                                    clora__opencl_error(code), log != NULL ? log : "no log");
  free(log);
  return status;
}

static clora_status build(clora_context *context, const char *source, const char *options,
                          cl_program *program) {
  const char *sources[] = {clora__source_common, source};
  CL_MAKE(*program, clCreateProgramWithSource, context->opencl, 2, sources, NULL);
  cl_int code = clora__fault()
                    ? CL_OUT_OF_HOST_MEMORY
                    : clBuildProgram(*program, 1, &context->device.id, options, NULL, NULL);
  if (clora__opencl_status(code) == CLORA_OUT_OF_MEMORY) CL_RAISE(code, "clBuildProgram");
  return code == CL_SUCCESS ? CLORA_OK : fail_build(context, *program, code);
}

static cl_program find_program(clora_context *context, const char *source, const char *options) {
  pthread_mutex_lock(&context->mutex);
  const struct clora__program *list = context->programs;
  while (list != NULL && (list->source != source || strcmp(list->options, options) != 0)) {
    list = list->next;
  }
  pthread_mutex_unlock(&context->mutex);
  return list != NULL ? list->program : NULL;
}

/* Built here, and kept: kernels that differ in what the compiler does not see share it. Two threads
 * may build the same one, then both are kept. */
static clora_status make_program(clora_context *context, const char *source, const char *options,
                                 cl_program *program) {
  struct clora__program *made;
  TRY(clora__allocate(1, sizeof *made, &made));
  clora_status status = build(context, source, options, &made->program);
  if (status != CLORA_OK) {
    if (made->program != NULL) clReleaseProgram(made->program);
    free(made);
    return status;
  }
  made->source = source;
  snprintf(made->options, sizeof made->options, "%s", options);
  pthread_mutex_lock(&context->mutex);
  made->next = context->programs;
  context->programs = made;
  pthread_mutex_unlock(&context->mutex);
  *program = made->program;
  return CLORA_OK;
}

clora_status clora__kernel_build(clora_context *context, struct clora__kernel *kernel) {
  char knobs[512], options[CLORA__OPTIONS_LIMIT];
  clora__knobs_options(&kernel->knobs, knobs, sizeof knobs);
  snprintf(options, sizeof options, "-cl-std=CL1.2 %s", knobs);
  cl_program program = find_program(context, kernel->source, options);
  if (program == NULL) TRY(make_program(context, kernel->source, options, &program));
  CL_MAKE(kernel->kernel, clCreateKernel, program, kernel->function);
  CL(clGetKernelWorkGroupInfo, kernel->kernel, context->device.id, CL_KERNEL_WORK_GROUP_SIZE,
     sizeof kernel->group_size, &kernel->group_size, NULL);
  return CLORA_OK;
}

void clora__kernel_unbuild(struct clora__kernel *kernel) {
  if (kernel->kernel != NULL) clReleaseKernel(kernel->kernel);
  kernel->kernel = NULL;
}

void clora__programs_destroy(struct clora__program *programs) {
  while (programs != NULL) {
    struct clora__program *next = programs->next;
    clReleaseProgram(programs->program);
    free(programs);
    programs = next;
  }
}

void clora__kernels_destroy(struct clora__kernel *kernels) {
  while (kernels != NULL) {
    struct clora__kernel *next = kernels->next;
    clora__kernel_unbuild(kernels);
    pthread_mutex_destroy(&kernels->preparing);
    pthread_mutex_destroy(&kernels->launching);
    free(kernels);
    kernels = next;
  }
}

void clora__tunings_destroy(struct clora__tuning *tunings) {
  while (tunings != NULL) {
    struct clora__tuning *next = tunings->next;
    free(tunings);
    tunings = next;
  }
}
