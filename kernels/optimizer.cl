// A step of an optimizer over parameters cut in chunks, in two kernels: sums of squares of the
// gradients, then their norm, what follows from it, and the update. One group does one chunk; every
// sum has a fixed order, so that every group finds the same norm.
//
// There are two statuses: the step's own, and the one before it. The first kernel copies the one to
// the other, the second reads the copy: no launch reads what it writes.
//
// A chunk is `length` elements of one buffer, `stride` apart from element `value` on. Its
// gradients, moments and f32 master values lie dense in arenas of their own, from element `state`
// on. What is trained is `multiple` times the stored value: r for a scale, so that alpha learns.
//
// knob     values      meaning
// GROUP    1 ... 64    work-items of a group, a power of two; 1 on CPUs, whose loops become vectors
// MASTERS  0 1         there are 16-bit values: the update works on f32 masters and rounds them

typedef struct {
  ulong value, state;
  uint length, stride;
  float multiple, rate, decay;
  uint is_f32;  // values are floats, whatever the others in their buffer are
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

// Eight sums at once: one alone would wait for every addition.
static float sum_of_8(float8 sums) {
  const float4 sums_of_4 = sums.lo + sums.hi;
  return (sums_of_4.x + sums_of_4.y) + (sums_of_4.z + sums_of_4.w);
}

// partials[c] = sum over chunk c of (gradient / multiple)^2
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_norm(
    __global const float *gradients, __global const chunk_type *chunks, __global float *partials,
    __global status_type *status) {
  __local float sums[GROUP];
  __global const chunk_type *chunk = chunks + get_group_id(0);
  const float multiple = chunk->multiple;
  const uint length = chunk->length, whole = length / 8;
  gradients += chunk->state;
  float8 sums_of_8 = 0;
  for (uint n = get_local_id(0); n < whole; n += GROUP) {
    const float8 g = vload8(n, gradients) / multiple;
    sums_of_8 += g * g;
  }
  float sum = sum_of_8(sums_of_8);
  for (uint n = whole * 8 + get_local_id(0); n < length; n += GROUP) {
    const float g = gradients[n] / multiple;
    sum += g * g;
  }
  sum = sum_of_group(sum, sums);
  if (get_local_id(0) != 0) return;
  partials[get_group_id(0)] = sum;
  if (get_group_id(0) == 0) status[1] = status[0];
}

// The norm, and what the update has to know. clip 0: no clipping; beta 0 has a logarithm of -inf.
static status_type find_status(__global const float *partials, uint count,
                               __global const status_type *before, float clip, float log_beta1,
                               float log_beta2, __local float *sums) {
  const uint whole = count / 8;
  float8 sums_of_8 = 0;
  for (uint n = get_local_id(0); n < whole; n += GROUP) sums_of_8 += vload8(n, partials);
  float sum = sum_of_8(sums_of_8);
  for (uint n = whole * 8 + get_local_id(0); n < count; n += GROUP) sum += partials[n];
  status_type status;
  status.norm = sqrt(sum_of_group(sum, sums));
  status.is_finite = isfinite(status.norm) ? 1 : 0;
  status.steps = before->steps + status.is_finite;
  status.skipped = before->skipped + 1 - status.is_finite;
  status.factor = clip > 0 ? fmin(1.0f, clip / (status.norm + 1e-6f)) : 1.0f;
  status.first = -expm1((float)status.steps * log_beta1);
  status.second = -expm1((float)status.steps * log_beta2);
  status.unused = 0;
  return status;
}

#define UPDATE_ARGUMENTS                                                                \
  __global OUT_TYPE *values, __global float *masters, __global const float *gradients,  \
      __global float *first, __global float *second, __global const chunk_type *chunks, \
      ulong first_chunk, __global const float *partials, ulong partial_count,           \
      __global status_type *statuses, float clip, float log_beta1, float log_beta2,     \
      float step_rate, float beta1, float rest1, float beta2, float rest2, float epsilon

// What is updated: f32 values are their own masters.
#if MASTERS
#define WEIGHTS chunk->is_f32 ? (__global float *)values + chunk->value : masters + chunk->state
#define STEP chunk->is_f32 ? stride : 1
#else
#define WEIGHTS values + chunk->value
#define STEP stride
#endif

#define BEGIN_UPDATE                                                                              \
  __local float sums[GROUP];                                                                      \
  const status_type status =                                                                      \
      find_status(partials, (uint)partial_count, statuses + 1, clip, log_beta1, log_beta2, sums); \
  if (get_group_id(0) == 0 && get_local_id(0) == 0) statuses[0] = status;                         \
  if (!status.is_finite) return;                                                                  \
  __global const chunk_type *chunk = chunks + first_chunk + get_group_id(0);                      \
  const float multiple = chunk->multiple, rate = step_rate * chunk->rate;                         \
  const float decay = chunk->decay, factor = status.factor;                                       \
  const uint length = chunk->length;                                                              \
  const ulong stride = chunk->stride;                                                             \
  __global float *weights = WEIGHTS;                                                              \
  const ulong step = STEP;                                                                        \
  gradients += chunk->state;                                                                      \
  first += chunk->state;                                                                          \
  second += chunk->state;

// Rounds what was updated to what is stored.
#if MASTERS
#define END_UPDATE           \
  if (chunk->is_f32) return; \
  values += chunk->value;    \
  for (uint n = get_local_id(0); n < length; n += GROUP) STORE(OUT, weights[n], values, n *stride);
#else
#define END_UPDATE
#endif

// AdamW (Loshchilov and Hutter, arXiv 1711.05101): decay is decoupled from the gradient.
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_adamw(UPDATE_ARGUMENTS) {
  BEGIN_UPDATE
  const float correction1 = status.first, correction2 = status.second;
  for (uint n = get_local_id(0); n < length; n += GROUP) {
    const float g = gradients[n] / multiple * factor;
    const float m = beta1 * first[n] + rest1 * g, v = beta2 * second[n] + rest2 * (g * g);
    float w = multiple * weights[n * step];
    w -= rate * decay * w;
    w -= rate * (m / correction1) / (sqrt(v / correction2) + epsilon);
    first[n] = m;
    second[n] = v;
    weights[n * step] = w / multiple;
  }
  END_UPDATE
}

// SGD with momentum beta1; decay is a part of the gradient.
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void optimizer_sgd(UPDATE_ARGUMENTS) {
  BEGIN_UPDATE
  for (uint n = get_local_id(0); n < length; n += GROUP) {
    float w = multiple * weights[n * step];
    const float m = beta1 * first[n] + (gradients[n] / multiple * factor + decay * w);
    w -= rate * m;
    first[n] = m;
    weights[n * step] = w / multiple;
  }
  END_UPDATE
}
