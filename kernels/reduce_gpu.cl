// out = beta*out + scale * x^T w on a GPU: a group of work-items computes a tile of out.
//
//   x^T = in [rows, inner]   w = weight [inner, cols]   out [rows, cols], f32
//
//          tile rows        COLS        Both lie along the sum as they are stored: a step is STEP
//         +---------+    +---------+    rows of x and of w, read side by side and kept in local
//   STEP  |    x    |    |    w    |    memory as f32. An item has ROWS x 4 sums in registers; one
//         +---------+    +---------+    row of the tiles gives it ROWS values of x and 4 of w for
//              |              |         4 ROWS multiply-adds. Its rows lie in fours, of which
//              +---- out -----+         those of neighbours are neighbours.
//
// The output is small and the sum long, so the sum is cut into slices, by the shape alone, and each
// group computes one (out_parts of them, side by side in dimension 1). A second launch, told so by
// in_parts, adds them up: an item an element, slices ascending. k ascends within a slice. No knob
// changes that order.
//
// knob    values           meaning
// GROUP   64 128 256       work-items of a group
// ROWS    4 8              rows of an item
// COLS    8 ... 128        columns of a tile
// STEP    4 8 16 32        k of a tile
//
// Local memory: 4 STEP (rows of the tile + COLS) bytes, 5 to 9 KB.

#include "tile_gpu.clh"

#define SLICE 128  // also in src/product/reduce.c

#define COL_ITEMS (COLS / 4)
#define ROW_ITEMS (GROUP / COL_ITEMS)
#define TILE_ROWS (ROWS * ROW_ITEMS)

#if ROWS == 8
#define ITEM_VALUES(fours) (float8)((fours)[0], (fours)[ROW_ITEMS])
#else
#define ITEM_VALUES(fours) (fours)[0]
#endif
#define ITEM_ROW(R) (R / 4 * 4 * ROW_ITEMS + 4 * row_item + R % 4)

// Row `at` of the tiles; of the last step there are zeros up to a multiple of four.
#define MULTIPLY_LINE(at)                                                                     \
  {                                                                                           \
    const float4 weights = w_tile[(at)*COL_ITEMS + col_item];                                 \
    const JOIN(float, ROWS) values = ITEM_VALUES(x_tile + (at) * (TILE_ROWS / 4) + row_item); \
    EACH_ROW(MULTIPLY_VALUE)                                                                  \
  }
#define MULTIPLY_VALUE(R) sum##R += values.s##R * weights;

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void reduce_gpu(PRODUCT_ARGUMENTS) {
  __local float4 x_tile[STEP * TILE_ROWS / 4], w_tile[STEP * COL_ITEMS];
  uint4 x_units[SHARE(STEP * TILE_ROWS, IN_TYPE)], w_units[SHARE(STEP * COLS, WEIGHT_TYPE)];

  const uint id = (uint)get_local_id(0), col_item = id % COL_ITEMS, row_item = id / COL_ITEMS;
  const bool adds = in_parts > 1;
  const ulong2 start = tile_start(cols, TILE_ROWS, COLS);
  const ulong row0 = start.x, col0 = start.y, parts = max(out_parts, (ulong)1);
  const ulong slice = ((inner + parts - 1) / parts + SLICE - 1) / SLICE * SLICE;
  const ulong first = get_group_id(1) * slice, length = adds ? 0 : min(slice, inner - first);

  tile_source x = {(__global const uchar *)(in + in_offset + first * in_col + row0 * in_row),
                   in_col * sizeof(IN_TYPE), in_row * sizeof(IN_TYPE), STEP,
                   (uint)min((ulong)TILE_ROWS, rows - row0)};
  tile_source w = {
      (__global const uchar *)(weight + weight_offset + first * weight_row + col0 * weight_col),
      weight_row * sizeof(WEIGHT_TYPE), weight_col * sizeof(WEIGHT_TYPE), STEP,
      (uint)min((ulong)COLS, cols - col0)};
  const bool wide_x = is_wide(x, sizeof(IN_TYPE)) && x.inner % (16 / sizeof(IN_TYPE)) == 0;
  const bool wide_w = is_wide(w, sizeof(WEIGHT_TYPE)) && w.inner % (16 / sizeof(WEIGHT_TYPE)) == 0;

#define FETCH_STEP(left)                              \
  if (left > 0) {                                     \
    x.outer = w.outer = (uint)min((ulong)STEP, left); \
    if (wide_x) FETCH(x_units, x, TILE_ROWS, IN_TYPE) \
    if (wide_w) FETCH(w_units, w, COLS, WEIGHT_TYPE)  \
  }

  EACH_ROW(BEGIN_ROW)
  FETCH_STEP(length)
  for (ulong k = 0; k < length; k += STEP) {
    const uint depth = x.outer;
    barrier(CLK_LOCAL_MEM_FENCE);  // the tiles before have been read
    if (wide_x) {
      PUT(x_tile, TILE_ROWS, x_units, x, STEP, TILE_ROWS, IN_TYPE, CODE(IN))
    } else {
      fill_tile(x_tile, TILE_ROWS, x, STEP, TILE_ROWS, CODE(IN));
    }
    if (wide_w) {
      PUT(w_tile, COLS, w_units, w, STEP, COLS, WEIGHT_TYPE, CODE(WEIGHT))
    } else {
      fill_tile(w_tile, COLS, w, STEP, COLS, CODE(WEIGHT));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    x.at += STEP * x.outer_step;
    w.at += STEP * w.outer_step;
    FETCH_STEP(length - k - depth)
    for (uint at = 0; at < depth; at += 4) {
      MULTIPLY_LINE(at) MULTIPLY_LINE(at + 1) MULTIPLY_LINE(at + 2) MULTIPLY_LINE(at + 3)
    }
  }

  const float factor = scale[scale_offset];
  if (adds) {
    const ulong item = get_global_id(0), i = item / cols, o = item - i * cols;
    if (item >= rows * cols) return;
    __global const float *part = (__global const float *)in + in_offset + i * in_row + o;
    float value = add_parts(part, in_parts, rows * in_row) * factor;
    __global float *y = out + out_offset + i * out_row + o;
    *y = beta != 0 ? value + beta * *y : value;
    return;
  }
  if (col0 + 4 * col_item >= cols) return;
  const ulong above = get_group_id(1) * rows + row0;
#define END(R)                                                                        \
  if (row0 + ITEM_ROW(R) < rows) {                                                    \
    store_y((sum##R) * factor,                                                        \
            out + out_offset + (above + ITEM_ROW(R)) * out_row + col0 + 4 * col_item, \
            cols - col0 - 4 * col_item, beta);                                        \
  }
  EACH_ROW(END)
}
