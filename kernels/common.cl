// What every kernel starts with: storage dtypes, and the arguments of a product.
//
//   out = beta*out + scale * in weight        in [rows, inner]   weight [inner, cols]
//
// Arithmetic is f32. A dtype is F32, F16 or BF16: -D IN=F16 stores `in` as half. None of this needs
// cl_khr_fp16: vload_half and vstore_half are core OpenCL 1.2.

#pragma OPENCL FP_CONTRACT ON

#define JOIN_(a, b) a##b
#define JOIN(a, b) JOIN_(a, b)

#define TYPE(dtype) JOIN(TYPE_, dtype)
#define TYPE_F32 float
#define TYPE_F16 half
#define TYPE_BF16 ushort

float from_bf16(ushort bits) {
  return as_float((uint)bits << 16);
}

// Rounds to nearest even. NaN keeps a bit of its payload: rounding could turn it into infinity.
ushort to_bf16(float value) {
  uint bits = as_uint(value);
  if (isnan(value)) return (ushort)(bits >> 16 | 0x40);
  return (ushort)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// LOAD(IN, in, i): element i as float. STORE(OUT, value, out, i).
#define LOAD(dtype, pointer, i) JOIN(LOAD_, dtype)(pointer, i)
#define LOAD_F32(pointer, i) ((pointer)[i])
#define LOAD_F16(pointer, i) vload_half(i, pointer)
#define LOAD_BF16(pointer, i) from_bf16((pointer)[i])

#define STORE(dtype, value, pointer, i) JOIN(STORE_, dtype)(value, pointer, i)
#define STORE_F32(value, pointer, i) ((pointer)[i] = (value))
#define STORE_F16(value, pointer, i) vstore_half_rte(value, i, pointer)
#define STORE_BF16(value, pointer, i) ((pointer)[i] = to_bf16(value))

#define IN_TYPE TYPE(IN)
#define WEIGHT_TYPE TYPE(WEIGHT)
#define OUT_TYPE TYPE(OUT)

// Offsets and steps count elements; a step is the distance to the next row or column of the view.
// in_parts, out_parts and in_sum are for variants that know parts (see struct clora__problem).
#define PRODUCT_ARGUMENTS                                                                         \
  __global const IN_TYPE *in, __global const WEIGHT_TYPE *weight, __global OUT_TYPE *out,         \
      __global const float *scale, __global float *in_sum, float beta, ulong in_offset,           \
      ulong in_row, ulong in_col, ulong weight_offset, ulong weight_row, ulong weight_col,        \
      ulong out_offset, ulong out_row, ulong scale_offset, ulong in_sum_offset, ulong in_sum_row, \
      ulong rows, ulong inner, ulong cols, ulong in_parts, ulong out_parts

// The arguments of two products in one launch. A forward: out = beta*out + scale * (in a) weight,
// with a [inner, r]; joint: out and in_sum = weight a, with a [cols, rows]. a is stored as the
// weight is.
#define TWOFOLD_ARGUMENTS                                                                     \
  PRODUCT_ARGUMENTS, __global const WEIGHT_TYPE *a, ulong a_offset, ulong a_row, ulong a_col, \
      ulong r

// A row-major matrix of a kernel that computes no product: where element (0, 0) lies, and the
// distance to the next row.
#define MATRIX(type, name) __global type *name, ulong name##_offset, ulong name##_row

// PREFETCH(pointer): has the line there brought into the second cache, where the compiler makes
// machine code. prefetch() does nothing on PoCL and costs time on Intel's runtime, and a translator
// to SPIR-V may end the process on the builtin.
#define PREFETCH(pointer)
#if defined(__has_builtin) && !defined(__SPIR__) && !defined(__SPIR64__) && !defined(__SPIRV__)
#if __has_builtin(__builtin_prefetch)
#undef PREFETCH
#define PREFETCH(pointer) __builtin_prefetch(pointer, 0, 2)
#endif
#endif

// ---- for kernels with vectors of WIDTH lanes ----

#ifdef GROUP
#define WIDTH 4
#endif

#ifdef WIDTH

#define VECTOR JOIN(float, WIDTH)
#define UINTS JOIN(uint, WIDTH)
#define USHORTS JOIN(ushort, WIDTH)

// WIDTH elements from the pointer on, as floats, and back.
#define LOAD_VECTOR(dtype, pointer) JOIN(LOAD_VECTOR_, dtype)(pointer)
#define LOAD_VECTOR_F32(pointer) JOIN(vload, WIDTH)(0, pointer)
#define LOAD_VECTOR_F16(pointer) from_f16_vector(pointer)
#define LOAD_VECTOR_BF16(pointer) \
  JOIN(as_float, WIDTH)(JOIN(convert_uint, WIDTH)(load_ushorts(pointer)) << 16)

// The value as the dtype stores it, and the type of that.
#define STORED(dtype, value) JOIN(STORED_, dtype)(value)
#define STORED_F32(value) (value)
#define STORED_F16(value) to_f16_vector(value)
#define STORED_BF16(value) to_bf16_vector(value)
#define STORED_VECTOR(dtype) JOIN(stored_, dtype)
typedef VECTOR stored_F32;
typedef USHORTS stored_F16, stored_BF16;

#define STORE_VECTOR(dtype, value, pointer) JOIN(STORE_VECTOR_, dtype)(value, pointer)
#define STORE_VECTOR_F32(value, pointer) JOIN(vstore, WIDTH)(value, 0, pointer)
#define STORE_VECTOR_F16(value, pointer) store_ushorts(to_f16_vector(value), pointer)
#define STORE_VECTOR_BF16(value, pointer) store_ushorts(to_bf16_vector(value), pointer)

// 16-bit vectors at any address. PoCL's vload_halfn and vstore_halfn take the pointer for aligned
// to the whole vector (7.1 crashes on it), which a private vector is; vloadn of ushorts is a loop
// on 3.1.
typedef struct __attribute__((packed)) {
  USHORTS bits;
} packed_ushorts;

USHORTS load_ushorts(__global const void *pointer) {
  return ((__global const packed_ushorts *)pointer)->bits;
}

void store_ushorts(USHORTS bits, __global void *pointer) {
  ((__global packed_ushorts *)pointer)->bits = bits;
}

VECTOR from_f16_vector(__global const half *pointer) {
  USHORTS bits = load_ushorts(pointer);
  return JOIN(vload_half, WIDTH)(0, (__private const half *)&bits);
}

USHORTS to_f16_vector(VECTOR value) {
  USHORTS bits;
  JOIN(JOIN(vstore_half, WIDTH), _rte)(value, 0, (__private half *)&bits);
  return bits;
}

USHORTS to_bf16_vector(VECTOR value) {
  UINTS bits = JOIN(as_uint, WIDTH)(value);
  UINTS rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return JOIN(convert_ushort, WIDTH)(isnan(value) ? bits >> 16 | 0x40 : rounded);
}

#endif
