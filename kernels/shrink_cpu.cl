// t = x A on a CPU: one work-item is one group and computes a block of rows of t.
//
//   x = in [rows, inner]   A = weight [inner, cols]   t = out [rows, cols], f32
//
// The tiles, their drawing and their knobs stand in tile_cpu.clh.
//
// knob    values  meaning
// PACK_A  0 1     copy panels of A to f32 first: transposed, or a large rank
//
// Private memory: 64 KiB of panels, with PACK_X also ROWS * CHUNK * 4 bytes: at most 76 KiB.

#include "rows_cpu.clh"
#include "tile_cpu.clh"

#define PANELS (16384 / (CHUNK * A_LANES))  // 64 KB of them: a part of every L2

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void shrink_cpu(PRODUCT_ARGUMENTS) {
  __private float strip[PACK_X ? ROWS * CHUNK : 1];
  const ulong2 row_share = share_of(rows, ROWS, 0), col_share = share_of(cols, A_LANES, 1);
  const float factor = scale[scale_offset];
  in += in_offset;
  weight += weight_offset;
  out += out_offset;
#if PACK_A
  // As many panels as there is room for are packed at once, along k and across, and used for all
  // rows of the block: x is read in long pieces, and once.
  __private float panels[PANELS * CHUNK * A_LANES];
  const uint across = (uint)min((ulong)PANELS, (col_share.y - col_share.x + A_LANES - 1) / A_LANES);
  const ulong along = PANELS / max(across, 1u) * CHUNK;
  for (ulong k0 = 0; k0 < inner; k0 += along) {
    const ulong k1 = min(k0 + along, inner);
    for (ulong o0 = col_share.x; o0 < col_share.y; o0 += across * A_LANES) {
      const ulong o1 = min(o0 + across * A_LANES, col_share.y);
      __private float *panel = panels;
      for (ulong k = k0; k < k1; k += CHUNK) {
        for (ulong o = o0; o < o1; o += A_LANES, panel += CHUNK * A_LANES) {
          pack_panel(weight + k * weight_row + o * weight_col, weight_row, weight_col,
                     (uint)min((ulong)CHUNK, k1 - k), (uint)min((ulong)A_LANES, o1 - o), A_LANES,
                     panel);
        }
      }
      for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
        const uint height = (uint)min((ulong)ROWS, row_share.y - i);
        panel = panels;
        for (ulong k = k0; k < k1; k += CHUNK) {
          const uint depth = (uint)min((ulong)CHUNK, k1 - k);
          X_SPACE const TYPE(X_DTYPE) *x =
              strip_of(in + i * in_row + k, in_row, height, depth, strip);
          for (ulong o = o0; o < o1; o += A_LANES, panel += CHUNK * A_LANES) {
            shrink_tile(x, PACK_X ? CHUNK : in_row, panel, A_LANES, depth, depth, height,
                        out + i * out_row + o, out_row, (uint)min((ulong)A_LANES, o1 - o), k == 0,
                        factor);
          }
        }
      }
    }
  }
#else
  for (ulong i = row_share.x; i < row_share.y; i += ROWS) {
    shrink_strip(in + i * in_row, in_row, (uint)min((ulong)ROWS, row_share.y - i), inner, weight,
                 weight_row, col_share, out + i * out_row, out_row, factor, strip);
  }
#endif
}
