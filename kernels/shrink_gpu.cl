// t = x A on a GPU: a group of work-items computes a tile of t.
//
//   x = in [rows, inner]   A = weight [inner, cols]   t = out [rows, cols], f32
//
//             STEP              COLS      Tiles of x and A lie in local memory as f32. An item has
//          +---------+        +------+    ROWS x 4 sums in registers; four steps of k load one
//  tile    | 0 1 2 3 |        |  0   |    float4 of x per row and one of A per step. The group has
//  rows    | 0 1 2 3 |   STEP |  1   |    LANES layers of items: within every WINDOW of 64 k, layer
//          +---------+        |  2   |    l takes the RUN of 16 that starts at 16 l, so that a tile
//                             |  3   |    of few outputs still has work for the whole group.
//                             +------+
//
// The order of every sum: k ascending within a lane; the lanes of a slice, (0+1) + (2+3); slices,
// ascending. There are at most SLICES of them, a multiple of SLICE long, by the length of k alone.
// A group either walks all slices and adds them up in t, or takes one (out_parts of them, side by
// side in dimension 1) and leaves the adding to the reader. Neither rows nor tiles nor parts change
// that order, so they change no bit of a row.
//
// knob    values       meaning
// GROUP   64 128 256   work-items of a group
// ROWS    1 2 4 8      rows of an item; they lie ROW_ITEMS apart
// COLS    8 ... 64     columns of a tile
// STEP    64 128 256   k of a tile
//
// x is read 16 bytes an item, neighbours side by side: 128 bytes or more of every row at a time.
// The units of the next step are on their way in registers while this one is multiplied. Local
// memory: 4 (rows of the tile (STEP + 4) + STEP (COLS + 4)) bytes, 14 to 29 KB. The 4 beyond STEP
// put the float4 of eight neighbouring rows into different banks; items of one row read one
// address, which broadcasts.

#include "tile_gpu.clh"

#define LANES 4
#define RUN 16
#define WINDOW (LANES * RUN)
#define SLICE 512
#define SLICES 8  // these three are also in src/product/shrink.c

#define COL_ITEMS (COLS / 4)
#define LANE_ITEMS (GROUP / LANES)
#define ROW_ITEMS (LANE_ITEMS / COL_ITEMS)
#define TILE_ROWS (ROWS * ROW_ITEMS)
#define X_PITCH (STEP + 4)
#define A_PITCH (COLS + 4)

// Four elements of t, or what there is of them.
static void put(float4 value, __global float *t, ulong count, bool begins) {
#define PUT_ONE(o, e) \
  if (count > o) t[o] = begins ? value.e : t[o] + value.e;
  PUT_ONE(0, x) PUT_ONE(1, y) PUT_ONE(2, z) PUT_ONE(3, w)
}

__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void shrink_gpu(PRODUCT_ARGUMENTS) {
  __local float4 tiles[(TILE_ROWS * X_PITCH + STEP * A_PITCH) / 4];
  __local float4 *const x_tile = tiles, *const a_tile = tiles + TILE_ROWS * X_PITCH / 4;
  uint4 x_units[SHARE(TILE_ROWS * STEP, IN_TYPE)], a_units[SHARE(STEP * COLS, WEIGHT_TYPE)];

  const uint id = (uint)get_local_id(0), lane = id / LANE_ITEMS;
  const uint col_item = id % COL_ITEMS, row_item = id / COL_ITEMS % ROW_ITEMS;
  const ulong2 start = tile_start(cols, TILE_ROWS, COLS);
  const ulong row0 = start.x, col0 = start.y;

  const ulong slice = (inner + SLICE * SLICES - 1) / (SLICE * SLICES) * SLICE;
  const ulong first = out_parts > 1 ? get_group_id(1) * slice : 0;
  const ulong last = out_parts > 1 ? min(first + slice, inner) : inner;

  tile_source x = {(__global const uchar *)(in + in_offset + row0 * in_row + first * in_col),
                   in_row * sizeof(IN_TYPE), in_col * sizeof(IN_TYPE),
                   (uint)min((ulong)TILE_ROWS, rows - row0), STEP};
  tile_source a = {
      (__global const uchar *)(weight + weight_offset + first * weight_row + col0 * weight_col),
      weight_row * sizeof(WEIGHT_TYPE), weight_col * sizeof(WEIGHT_TYPE), STEP,
      (uint)min((ulong)COLS, cols - col0)};
  const bool wide_x = is_wide(x, sizeof(IN_TYPE));
  const bool wide_a = is_wide(a, sizeof(WEIGHT_TYPE)) && a.inner % (16 / sizeof(WEIGHT_TYPE)) == 0;
  __global float *t =
      out + out_offset + (get_group_id(1) * rows + row0 + row_item) * out_row + col0 + 4 * col_item;
  const float factor = scale[scale_offset];

#define BEGIN(R) float4 sum##R = 0;
  EACH_ROW(BEGIN)
  bool begins = true;  // the slice is the first of t
  if (first + STEP <= last) {
    if (wide_x) FETCH(x_units, x, STEP, IN_TYPE)
    if (wide_a) FETCH(a_units, a, COLS, WEIGHT_TYPE)
  }
  for (ulong k = first, end = min(first + slice, last); k < last; k += STEP) {
    const bool whole = k + STEP <= last;
    if (!whole) x.inner = a.outer = (uint)(last - k);
    barrier(CLK_LOCAL_MEM_FENCE);  // the tiles before, or the lanes below, have been read
    if (wide_x && whole) {
      PUT(x_tile, X_PITCH, x_units, x, TILE_ROWS, STEP, IN_TYPE, CODE(IN))
    } else {
      fill_tile(x_tile, X_PITCH, x, TILE_ROWS, STEP, CODE(IN));
    }
    if (wide_a && whole) {
      PUT(a_tile, A_PITCH, a_units, a, STEP, COLS, WEIGHT_TYPE, CODE(WEIGHT))
    } else {
      fill_tile(a_tile, A_PITCH, a, STEP, COLS, CODE(WEIGHT));
    }
    barrier(CLK_LOCAL_MEM_FENCE);
    x.at += STEP * x.inner_step;
    a.at += STEP * a.outer_step;
    if (k + 2 * STEP <= last) {
      if (wide_x) FETCH(x_units, x, STEP, IN_TYPE)
      if (wide_a) FETCH(a_units, a, COLS, WEIGHT_TYPE)
    }
    const uint windows = (uint)(min((ulong)STEP, end - k) + WINDOW - 1) / WINDOW;
    for (uint window = 0; window < windows; window++) {
      for (uint four = 0; four < RUN / 4; four++) {
        const uint at = (window * WINDOW + lane * RUN) / 4 + four;
        const __local float4 *weights = a_tile + at * A_PITCH + col_item;
        const float4 weight0 = weights[0], weight1 = weights[A_PITCH / 4],
                     weight2 = weights[A_PITCH / 2], weight3 = weights[A_PITCH / 4 * 3];
#define MULTIPLY(R) MULTIPLY_FOUR(R, x_tile[(row_item + R * ROW_ITEMS) * (X_PITCH / 4) + at])
        EACH_ROW(MULTIPLY)
      }
    }
    if (k + STEP < end) continue;
// The lanes of a slice meet in the memory of the tiles, one row of the items at a time.
#define MEET(R)                                                                                  \
  barrier(CLK_LOCAL_MEM_FENCE);                                                                  \
  tiles[id] = sum##R;                                                                            \
  sum##R = 0;                                                                                    \
  barrier(CLK_LOCAL_MEM_FENCE);                                                                  \
  if (lane == 0 && row0 + row_item + R * ROW_ITEMS < rows && col0 + 4 * col_item < cols) {       \
    const float4 low = tiles[id] + tiles[id + LANE_ITEMS];                                       \
    const float4 high = tiles[id + 2 * LANE_ITEMS] + tiles[id + 3 * LANE_ITEMS];                 \
    put((low + high) * factor, t + R * ROW_ITEMS * out_row, cols - col0 - 4 * col_item, begins); \
  }
    EACH_ROW(MEET)
    begins = false;
    end = min(end + slice, last);
  }
}
