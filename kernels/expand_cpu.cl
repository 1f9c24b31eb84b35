// y = beta*y + scale * t B on a CPU: one work-item is one group and computes a block of y.
//
//   t = in [rows, inner]   B = weight [inner, cols]   y = out [rows, cols]   inner = r
//
// The tiles, their drawing and their knobs stand in tile_cpu.clh.
//
// knob    values     meaning
// PACK_B  0 1        copy panels of B to f32 first: transposed, or a large rank
// PACK_T  0 1        copy ROWS x inner of t to f32 first: 16-bit or transposed (A of weight)
// DEPTH   64 128 512 the rank that the copies have room for
//
// Private memory: 64 KiB of panels and ROWS * DEPTH * 4 bytes, at most 88 KiB.

#ifndef PACK_T
#define PACK_T 0
#endif
#define PRIVATE_T PACK_T
#include "rows_cpu.clh"
#include "tile_cpu.clh"

#define PANELS (DEPTH * B_LANES < 16384 ? 16384 / (DEPTH * B_LANES) : 1)  // 64 KB of them

// t [rows, depth] as f32: where it lies, or copied to copy [ROWS, DEPTH].
static T_SPACE const float *t_of(__global const IN_TYPE *t, ulong t_row, ulong t_col, uint rows,
                                 ulong depth, __private float *copy) {
#if PACK_T
  for (uint i = 0; i < ROWS; i++) {
    __global const IN_TYPE *row = t + min(i, rows - 1) * t_row;
    for (ulong j = 0; j < depth; j++) copy[i * DEPTH + j] = LOAD(IN, row, j * t_col);
  }
  return copy;
#else
  return t;
#endif
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void expand_cpu(PRODUCT_ARGUMENTS) {
  __private float copy[PACK_T ? ROWS * DEPTH : 1];
  const ulong t_row = PACK_T ? DEPTH : in_row;
  const ulong2 row_share = share_of(rows, ROWS, 0), col_share = share_of(cols, B_LANES, 1);
  const float factor = scale[scale_offset];
  in += in_offset;
  weight += weight_offset;
  out += out_offset;
#if PACK_B
  // As many panels as there is room for are packed at once and used for all rows of the block: y is
  // written in long pieces.
  __private float panels[PANELS * DEPTH * B_LANES];
  for (ulong o0 = col_share.x; o0 < col_share.y; o0 += PANELS * B_LANES) {
    const ulong o1 = min(o0 + PANELS * B_LANES, col_share.y);
    __private float *panel = panels;
    for (ulong o = o0; o < o1; o += B_LANES, panel += DEPTH * B_LANES) {
      pack_panel(weight + o * weight_col, weight_row, weight_col, (uint)inner,
                 (uint)min((ulong)B_LANES, o1 - o), B_LANES, panel);
    }
    for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
      const uint height = (uint)min((ulong)ROWS, row_share.y - i);
      T_SPACE const float *t = t_of(in + i * in_row, in_row, in_col, height, inner, copy);
      panel = panels;
      for (ulong o = o0; o < o1; o += B_LANES, panel += DEPTH * B_LANES) {
        expand_tile(t, t_row, panel, B_LANES, inner, inner, height, out + i * out_row + o, out_row,
                    (uint)min((ulong)B_LANES, o1 - o), factor, beta);
      }
    }
  }
#else
  for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
    const uint height = (uint)min((ulong)ROWS, row_share.y - i);
    T_SPACE const float *t = t_of(in + i * in_row, in_row, in_col, height, inner, copy);
    expand_strip(t, t_row, height, inner, weight, weight_row, col_share, out + i * out_row, out_row,
                 factor, beta);
  }
#endif
}
