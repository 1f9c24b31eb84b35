// A step of an optimizer over parameters cut in chunks: the gradients' norm, what follows from it,
// and the update. One group does one chunk; every sum has a fixed order.
//
// A chunk is `length` elements of one buffer, `stride` apart from element `value` on. Its
// gradients, moments and f32 master values lie dense in arenas of their own, from element `state`
// on. What is trained is `multiple` times the stored value: r for a scale, so that alpha learns.
//
// knob     values      meaning
// GROUP    1 ... 64    work-items of a group, a power of two; 1 on CPUs, whose loops become vectors
// MASTERS  0 1         the values are 16-bit: the update works on f32 masters and rounds them

typedef struct {
  ulong value, state;
  uint length, stride;
  float multiple, rate, decay;
  uint unused;
} chunk_type;

typedef struct {
  float norm;              // of the last step's gradients, before clipping
  float factor;            // what clipping multiplies them by
  float first, second;     // the bias corrections 1 - beta^steps
  uint steps, skipped;     // done, and left out because the norm was not finite
  uint is_finite, unused;  // the last one was done
} status_type;

// The sum over the group, in every work-item.
static float sum_of_group(float sum, __local float *sums) {
  const uint item = get_local_id(0);
  sums[item] = sum;
  for (uint rest = GROUP / 2; rest > 0; rest /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < rest) sums[item] += sums[item + rest];
  }
  barrier(CLK_LOCAL_MEM_FENCE);
  return sums[0];
}

// partials[c] = sum over chunk c of (gradient / multiple)^2
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_norm(
    __global const float *gradients, __global const chunk_type *chunks, __global float *partials) {
  __local float sums[GROUP];
  __global const chunk_type *chunk = chunks + get_group_id(0);
  const float multiple = chunk->multiple;
  const uint length = chunk->length;
  gradients += chunk->state;
  // Eight sums at once: one alone would wait for every addition.
  const uint whole = length / 8;
  float8 sums_of_8 = 0;
  for (uint n = get_local_id(0); n < whole; n += GROUP) {
    const float8 g = vload8(n, gradients) / multiple;
    sums_of_8 += g * g;
  }
  const float4 sums_of_4 = sums_of_8.lo + sums_of_8.hi;
  float sum = (sums_of_4.x + sums_of_4.y) + (sums_of_4.z + sums_of_4.w);
  for (uint n = whole * 8 + get_local_id(0); n < length; n += GROUP) {
    const float g = gradients[n] / multiple;
    sum += g * g;
  }
  sum = sum_of_group(sum, sums);
  if (get_local_id(0) == 0) partials[get_group_id(0)] = sum;
}

// The norm, and what the update has to know. clip 0: no clipping; beta 0 has a logarithm of -inf.
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_status(
    __global const float *partials, uint count, __global status_type *status, float clip,
    float log_beta1, float log_beta2) {
  __local float sums[GROUP];
  float sum = 0;
  for (uint n = get_local_id(0); n < count; n += GROUP) sum += partials[n];
  sum = sum_of_group(sum, sums);
  if (get_local_id(0) != 0) return;
  const float norm = sqrt(sum);
  const bool finite = isfinite(norm);
  const uint steps = status->steps + (finite ? 1 : 0);
  status->norm = norm;
  status->factor = clip > 0 ? fmin(1.0f, clip / (norm + 1e-6f)) : 1.0f;
  status->first = -expm1((float)steps * log_beta1);
  status->second = -expm1((float)steps * log_beta2);
  status->steps = steps;
  status->skipped += finite ? 0 : 1;
  status->is_finite = finite;
}

// One parameter's f32 value, before and after; f32 values are their own masters.
#if MASTERS
#define READ_VALUE(n) (multiple * masters[n])
#define WRITE_VALUE(n, value)      \
  masters[n] = (value) / multiple; \
  STORE(OUT, masters[n], values, n *stride)
#else
#define READ_VALUE(n) (multiple * values[n * stride])
#define WRITE_VALUE(n, value) values[n * stride] = (value) / multiple
#endif

#define UPDATE_ARGUMENTS                                                                   \
  __global OUT_TYPE *values, __global float *masters, __global const float *gradients,     \
      __global float *first, __global float *second, __global const chunk_type *chunks,    \
      ulong first_chunk, __global const status_type *status, float step_rate, float beta1, \
      float rest1, float beta2, float rest2, float epsilon

#define BEGIN_UPDATE                                                         \
  if (!status->is_finite) return;                                            \
  __global const chunk_type *chunk = chunks + first_chunk + get_group_id(0); \
  const float multiple = chunk->multiple, rate = step_rate * chunk->rate;    \
  const float decay = chunk->decay, factor = status->factor;                 \
  const uint length = chunk->length;                                         \
  const ulong stride = chunk->stride;                                        \
  values += chunk->value;                                                    \
  masters += chunk->state;                                                   \
  gradients += chunk->state;                                                 \
  first += chunk->state;                                                     \
  second += chunk->state;

// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decay is decoupled from the gradient.
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_adamw(UPDATE_ARGUMENTS) {
  BEGIN_UPDATE
  const float correction1 = status->first, correction2 = status->second;
  for (uint n = get_local_id(0); n < length; n += GROUP) {
    const float g = gradients[n] / multiple * factor;
    const float m = beta1 * first[n] + rest1 * g, v = beta2 * second[n] + rest2 * (g * g);
    float w = READ_VALUE(n);
    w -= rate * decay * w;
    w -= rate * (m / correction1) / (sqrt(v / correction2) + epsilon);
    first[n] = m;
    second[n] = v;
    WRITE_VALUE(n, w);
  }
}

// SGD with momentum beta1; decay is a part of the gradient.
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_sgd(UPDATE_ARGUMENTS) {
  BEGIN_UPDATE
  for (uint n = get_local_id(0); n < length; n += GROUP) {
    float w = READ_VALUE(n);
    const float m = beta1 * first[n] + (gradients[n] / multiple * factor + decay * w);
    w -= rate * m;
    first[n] = m;
    WRITE_VALUE(n, w);
  }
}
