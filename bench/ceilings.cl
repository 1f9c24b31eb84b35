// What a device can do at most: stream memory in, stream it in and out, multiply and add in
// registers, and start a kernel that does nothing.
//
// Work-item `id` of `items` walks `steps` vectors of WIDTH floats from its first one, `stride`
// apart:
//   contiguous, for CPUs:  first = id * steps, stride 1
//   interleaved, for GPUs: first = id,         stride = items
//
// knob    tried          meaning
// WIDTH   1 2 4 8 16     floats in a vector
//
// SPDX-License-Identifier: Apache-2.0

#define JOIN_AGAIN(a, b) a##b
#define JOIN(a, b) JOIN_AGAIN(a, b)
#if WIDTH == 1
#define VECTOR float
#else
#define VECTOR JOIN(float, WIDTH)
#endif

kernel void ceilings_empty(global float *out) {
  if (get_global_id(0) == 0x7fffffff) out[0] = 0.0f;
}

// Four sums: one would wait for itself.
kernel void ceilings_read(global const VECTOR *in, global VECTOR *out, ulong offset, uint steps,
                          uint stride, uint spread) {
  global const VECTOR *next = in + offset + (ulong)get_global_id(0) * spread;
  VECTOR a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
  for (uint i = 0; i < steps; i += 4) {
    a += next[0];
    b += next[stride];
    c += next[2 * (ulong)stride];
    d += next[3 * (ulong)stride];
    next += 4 * (ulong)stride;
  }
  out[get_global_id(0)] = (a + b) + (c + d);
}

kernel void ceilings_copy(global const VECTOR *in, global VECTOR *out, ulong offset, uint steps,
                          uint stride, uint spread) {
  ulong first = offset + (ulong)get_global_id(0) * spread;
  for (uint i = 0; i < steps; i++) {
    out[first] = in[first];
    first += stride;
  }
}

// Twelve chains: latency times units of every CPU and GPU at hand is below that, and with the two
// constants they fit the registers. a*b + c, never fma(), which is a call on some implementations.
// No two neighbours start alike, or a compiler would compute one work-item for all of them.
#define EACH(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11)
#define START(i) VECTOR a##i = x + i * 0.01f;
#define STEP(i) a##i = multiply_add(a##i, b, c);
#define ADD(i) sum += a##i;

// Where LLVM prefers 256 bits it takes 512-bit registers only in a kernel that calls a function of
// such vectors: without one, PoCL 7.1 measured half of the rate.
static VECTOR multiply_add(VECTOR a, VECTOR b, VECTOR c) {
  return a * b + c;
}

kernel void ceilings_fma(global VECTOR *out, float x, float b_value, float c_value, uint steps) {
  x += (get_global_id(0) & 255) * 0x1p-20f;
  VECTOR b = b_value, c = c_value, sum = 0.0f;
  EACH(START)
  for (uint i = 0; i < steps; i++) {
    EACH(STEP)
  }
  EACH(ADD)
  out[get_global_id(0)] = sum;
}
