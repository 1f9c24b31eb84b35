// y = beta*y + scale * t B on a CPU: one work-item is one group and computes a block of y.
//
//   t = in [rows, inner]   B = weight [inner, cols]   y = out [rows, cols]   inner = r
//
//          r             cols                  A tile is ROWS x 2 vectors of sums in registers:
//        +---+      +-----------+              every step of j loads two vectors of B and
//   ROWS | t |    r |  2 WIDTH  |              broadcasts one value of t per row. The sum over j
//        +---+      +-----------+              runs in ascending order for every knob.
//
// knob         values       meaning
// WIDTH        4 8 16       lanes of a vector
// ROWS         1 4 6 12     rows of a tile: 6 where 16 registers hold the sums, 12 where 32 do
// PACK_WEIGHT  0 1          copy an inner x 2 WIDTH panel of B to f32 first: 16-bit, transposed, a
//                           number of columns that is no multiple of 2 WIDTH, or a large rank
// PACK_IN      0 1          copy ROWS x inner of t to f32 first: 16-bit or transposed (A of weight)
// DEPTH        16 32 ...    the rank that the packed panels have room for
//
// Private memory: 64 KiB of panels and ROWS * DEPTH * 4 bytes, at most 88 KiB.

#define LANES (2 * WIDTH)
#define PANELS (DEPTH * LANES < 16384 ? 16384 / (DEPTH * LANES) : 1)  // 64 KB of them

#if PACK_IN
#define T_SPACE __private
#else
#define T_SPACE __global
#endif
#if PACK_WEIGHT
#define B_SPACE __private
#else
#define B_SPACE __global
#endif

static void put_vector(VECTOR sum, __global OUT_TYPE *y, float beta) {
  if (beta != 0) sum += beta * LOAD_VECTOR(OUT, y);
  STORE_VECTOR(OUT, sum, y);
}

// A row of a tile goes to y; a tile at the right edge has fewer lanes.
static void put(VECTOR low, VECTOR high, __global OUT_TYPE *y, uint lanes, float beta) {
  if (lanes == LANES) {
    put_vector(low, y, beta);
    put_vector(high, y + WIDTH, beta);
    return;
  }
  float part[LANES];
  STORE_VECTOR(F32, low, part);
  STORE_VECTOR(F32, high, part + WIDTH);
  for (uint lane = 0; lane < lanes; lane++) {
    float value = part[lane];
    if (beta != 0) value += beta * LOAD(OUT, y, lane);
    STORE(OUT, value, y, lane);
  }
}

// t [rows, depth] times b [depth, LANES] into y [rows, lanes]; rows <= ROWS, lanes <= LANES.
static void tile(T_SPACE const float *t, ulong t_row, B_SPACE const float *b, ulong b_row,
                 uint depth, uint rows, __global OUT_TYPE *y, ulong y_row, uint lanes, float scale,
                 float beta) {
// Rows past the last one repeat it, and are not stored.
#define BEGIN(R)                                                  \
  T_SPACE const float *t##R = t + min((uint)R, rows - 1) * t_row; \
  VECTOR low##R = 0, high##R = 0;
  EACH_ROW(BEGIN)
  for (uint j = 0; j < depth; j++) {
    VECTOR low = LOAD_VECTOR(F32, b + j * b_row);
    VECTOR high = LOAD_VECTOR(F32, b + j * b_row + WIDTH);
#define MULTIPLY(R)        \
  low##R += t##R[j] * low; \
  high##R += t##R[j] * high;
    EACH_ROW(MULTIPLY)
  }
#define END(R) \
  if (R < rows) put((low##R) * scale, (high##R) * scale, y + R * y_row, lanes, beta);
  EACH_ROW(END)
}

// t [rows, depth] as f32: where it lies, or copied to strip [ROWS, DEPTH].
static T_SPACE const float *strip_of(__global const IN_TYPE *t, ulong t_row, ulong t_col, uint rows,
                                     uint depth, __private float *strip) {
#if PACK_IN
  for (uint i = 0; i < rows; i++) {
    for (uint j = 0; j < depth; j++) {
      strip[i * DEPTH + j] = LOAD(IN, t, i * t_row + j * t_col);
    }
  }
  return strip;
#else
  return t;
#endif
}

// B [depth, lanes] as f32: where it lies, or copied to panel [depth, LANES], with zeros in the
// lanes that B does not have.
static B_SPACE const float *panel_of(__global const WEIGHT_TYPE *b, ulong b_row, ulong b_col,
                                     uint depth, uint lanes, __private float *panel) {
#if PACK_WEIGHT
  for (uint j = 0; j < depth; j++) {
    if (lanes == LANES && b_col == 1) {
      STORE_VECTOR(F32, LOAD_VECTOR(WEIGHT, b + j * b_row), panel + j * LANES);
      STORE_VECTOR(F32, LOAD_VECTOR(WEIGHT, b + j * b_row + WIDTH), panel + j * LANES + WIDTH);
      continue;
    }
    for (uint lane = 0; lane < LANES; lane++) {
      panel[j * LANES + lane] = lane < lanes ? LOAD(WEIGHT, b, j * b_row + lane * b_col) : 0;
    }
  }
  return panel;
#else
  return b;
#endif
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void expand_cpu(PRODUCT_ARGUMENTS) {
  __private float strip[PACK_IN ? ROWS * DEPTH : 1],
      panel[PACK_WEIGHT ? PANELS * DEPTH * LANES : 1];
  const ulong t_row = PACK_IN ? DEPTH : in_row, b_row = PACK_WEIGHT ? LANES : weight_row;
  const ulong2 row_share = share_of(rows, ROWS, 0), col_share = share_of(cols, LANES, 1);
  const float factor = scale[scale_offset];
  const uint depth = (uint)inner;
  in += in_offset;
  weight += weight_offset;
  out += out_offset;
#if PACK_WEIGHT
  // As many panels as there is room for are packed at once and used for all rows of the block: y is
  // written in long pieces.
  for (ulong o0 = col_share.x; o0 < col_share.y; o0 += PANELS * LANES) {
    const ulong o1 = min(o0 + PANELS * LANES, col_share.y);
    uint slot = 0;
    for (ulong o = o0; o < o1; o += LANES, slot++) {
      panel_of(weight + o * weight_col, weight_row, weight_col, depth,
               (uint)min((ulong)LANES, o1 - o), panel + slot * DEPTH * LANES);
    }
    for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
      const uint height = (uint)min((ulong)ROWS, row_share.y - i);
      T_SPACE const float *t = strip_of(in + i * in_row, in_row, in_col, height, depth, strip);
      slot = 0;
      for (ulong o = o0; o < o1; o += LANES, slot++) {
        tile(t, t_row, panel + slot * DEPTH * LANES, b_row, depth, height, out + i * out_row + o,
             out_row, (uint)min((ulong)LANES, o1 - o), factor, beta);
      }
    }
  }
#else
  // y is written along its rows.
  for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
    const uint height = (uint)min((ulong)ROWS, row_share.y - i);
    T_SPACE const float *t = strip_of(in + i * in_row, in_row, in_col, height, depth, strip);
    for (ulong o = col_share.x; o < col_share.y; o += LANES) {
      tile(t, t_row, weight + o, b_row, depth, height, out + i * out_row + o, out_row, LANES,
           factor, beta);
    }
  }
#endif
}
