// y = beta*y + scale * (x A) B in one launch on a CPU: a work-item is a group and computes a block
// of y, ROWS rows at a time: t = x A [ROWS, r] in private memory, then t B.
//
//   x = in [rows, inner]   A = a [inner, r]   B = weight [r, cols]   y = out [rows, cols]
//
//            inner          r             cols       Groups that share rows (few rows, a large B)
//         +---------+     +---+      +-----------+   compute the same t each: that costs less than
//    ROWS |    x    |  -> | t |  ->  |     y     |   a second launch.
//         +---------+     +---+      +-----------+
//
// Tiles and knobs are those of tile_cpu.clh, and so are the bits: shrink_cpu and expand_cpu give
// the same in two launches. A and B are read where they lie.
//
// t is written to in_sum where the caller wants it.
//
// Private memory: ROWS * DEPTH * 4 bytes, with PACK_X also ROWS * CHUNK * 4: at most 15 KiB.

#define DEPTH 64  // the largest rank, also in src/op/fused.c
#define PRIVATE_T 1
#include "rows_cpu.clh"
#include "tile_cpu.clh"

// t [rows, r] to the caller's, if it is wanted: its step is 0 otherwise.
static void keep_t(__private const float *t, uint rows, uint r, __global float *to, ulong to_row) {
  for (uint i = 0; i < rows; i++, t += DEPTH, to += to_row) {
    for (uint j = 0; j < r; j++) to[j] = t[j];
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void fused_cpu(TWOFOLD_ARGUMENTS) {
  __private float t[ROWS * DEPTH] = {0}, strip[PACK_X ? ROWS * CHUNK : 1];
  const ulong2 row_share = share_of(rows, ROWS, 0), col_share = share_of(cols, B_LANES, 1);
  const float factor = scale[scale_offset];
  for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
    const uint height = (uint)min((ulong)ROWS, row_share.y - i);
    shrink_strip(in + in_offset + i * in_row, in_row, height, inner, a + a_offset, a_row,
                 (ulong2)(0, r), t, DEPTH, 1, strip);
    if (in_sum_row > 0 && get_group_id(1) == 0) {
      keep_t(t, height, (uint)r, in_sum + in_sum_offset + i * in_sum_row, in_sum_row);
    }
    expand_strip(t, DEPTH, height, r, weight + weight_offset, weight_row, col_share,
                 out + out_offset + i * out_row, out_row, factor, beta);
  }
}
