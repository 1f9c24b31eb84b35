// y = beta*y + scale * t B on a GPU: a group of work-items computes a tile of y.
//
//   t = in [rows, inner]   B = weight [inner, cols]   y = out [rows, cols]   inner = r
//
//            STEP             COLS         Tiles of t and B lie in local memory as f32. An item has
//          +------+      +-----------+     ROWS x 4 sums in registers; four steps of j load one
//  tile    |  t   | STEP |     B     |     float4 of t per row and one of B per step. Items of one
//  rows    |      |      |           |     row of y are neighbours: t broadcasts, B and y are read
//          +------+      +-----------+     and written side by side.
//
// j ascends from 0 in every sum, whatever the tile is.
//
// t may come in parts (shrink leaves one per slice of k): part p is rows [p rows, (p+1) rows) of
// in. They are added ascending while t is fetched, and the groups of the first columns write the
// sum to `in_sum` if the caller wants t.
//
// knob    values       meaning
// GROUP   64 128 256   work-items of a group
// ROWS    1 2 4 8      rows of an item; they lie ROW_ITEMS apart
// COLS    64 128 256   columns of a tile (32 where local memory is below 16 KB)
// STEP    16 32        j of a tile: ranks up to it take one step
//
// 8 x 4 sums need 4 + 8 loads of a float4 for 128 multiply-adds, of which the 8 of t broadcast. The
// next step is on its way in registers while this one is multiplied. Local memory: 4 (rows of the
// tile (STEP + 4) + STEP (COLS + 4)) bytes, 10 to 19 KB.

#include "tile_gpu.clh"

#define COL_ITEMS (COLS / 4)
#define ROW_ITEMS (GROUP / COL_ITEMS)
#define TILE_ROWS (ROWS * ROW_ITEMS)
#define T_PITCH (STEP + 4)
#define B_PITCH (COLS + 4)
#define T_ELEMENTS (TILE_ROWS * STEP)
#define T_SHARE ((T_ELEMENTS + GROUP - 1) / GROUP)

// An element of t, its parts added up; parts are f32.
static float t_element(tile_source t, uint2 place, ulong parts, ulong part_length) {
  if (parts <= 1 || !is_inside(t, place)) return element(t, place, CODE(IN));
  return add_parts((__global const float *)address(t, place), parts, part_length);
}

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void expand_gpu(PRODUCT_ARGUMENTS) {
  __local float4 t_tile[TILE_ROWS * T_PITCH / 4], b_tile[STEP * B_PITCH / 4];
  float t_values[T_SHARE];
  uint4 b_units[SHARE(STEP * COLS, WEIGHT_TYPE)];

  const uint id = (uint)get_local_id(0), col_item = id % COL_ITEMS, row_item = id / COL_ITEMS;
  const ulong2 start = tile_start(cols, TILE_ROWS, COLS);
  const ulong row0 = start.x, col0 = start.y;

  tile_source t = {(__global const uchar *)(in + in_offset + row0 * in_row),
                   in_row * sizeof(IN_TYPE), in_col * sizeof(IN_TYPE),
                   (uint)min((ulong)TILE_ROWS, rows - row0), STEP};
  tile_source b = {(__global const uchar *)(weight + weight_offset + col0 * weight_col),
                   weight_row * sizeof(WEIGHT_TYPE), weight_col * sizeof(WEIGHT_TYPE), STEP,
                   (uint)min((ulong)COLS, cols - col0)};
  const bool wide = is_wide(b, sizeof(WEIGHT_TYPE)) && b.inner % (16 / sizeof(WEIGHT_TYPE)) == 0;
#define FETCH_STEP(left)                            \
  t.inner = b.outer = (uint)min((ulong)STEP, left); \
  if (wide) FETCH(b_units, b, COLS, WEIGHT_TYPE)    \
  for (uint n = 0; n < T_SHARE; n++)                \
    t_values[n] =                                   \
        t_element(t, place_of(t, n * GROUP + id, TILE_ROWS, STEP), in_parts, rows * in_row);

  EACH_ROW(BEGIN_ROW)
  FETCH_STEP(inner)
  for (ulong j = 0; j < inner; j += STEP) {
    const uint depth = t.inner;
    barrier(CLK_LOCAL_MEM_FENCE);  // the tiles before have been read
    for (uint n = 0; n < T_SHARE; n++) {
      const uint2 place = place_of(t, n * GROUP + id, TILE_ROWS, STEP);
      if (n * GROUP + id >= T_ELEMENTS) continue;
      ((__local float *)t_tile)[place.x * T_PITCH + place.y] = t_values[n];
      if (in_sum_row == 0 || col0 > 0 || place.x >= t.outer || place.y >= depth) continue;
      in_sum[in_sum_offset + (row0 + place.x) * in_sum_row + j + place.y] = t_values[n];
    }
    if (wide) {
      PUT(b_tile, B_PITCH, b_units, b, STEP, COLS, WEIGHT_TYPE, CODE(WEIGHT))
    } else {
      fill_tile(b_tile, B_PITCH, b, STEP, COLS, CODE(WEIGHT));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    if (j + STEP < inner) {
      t.at += STEP * t.inner_step;
      b.at += STEP * b.outer_step;
      FETCH_STEP(inner - j - STEP)
    }
    for (uint at = 0; 4 * at < depth; at++) MULTIPLY(t_tile, T_PITCH, b_tile, B_PITCH, at)
  }

  if (col0 + 4 * col_item >= cols) return;
  const float factor = scale[scale_offset];
  __global OUT_TYPE *y = out + out_offset + (row0 + row_item) * out_row + col0 + 4 * col_item;
#define END(R)                                                                                 \
  if (row0 + row_item + R * ROW_ITEMS < rows) {                                                \
    store_y((sum##R) * factor, y + R * ROW_ITEMS * out_row, cols - col0 - 4 * col_item, beta); \
  }
  EACH_ROW(END)
}
