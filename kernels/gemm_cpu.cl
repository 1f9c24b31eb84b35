// out = beta*out + scale * in weight on a CPU, every shape and view: one work-item is one group.
//
//   in [rows, inner]   weight [inner, cols]   out [rows, cols]
//
//              slice                  The long side of out, its columns or (LONG_ROWS) its rows, is
//           +----+----+----+          walked in slices of panels, the other side in bands. CHUNK
//     CHUNK |panel    |    | wide     steps of the inner dimension at a time, each panel is
//           +----+----+----+          multiplied by the whole band: tiles of ROWS x 2 WIDTH sums in
//   +-----+ +----+----+----+          registers, each step two vectors of the panel and one value
//   |     | |    |    |    | band     of the band per row. The first tile reads the panel where it
//   +-----+ +----+----+----+          lies and leaves an f32 copy for the others, since rows of a
//   narrow        sums                power-of-two length share a few sets of a cache.
//
// Sums of chunks are added in ascending order, the same for every knob; out is touched once.
//
// knob       values    meaning
// WIDTH      4 8 16    lanes of a vector
// ROWS       1 4 8     rows of a tile: 4 where 16 registers hold the sums, 8 where 32 do
// LONG_ROWS  0 1       the slice runs along the rows of out: dA = x^T dt
//
// Private memory: 64 KiB of sums, 8 KiB of band and 2 to 4 KiB of panel.

#include "rows_cpu.clh"

#define CHUNK 32
#define BAND 64
#define LANES (2 * WIDTH)
#define SUMS 16384

// Panels that are fetched ahead, into the second cache: 1024 x 4096 at rank 16 took 0.43 ms, and
// 0.84 without.
#define AHEAD 2

#if LONG_ROWS
#define WIDE IN
#define NARROW WEIGHT
#else
#define WIDE WEIGHT
#define NARROW IN
#endif

// narrow [depth, height] to band, tile by tile: [tiles][CHUNK][ROWS], zeros up to a whole tile.
static void pack_band(__global const TYPE(NARROW) * from, ulong step, ulong row_step, uint depth,
                      uint height, __private float *band) {
  for (uint row = 0; row < height; row += ROWS, band += CHUNK * ROWS) {
    const bool dense = row_step == 1 && row + ROWS <= height;
    for (uint i = 0; i < depth; i++) {
      __global const TYPE(NARROW) *column = from + i * step + row * row_step;
      for (uint j = 0; dense && j < ROWS; j++) band[i * ROWS + j] = LOAD(NARROW, column, j);
      for (uint j = 0; !dense && j < ROWS; j++) {
        band[i * ROWS + j] = row + j < height ? LOAD(NARROW, column, j * row_step) : 0;
      }
    }
  }
}

// wide [depth, lanes] of any steps to panel [CHUNK][LANES], with zeros up to a whole panel.
static void pack_panel(__global const TYPE(WIDE) * from, ulong step, ulong lane_step, uint depth,
                       uint lanes, __private float *panel) {
  for (uint lane = 0; lane < LANES; lane++) {
    for (uint i = 0; i < depth; i++) {
      panel[i * LANES + lane] = lane < lanes ? LOAD(WIDE, from, i * step + lane * lane_step) : 0;
    }
  }
}

#define BEGIN(R) VECTOR low##R = 0, high##R = 0;
#define MULTIPLY(R)                     \
  low##R += narrow[i * ROWS + R] * low; \
  high##R += narrow[i * ROWS + R] * high;
#define END(R)                                                                      \
  STORE_VECTOR(F32, LOAD_VECTOR(F32, sums + R * LANES) + low##R, sums + R * LANES); \
  STORE_VECTOR(F32, LOAD_VECTOR(F32, sums + R * LANES + WIDTH) + high##R, sums + R * LANES + WIDTH);

// sums [ROWS, LANES] += narrow [depth, ROWS]^T panel [depth, LANES]
static void tile(__private const float *narrow, __private const float *panel, uint depth,
                 __private float *sums) {
  EACH_ROW(BEGIN)
  for (uint i = 0; i < depth; i++) {
    const VECTOR low = LOAD_VECTOR(F32, panel + i * LANES);
    const VECTOR high = LOAD_VECTOR(F32, panel + i * LANES + WIDTH);
    EACH_ROW(MULTIPLY)
  }
  EACH_ROW(END)
}

// The same of a whole panel where it lies, `step` elements from row to row, which is copied.
static void tile_and_copy(__private const float *narrow, __global const TYPE(WIDE) * wide,
                          ulong step, uint depth, __private float *sums, __private float *panel) {
  EACH_ROW(BEGIN)
  for (uint i = 0; i < depth; i++) {
    const VECTOR low = LOAD_VECTOR(WIDE, wide + i * step);
    const VECTOR high = LOAD_VECTOR(WIDE, wide + i * step + WIDTH);
    PREFETCH(wide + i * step + AHEAD * LANES);
    PREFETCH(wide + i * step + AHEAD * LANES + WIDTH);
    STORE_VECTOR(F32, low, panel + i * LANES);
    STORE_VECTOR(F32, high, panel + i * LANES + WIDTH);
    EACH_ROW(MULTIPLY)
  }
  EACH_ROW(END)
}

// sums [height, lanes], in panels [padded][LANES], to out.
static void put(__private const float *sums, uint height, uint padded, uint lanes,
                __global OUT_TYPE *out, ulong row_step, ulong lane_step, float scale, float beta) {
  for (uint j = 0; j < height; j++) {
    for (uint first = 0; first < lanes; first += LANES) {
      __private const float *from = sums + first * padded + j * LANES;
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
  __private float panel[CHUNK * LANES], band[CHUNK * BAND], sums[SUMS];
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
    const uint padded = (height + ROWS - 1) / ROWS * ROWS;
    const ulong slice = SUMS / (padded * LANES) * LANES;
    for (ulong o = wide.x; o < wide.y; o += slice) {
      const uint lanes = (uint)min(slice, wide.y - o);
      for (uint n = 0; n < padded * ((lanes + LANES - 1) / LANES * LANES); n += WIDTH)
        STORE_VECTOR(F32, 0, sums + n);
      for (ulong i = 0; i < inner; i += CHUNK) {
        const uint depth = (uint)min((ulong)CHUNK, inner - i);
        pack_band(narrow_from + i * narrow_step + j * row_step, narrow_step, row_step, depth,
                  height, band);
        for (uint first = 0; first < lanes; first += LANES) {
          __global const TYPE(WIDE) *from = wide_from + i * wide_step + (o + first) * lane_step;
          __private float *to = sums + first * padded;
          const bool whole = lane_step == 1 && first + LANES <= lanes;
          if (whole)
            tile_and_copy(band, from, wide_step, depth, to, panel);
          else
            pack_panel(from, wide_step, lane_step, depth, min((uint)LANES, lanes - first), panel);
          for (uint row = whole ? ROWS : 0; row < padded; row += ROWS) {
            tile(band + row * CHUNK, panel, depth, to + row * LANES);
          }
        }
      }
      put(sums, height, padded, lanes, out + j * out_step + o * out_lane, out_step, out_lane,
          factor, beta);
    }
  }
}
