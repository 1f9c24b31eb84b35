// out = beta*out + scale * in weight on a CPU, every shape and view: one work-item is one group.
//
//   in [rows, inner]   weight [inner, cols]   out [rows, cols]
//
//             strip                    The long side of out, its columns or (LONG_ROWS) its rows,
//             is
//          +---------+                 walked in strips, the other side in bands. CHUNK steps of
//          the
//    CHUNK |  wide   | PANELS of       inner dimension of both are packed to f32; a tile is ROWS x
//          +---------+ 2 WIDTH lanes   2 WIDTH sums in registers: every step loads two vectors of
//   +---+  +---------+                 the strip and broadcasts one value of the band per row.
//   |   |  |  sums   | band            Sums of chunks are added in ascending order, which is the
//   +---+  +---------+                 same for every knob; out is touched once, at the end.
//   narrow
//
// knob       values    meaning
// WIDTH      4 8 16    lanes of a vector
// ROWS       1 4 8     rows of a tile: 4 where 16 registers hold the sums, 8 where 32 do
// LONG_ROWS  0 1       the strip runs along the rows of out: dA = x^T dt
//
// Private memory: 64 KiB of strip, 16 KiB of band and 16 KiB of sums.

#include "rows_cpu.clh"

#define CHUNK 128
#define BAND 32
#define LANES (2 * WIDTH)
#define PANELS (128 / LANES)

#if LONG_ROWS
#define WIDE IN
#define NARROW WEIGHT
#else
#define WIDE WEIGHT
#define NARROW IN
#endif

// wide [depth, lanes] to panels [PANELS][CHUNK][LANES], with zeros up to a whole panel.
static void pack_wide(__global const TYPE(WIDE) * from, ulong step, ulong lane_step, uint depth,
                      uint lanes, __private float *panels) {
  for (uint i = 0; i < depth; i++, from += step) {
    for (uint first = 0; first < lanes; first += LANES) {
      __private float *to = panels + (first / LANES * CHUNK + i) * LANES;
      if (lane_step == 1 && first + LANES <= lanes) {
        STORE_VECTOR(F32, LOAD_VECTOR(WIDE, from + first), to);
        STORE_VECTOR(F32, LOAD_VECTOR(WIDE, from + first + WIDTH), to + WIDTH);
        continue;
      }
      for (uint lane = 0; lane < LANES; lane++) {
        to[lane] = first + lane < lanes ? LOAD(WIDE, from, (first + lane) * lane_step) : 0;
      }
    }
  }
}

// narrow [depth, height] to band [CHUNK][BAND], with zeros up to a whole tile.
static void pack_narrow(__global const TYPE(NARROW) * from, ulong step, ulong row_step, uint depth,
                        uint height, __private float *band) {
  const uint padded = (height + ROWS - 1) / ROWS * ROWS;
  for (uint i = 0; i < depth; i++, from += step) {
    uint j = 0;
    for (; row_step == 1 && j + WIDTH <= height; j += WIDTH) {
      STORE_VECTOR(F32, LOAD_VECTOR(NARROW, from + j), band + i * BAND + j);
    }
    for (; j < padded; j++) {
      band[i * BAND + j] = j < height ? LOAD(NARROW, from, j * row_step) : 0;
    }
  }
}

// sums [ROWS, LANES] += narrow [depth, ROWS]^T wide [depth, LANES]
static void tile(__private const float *narrow, __private const float *wide, uint depth,
                 __private float *sums) {
#define BEGIN(R) VECTOR low##R = 0, high##R = 0;
  EACH_ROW(BEGIN)
  for (uint i = 0; i < depth; i++) {
    VECTOR low = LOAD_VECTOR(F32, wide + i * LANES);
    VECTOR high = LOAD_VECTOR(F32, wide + i * LANES + WIDTH);
#define MULTIPLY(R)                     \
  low##R += narrow[i * BAND + R] * low; \
  high##R += narrow[i * BAND + R] * high;
    EACH_ROW(MULTIPLY)
  }
#define END(R)                                                                      \
  STORE_VECTOR(F32, LOAD_VECTOR(F32, sums + R * LANES) + low##R, sums + R * LANES); \
  STORE_VECTOR(F32, LOAD_VECTOR(F32, sums + R * LANES + WIDTH) + high##R, sums + R * LANES + WIDTH);
  EACH_ROW(END)
}

// sums [height, lanes], in panels [PANELS][BAND][LANES], to out.
static void put(__private const float *sums, uint height, uint lanes, __global OUT_TYPE *out,
                ulong row_step, ulong lane_step, float scale, float beta) {
  for (uint j = 0; j < height; j++) {
    for (uint first = 0; first < lanes; first += LANES) {
      __private const float *from = sums + (first / LANES * BAND + j) * LANES;
      __global OUT_TYPE *to = out + j * row_step + first * lane_step;
      if (lane_step == 1 && first + LANES <= lanes) {
        VECTOR low = scale * LOAD_VECTOR(F32, from);
        VECTOR high = scale * LOAD_VECTOR(F32, from + WIDTH);
        if (beta != 0) low += beta * LOAD_VECTOR(OUT, to);
        if (beta != 0) high += beta * LOAD_VECTOR(OUT, to + WIDTH);
        STORE_VECTOR(OUT, low, to);
        STORE_VECTOR(OUT, high, to + WIDTH);
        continue;
      }
      const uint count = min((uint)LANES, lanes - first);
      for (uint lane = 0; lane < count; lane++) {
        float value = scale * from[lane];
        if (beta != 0) value += beta * LOAD(OUT, to, lane * lane_step);
        STORE(OUT, value, to, lane * lane_step);
      }
    }
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void gemm_cpu(PRODUCT_ARGUMENTS) {
  __private float panels[PANELS * CHUNK * LANES], band[CHUNK * BAND], sums[PANELS * BAND * LANES];
  const float factor = scale[scale_offset];
#if LONG_ROWS
  const ulong2 wide = share_of(rows, LANES, 0), narrow = share_of(cols, BAND, 1);
  __global const TYPE(WIDE) *wide_from = in + in_offset;
  __global const TYPE(NARROW) *narrow_from = weight + weight_offset;
  const ulong wide_step = in_col, lane_step = in_row, narrow_step = weight_row,
              row_step = weight_col, out_lane = out_row, out_step = 1;
#else
  const ulong2 narrow = share_of(rows, BAND, 0), wide = share_of(cols, LANES, 1);
  __global const TYPE(WIDE) *wide_from = weight + weight_offset;
  __global const TYPE(NARROW) *narrow_from = in + in_offset;
  const ulong wide_step = weight_row, lane_step = weight_col, narrow_step = in_col,
              row_step = in_row, out_lane = 1, out_step = out_row;
#endif
  out += out_offset;
  for (ulong j = narrow.x; j < narrow.y; j += BAND) {
    const uint height = (uint)min((ulong)BAND, narrow.y - j);
    for (ulong o = wide.x; o < wide.y; o += PANELS * LANES) {
      const uint lanes = (uint)min((ulong)(PANELS * LANES), wide.y - o);
      for (uint n = 0; n < PANELS * BAND * LANES; n += WIDTH) STORE_VECTOR(F32, 0, sums + n);
      for (ulong i = 0; i < inner; i += CHUNK) {
        const uint depth = (uint)min((ulong)CHUNK, inner - i);
        pack_narrow(narrow_from + i * narrow_step + j * row_step, narrow_step, row_step, depth,
                    height, band);
        pack_wide(wide_from + i * wide_step + o * lane_step, wide_step, lane_step, depth, lanes,
                  panels);
        for (uint p = 0; p * LANES < lanes; p++) {
          for (uint row = 0; row < height; row += ROWS) {
            tile(band + row, panels + p * CHUNK * LANES, depth, sums + (p * BAND + row) * LANES);
          }
        }
      }
      put(sums, height, lanes, out + j * out_step + o * out_lane, out_step, out_lane, factor, beta);
    }
  }
}
