// dscale (+)= sum over i, j of t[i,j] * dt[i,j], by one group in a fixed order: every work-item
// adds up rows i, i + GROUP, ..., and the sums of work-items meet in a tree.
//
// knob   values      meaning
// GROUP  1 ... 256   work-items, a power of two

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void dot_rows(MATRIX(const float, t),
                                                                          MATRIX(const float, dt),
                                                                          MATRIX(float, out),
                                                                          ulong rows, ulong cols,
                                                                          ulong accumulate) {
  __local float sums[GROUP];
  const uint item = get_local_id(0);
  float sum = 0;
  for (ulong i = item; i < rows; i += GROUP) {
    __global const float *u = t + t_offset + i * t_row, *v = dt + dt_offset + i * dt_row;
    float part = 0;
    for (ulong j = 0; j < cols; j++) part += u[j] * v[j];
    sum += part;
  }
  sums[item] = sum;
  for (uint half_count = GROUP / 2; half_count > 0; half_count /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < half_count) sums[item] += sums[item + half_count];
  }
  if (item == 0) out[out_offset] = accumulate ? out[out_offset] + sums[0] : sums[0];
}
