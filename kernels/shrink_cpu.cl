// t = x A on a CPU: one work-item is one group and computes a block of rows of t.
//
//   x = in [rows, inner]   A = weight [inner, cols]   t = out [rows, cols], f32
//
//            inner                  cols       A tile is ROWS x WIDTH sums in registers: every
//         +-----------+          +------+      step of k loads one vector of A and broadcasts
//    ROWS | CHUNK |   |    CHUNK |WIDTH |      one value of x per row. Sums run over CHUNK values
//         +-----------+          |------|      of k; the sums of chunks are added in ascending
//         |           |          |      |      order into t. That order is the same for every
//         +-----------+          +------+      knob and every number of rows.
//
// knob         values     meaning
// WIDTH        4 8 16     lanes of a vector
// ROWS         1 4 12     rows of a tile
// PACK_WEIGHT  0 1        copy a CHUNK x WIDTH panel of A to f32 first: 16-bit, transposed, or a
//                         rank that is no multiple of WIDTH
// PACK_IN      0 1        copy a ROWS x CHUNK strip of x to f32 first: 16-bit storage
//
// Private memory: 64 KiB of panels and ROWS * CHUNK * 4 bytes, at most 76 KiB.

#define CHUNK 256
#define PANELS (16384 / (CHUNK * WIDTH))  // 64 KB of them: a part of every L2

#if PACK_IN
#define X_SPACE __private
#else
#define X_SPACE __global
#endif
#if PACK_WEIGHT
#define A_SPACE __private
#else
#define A_SPACE __global
#endif

// A row of a tile goes to t: stored by the first chunk, added by the later ones.
static void put(VECTOR sum, __global float *t, uint lanes, bool first) {
  if (lanes == WIDTH) {
    if (!first) sum += LOAD_VECTOR(F32, t);
    STORE_VECTOR(F32, sum, t);
    return;
  }
  float part[WIDTH];
  STORE_VECTOR(F32, sum, part);
  for (uint lane = 0; lane < lanes; lane++) t[lane] = first ? part[lane] : t[lane] + part[lane];
}

// x [rows, depth] times a [depth, WIDTH] into t [rows, lanes]; rows <= ROWS, lanes <= WIDTH.
static void tile(X_SPACE const float *x, ulong x_row, A_SPACE const float *a, ulong a_row,
                 uint depth, uint rows, __global float *t, ulong t_row, uint lanes, bool first,
                 float scale) {
// Rows past the last one repeat it, and are not stored.
#define BEGIN(R)                                                  \
  X_SPACE const float *x##R = x + min((uint)R, rows - 1) * x_row; \
  VECTOR sum##R = 0;
  EACH_ROW(BEGIN)
  for (uint k = 0; k < depth; k++) {
    VECTOR weight = LOAD_VECTOR(F32, a + k * a_row);
#define MULTIPLY(R) sum##R += x##R[k] * weight;
    EACH_ROW(MULTIPLY)
  }
#define END(R) \
  if (R < rows) put((sum##R) * scale, t + R * t_row, lanes, first);
  EACH_ROW(END)
}

// x [rows, depth] as f32: where it lies, or copied to strip [ROWS, CHUNK].
static X_SPACE const float *strip_of(__global const IN_TYPE *x, ulong x_row, uint rows, uint depth,
                                     __private float *strip) {
#if PACK_IN
  for (uint i = 0; i < rows; i++) {
    uint k = 0;
    for (; k + WIDTH <= depth; k += WIDTH) {
      STORE_VECTOR(F32, LOAD_VECTOR(IN, x + i * x_row + k), strip + i * CHUNK + k);
    }
    for (; k < depth; k++) strip[i * CHUNK + k] = LOAD(IN, x, i * x_row + k);
  }
  return strip;
#else
  return x;
#endif
}

// A [depth, lanes] as f32: where it lies, or copied to panel [depth, WIDTH], with zeros in the
// lanes that A does not have.
static A_SPACE const float *panel_of(__global const WEIGHT_TYPE *a, ulong a_row, ulong a_col,
                                     uint depth, uint lanes, __private float *panel) {
#if PACK_WEIGHT
  for (uint k = 0; k < depth; k++) {
    if (lanes == WIDTH && a_col == 1) {
      STORE_VECTOR(F32, LOAD_VECTOR(WEIGHT, a + k * a_row), panel + k * WIDTH);
      continue;
    }
    for (uint lane = 0; lane < WIDTH; lane++) {
      panel[k * WIDTH + lane] = lane < lanes ? LOAD(WEIGHT, a, k * a_row + lane * a_col) : 0;
    }
  }
  return panel;
#else
  return a;
#endif
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void shrink_cpu(PRODUCT_ARGUMENTS) {
  __private float strip[PACK_IN ? ROWS * CHUNK : 1],
      panel[PACK_WEIGHT ? PANELS * CHUNK * WIDTH : 1];
  const ulong x_row = PACK_IN ? CHUNK : in_row, a_row = PACK_WEIGHT ? WIDTH : weight_row;
  const ulong2 row_share = share_of(rows, ROWS, 0), col_share = share_of(cols, WIDTH, 1);
  const float factor = scale[scale_offset];
  in += in_offset;
  weight += weight_offset;
  out += out_offset;
#if PACK_WEIGHT
  // As many panels as there is room for are packed at once, along k and across, and used for all
  // rows of the block: x is read in long pieces, and once.
  const uint across = (uint)min((ulong)PANELS, (col_share.y - col_share.x + WIDTH - 1) / WIDTH);
  const ulong along = PANELS / max(across, 1u) * CHUNK;
  for (ulong k0 = 0; k0 < inner; k0 += along) {
    const ulong k1 = min(k0 + along, inner);
    for (ulong o0 = col_share.x; o0 < col_share.y; o0 += across * WIDTH) {
      const ulong o1 = min(o0 + across * WIDTH, col_share.y);
      uint slot = 0;
      for (ulong k = k0; k < k1; k += CHUNK) {
        for (ulong o = o0; o < o1; o += WIDTH, slot++) {
          panel_of(weight + k * weight_row + o * weight_col, weight_row, weight_col,
                   (uint)min((ulong)CHUNK, k1 - k), (uint)min((ulong)WIDTH, o1 - o),
                   panel + slot * CHUNK * WIDTH);
        }
      }
      for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
        const uint height = (uint)min((ulong)ROWS, row_share.y - i);
        slot = 0;
        for (ulong k = k0; k < k1; k += CHUNK) {
          const uint depth = (uint)min((ulong)CHUNK, k1 - k);
          X_SPACE const float *x = strip_of(in + i * in_row + k, in_row, height, depth, strip);
          for (ulong o = o0; o < o1; o += WIDTH, slot++) {
            tile(x, x_row, panel + slot * CHUNK * WIDTH, a_row, depth, height,
                 out + i * out_row + o, out_row, (uint)min((ulong)WIDTH, o1 - o), k == 0, factor);
          }
        }
      }
    }
  }
#else
  // A strip of x is read once, along its rows.
  for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
    const uint height = (uint)min((ulong)ROWS, row_share.y - i);
    for (ulong k = 0; k < inner; k += CHUNK) {
      const uint depth = (uint)min((ulong)CHUNK, inner - k);
      X_SPACE const float *x = strip_of(in + i * in_row + k, in_row, height, depth, strip);
      for (ulong o = col_share.x; o < col_share.y; o += WIDTH) {
        tile(x, x_row, weight + k * weight_row + o, a_row, depth, height, out + i * out_row + o,
             out_row, WIDTH, k == 0, factor);
      }
    }
  }
#endif
}
