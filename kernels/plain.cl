// The definition of a product on the device, for every shape, stride and view:
//
//   out[i,o] = beta * out[i,o] + scale * sum over k of in[i,k] * weight[k,o]
//
// One work-item computes one element, in the order of k. No local memory, no vectors.

__kernel void plain(PRODUCT_ARGUMENTS) {
  ulong item = get_global_id(0);
  if (item >= rows * cols) return;
  ulong i = item / cols, o = item - i * cols;
  in += in_offset + i * in_row;
  weight += weight_offset + o * weight_col;
  float sum = 0;
  for (ulong k = 0; k < inner; k++) {
    sum += LOAD(IN, in, k * in_col) * LOAD(WEIGHT, weight, k * weight_row);
  }
  ulong at = out_offset + i * out_row + o;
  float value = scale[scale_offset] * sum;
  if (beta != 0) value += beta * LOAD(OUT, out, at);
  STORE(OUT, value, out, at);
}
