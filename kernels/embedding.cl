// The rows of A that ids name:
//
//   t[i,j] = A[ids[i], j]        ids [rows]   A [d_in, r]   t [rows, r], f32
//
// One work-item an element. An id outside 0 ... d_in - 1 gives zeros, and A is not read.

__kernel void embedding(__global const int *ids, __global const WEIGHT_TYPE *a, __global float *t,
                        ulong ids_offset, ulong a_offset, ulong a_row, ulong a_col, ulong t_offset,
                        ulong t_row, ulong rows, ulong r, ulong d_in) {
  ulong item = get_global_id(0);
  if (item >= rows * r) return;
  ulong i = item / r, j = item - i * r;
  int id = ids[ids_offset + i];
  float value = 0;
  if (id >= 0 && (ulong)id < d_in)
    value = LOAD(WEIGHT, a, a_offset + (ulong)id * a_row + j * a_col);
  t[t_offset + i * t_row + j] = value;
}
