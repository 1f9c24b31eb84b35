// y = beta*y + scale * (x A) B in one launch on a GPU: a group of work-items computes TILE_ROWS
// rows of y. It forms t = x A for them in local memory, then walks y from left to right.
//
//   x = in [rows, inner]   A = a [inner, r]   B = weight [r, cols]   y = out [rows, cols]
//
//            inner          r            4 COLS         For t the group stands in LANES = 4 layers
//         +---------+     +---+      +---+---+---+---   of COLS columns, as slices_gpu.clh draws
//    tile |    x    |  -> | t |  ->  | y |   |   |      it; for y they stand side by side. So an
//    rows |         |     |   |      |   |   |   |      item has ROWS x 4 sums of both, and a row
//         +---------+     +---+      +---+---+---+---   of y is written 4 COLS at a time.
//
// The order of every sum is that of shrink_gpu and expand_gpu, and so are the bits. t is
// written to in_sum where the caller wants it. x, A, B and y are read and written as often as in
// two launches.
//
// knob    values       meaning
// GROUP   64 128 256   work-items of a group
// ROWS    1 2 4 8      rows of an item; they lie ROW_ITEMS apart
// COLS    8 16 32      columns of t, at least r
// STEP    64 128 256   k of a tile
//
// The tiles of B lie where those of x and A were. Local memory: 4 (rows of the tile (STEP + 4) +
// STEP (COLS + 4) + rows of the tile (COLS + 4)) bytes, 13 to 30 KB.

#define T_SPACE __local
#include "tile_gpu.clh"
#include "slices_gpu.clh"

#define Y_COLS (LANES * COLS)
#define Y_ITEMS (Y_COLS / 4)
#define T_PITCH (COLS + 4)
#define B_PITCH (Y_COLS + 4)
#define B_TILE (COLS * B_PITCH)

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void fused_gpu(TWOFOLD_ARGUMENTS) {
  __local float4 tiles[(TILES > B_TILE ? TILES : B_TILE) / 4], t_tile[TILE_ROWS * T_PITCH / 4];
  uint4 b_units[SHARE(COLS * Y_COLS, WEIGHT_TYPE)];
  const uint id = (uint)get_local_id(0), col_item = id % Y_ITEMS, row_item = id / Y_ITEMS;
  const ulong row0 = get_group_id(0) * TILE_ROWS;
  const uint height = (uint)min((ulong)TILE_ROWS, rows - row0);
  const tile_source x = {(__global const uchar *)(in + in_offset + row0 * in_row),
                         in_row * sizeof(IN_TYPE), in_col * sizeof(IN_TYPE), height, STEP};
  const tile_source a_source = {(__global const uchar *)(a + a_offset), a_row * sizeof(WEIGHT_TYPE),
                                a_col * sizeof(WEIGHT_TYPE), STEP, (uint)r};
  for (uint e = id; e < TILE_ROWS * T_PITCH / 4; e += GROUP) t_tile[e] = 0;
  shrink_tile(x, a_source, inner, slice_length(inner), 1, tiles, (__local float *)t_tile, T_PITCH,
              (uint2)(height, (uint)r));

  barrier(CLK_LOCAL_MEM_FENCE);  // t is written
  for (uint e = id; in_sum_row > 0 && e < height * (uint)r; e += GROUP) {
    const uint i = e / (uint)r, j = e - i * (uint)r;
    in_sum[in_sum_offset + (row0 + i) * in_sum_row + j] =
        ((__local const float *)t_tile)[i * T_PITCH + j];
  }

  const float factor = scale[scale_offset];
  __global OUT_TYPE *y = out + out_offset + (row0 + row_item) * out_row + 4 * col_item;
  tile_source b = {(__global const uchar *)(weight + weight_offset),
                   weight_row * sizeof(WEIGHT_TYPE), weight_col * sizeof(WEIGHT_TYPE), (uint)r, 0};
  bool wide;
#define FETCH_B(left)                                                                  \
  b.inner = (uint)min((ulong)Y_COLS, left);                                            \
  wide = is_wide(b, sizeof(WEIGHT_TYPE)) && b.inner % (16 / sizeof(WEIGHT_TYPE)) == 0; \
  if (wide) FETCH(b_units, b, Y_COLS, WEIGHT_TYPE)

  FETCH_B(cols)
  for (ulong col0 = 0; col0 < cols; col0 += Y_COLS, y += Y_COLS) {
    barrier(CLK_LOCAL_MEM_FENCE);  // the tile before has been read
    if (wide) {
      PUT(tiles, B_PITCH, b_units, b, COLS, Y_COLS, WEIGHT_TYPE, CODE(WEIGHT))
    } else {
      fill_tile(tiles, B_PITCH, b, COLS, Y_COLS, CODE(WEIGHT));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (col0 + Y_COLS < cols) {
      b.at += Y_COLS * b.inner_step;
      FETCH_B(cols - col0 - Y_COLS)
    }
    EACH_ROW(BEGIN_ROW)
    for (uint at = 0; 4 * at < r; at++) MULTIPLY(t_tile, T_PITCH, tiles, B_PITCH, at)
#define END(R)                                                                                 \
  if (row_item + R * ROW_ITEMS < height && col0 + 4 * col_item < cols) {                       \
    store_y((sum##R) * factor, y + R * ROW_ITEMS * out_row, cols - col0 - 4 * col_item, beta); \
  }
    EACH_ROW(END)
  }
}
