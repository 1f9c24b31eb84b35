// What the variant `clblast` needs beside the library: its Gemm takes the scale by value, ours lies
// on the device. out [rows, cols] dense = scale * in, any view.

__kernel void clblast_scale(__global const float *in, __global float *out,
                            __global const float *scale, ulong in_offset, ulong in_row,
                            ulong in_col, ulong out_offset, ulong scale_offset, ulong rows,
                            ulong cols) {
  ulong item = get_global_id(0);
  if (item >= rows * cols) return;
  ulong i = item / cols, j = item - i * cols;
  out[out_offset + item] = scale[scale_offset] * in[in_offset + i * in_row + j * in_col];
}
