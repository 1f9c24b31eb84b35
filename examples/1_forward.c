/* A LoRA layer inside an OpenCL program: y = scale * (x A) B on a context, a queue and buffers that
 * the program owns. This is the one to copy from.
 *
 *   cc 1_forward.c -o 1_forward $(pkg-config --cflags --libs clora) -lm && ./1_forward
 *
 * SPDX-License-Identifier: Apache-2.0 */
#define CL_TARGET_OPENCL_VERSION 120
#include <clora.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum { ROWS = 32, D_IN = 128, D_OUT = 64, R = 8 };

/* Both kinds of call end the program when they fail, and say where. */
#define CLORA(call) check((call) == CLORA_OK, #call, clora_error())
#define CL(call) check((call) == CL_SUCCESS, #call, "the OpenCL call failed")

static void check(bool succeeded, const char *call, const char *why) {
  if (succeeded) return;
  fprintf(stderr, "%s\n  %s\n", call, why);
  exit(EXIT_FAILURE);
}

/* Row 0 once more as the formula reads, in double: the largest error of y over what rounding every
 * step to f32 can explain. k steps of half a unit 2^-24 each, weighed by the terms' magnitudes. */
static double row_error(const float *x, const float *a, const float *b, double scale, float *y) {
  const double steps = (D_IN + R + 2) * ldexp(1, -24);
  double worst = 0;
  for (int o = 0; o < D_OUT; o++) {
    double sum = 0, size = 0;
    for (int j = 0; j < R; j++)
      for (int k = 0; k < D_IN; k++) {
        double term = scale * x[k] * a[k * R + j] * b[j * D_OUT + o];
        sum += term;
        size += fabs(term);
      }
    worst = fmax(worst, fabs(y[o] - sum) / (steps * size));
  }
  return worst;
}

int main(int argc, char **argv) {
  /* The program's own OpenCL objects; clora only helps to choose a device by name. */
  clora_device device;
  CLORA(clora_device_select(argc > 1 ? argv[1] : NULL, &device));
  cl_int error;
  cl_context opencl = clCreateContext(NULL, 1, &device.id, NULL, NULL, &error);
  CL(error);
  cl_command_queue queue = clCreateCommandQueue(opencl, device.id, 0, &error);
  CL(error);
  static float x_values[ROWS * D_IN], y_values[ROWS * D_OUT], a[D_IN * R], b[R * D_OUT];
  cl_mem x_mem = clCreateBuffer(opencl, CL_MEM_READ_ONLY, sizeof x_values, NULL, &error);
  CL(error);
  cl_mem y_mem = clCreateBuffer(opencl, CL_MEM_READ_WRITE, sizeof y_values, NULL, &error);
  CL(error);

  /* A context and a layer over them: the class Lora(128, 64), so r is 8 and alpha 1. */
  clora_context_options own = {.opencl = opencl, .device = device.id};
  clora_context *context;
  CLORA(clora_context_create(&own, &context));
  clora_layer_options shape = {.dim = D_IN, .dim_out = D_OUT, .r = R, .seed = 1};
  clora_layer *layer;
  CLORA(clora_layer_create(context, &shape, &layer));

  /* Upload, compute, read back: three commands in flight, ordered by events alone. */
  for (int i = 0; i < ROWS * D_IN; i++) x_values[i] = sinf((float)i);
  clora_matrix x = {.mem = x_mem, .rows = ROWS, .cols = D_IN};
  clora_matrix y = {.mem = y_mem, .rows = ROWS, .cols = D_OUT};
  cl_event uploaded, computed;
  CL(clEnqueueWriteBuffer(queue, x_mem, CL_FALSE, 0, sizeof x_values, x_values, 0, NULL,
                          &uploaded));
  CLORA(clora_enqueue_forward(queue, layer, &x, &y, NULL, 1, &uploaded, &computed));
  CL(clEnqueueReadBuffer(queue, y_mem, CL_TRUE, 0, sizeof y_values, y_values, 1, &computed, NULL));

  /* What it computed, and row 0 against the plain loop. */
  clora_layer_info info;
  CLORA(clora_layer_read_a(layer, a));
  CLORA(clora_layer_read_b(layer, b));
  CLORA(clora_layer_describe(layer, &info));
  double worst = row_error(x_values, a, b, info.scale, y_values);
  printf("%s: y [%d, %d] = %g * (x A) B\n", device.name, ROWS, D_OUT, info.scale);
  printf("y[0] = %.4f %.4f %.4f ...  error / bound = %.3f\n", y_values[0], y_values[1], y_values[2],
         worst);

  clReleaseEvent(uploaded);
  clReleaseEvent(computed);
  clora_layer_destroy(layer);
  clora_context_destroy(context);
  clReleaseMemObject(x_mem);
  clReleaseMemObject(y_mem);
  clReleaseCommandQueue(queue);
  clReleaseContext(opencl);
  return worst <= 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
