// t = x A on a GPU: a group of work-items computes a tile of t, as slices_gpu.clh draws it.
//
//   x = in [rows, inner]   A = weight [inner, cols]   t = out [rows, cols], f32
//
// A group either walks all slices of k and adds them up in t, or takes one (out_parts of them, side
// by side in dimension 1) and leaves the adding to the reader. Neither rows nor tiles nor parts
// change the order of a sum, so they change no bit of a row.
//
// knob    values       meaning
// GROUP   64 128 256   work-items of a group
// ROWS    1 2 4 8      rows of an item; they lie ROW_ITEMS apart
// COLS    8 ... 64     columns of a tile
// STEP    64 128 256   k of a tile
//
// Local memory: 4 (rows of the tile (STEP + 4) + STEP (COLS + 4)) bytes, 14 to 29 KB.

#define T_SPACE __global
#include "tile_gpu.clh"
#include "slices_gpu.clh"

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void shrink_gpu(PRODUCT_ARGUMENTS) {
  __local float4 tiles[TILES / 4];
  const ulong2 start = tile_start(cols, TILE_ROWS, COLS);
  const ulong row0 = start.x, col0 = start.y, slice = slice_length(inner);
  const ulong first = out_parts > 1 ? get_group_id(1) * slice : 0;
  const ulong length = out_parts > 1 ? min(slice, inner - first) : inner;
  const uint2 kept = {(uint)min((ulong)TILE_ROWS, rows - row0),
                      (uint)min((ulong)COLS, cols - col0)};
  const tile_source x = {(__global const uchar *)(in + in_offset + row0 * in_row + first * in_col),
                         in_row * sizeof(IN_TYPE), in_col * sizeof(IN_TYPE), kept.x, STEP};
  const tile_source a = {
      (__global const uchar *)(weight + weight_offset + first * weight_row + col0 * weight_col),
      weight_row * sizeof(WEIGHT_TYPE), weight_col * sizeof(WEIGHT_TYPE), STEP, kept.y};
  __global float *t = out + out_offset + (get_group_id(1) * rows + row0) * out_row + col0;
  shrink_tile(x, a, length, slice, scale[scale_offset], tiles, t, out_row, kept);
}
