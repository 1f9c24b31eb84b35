// dt = dy B^T and dB = beta*dB + scale * t^T dy on a CPU, for low ranks: both read all of dy, which
// comes from memory once.
//
//   t^T = in [r, inner]   dy = weight [inner, cols]   dB = out [r, cols], f32
//   B^T = a [cols, r]     dt = in_sum [inner, r], f32
//
//              BLOCK                     A work-item is a group and has a slice of the rows. Of a
//           +-----------+       +----+   BLOCK of columns it packs B and keeps the sums of dB;
//           |           |       |    |   HEIGHT rows of it are multiplied by B, tile by tile as in
//    HEIGHT |    dy     |   ->  | dt |   tile_cpu.clh (dy is its x, B^T its A), and then, from a
//           |           |       |    |   cache, by t: tiles of RANK x LANES sums, whose rows
//           +-----------+       +----+   ascend.
//                 |
//         r [    dB     ]
//
// The slices are cut by the shape alone. Where there are several (out_parts), a second launch, told
// so by in_parts, adds up their sums, slices ascending. dt is summed as shrink_cpu does.
//
// Private memory: at most 49 KiB, with PACK_X also ROWS * CHUNK * 4 bytes, 12 KiB.

#define X WEIGHT  // what tile_cpu.clh takes for x is dy
#include "rows_cpu.clh"
#include "tile_cpu.clh"

#define RANK 8    // the largest rank, also in src/op/joint.c: one panel holds it
#define PIECE 24  // slices are multiples of it: whole tiles of any ROWS
#define BLOCK 512
#define HEIGHT (36 / ROWS * ROWS)
#define WIDE (WIDTH == 16 ? 2 : 1)  // vectors a row: 16 registers hold 8 sums, 32 hold 16
#define LANES (WIDE * WIDTH)
#define EACH_RANK EACH_ROW_8

// dt [rows, r] of a block of dy [rows, width].
static void shrink_block(__global const WEIGHT_TYPE *dy, ulong dy_row, uint rows, uint width,
                         __private const float *panel, __global float *dt, ulong dt_row, uint r,
                         bool first, __private float *strip) {
  for (uint i = 0; i < rows; i += ROWS) {
    const uint height = min((uint)ROWS, rows - i);
    for (uint k = 0; k < width; k += CHUNK) {
      const uint depth = min((uint)CHUNK, width - k);
      X_SPACE const TYPE(X_DTYPE) *x = strip_of(dy + i * dy_row + k, dy_row, height, depth, strip);
      shrink_tile(x, PACK_X ? CHUNK : dy_row, panel + k * A_LANES, A_LANES, depth, depth, height,
                  dt + i * dt_row, dt_row, r, first && k == 0, 1);
    }
  }
}

// sums [RANK, BLOCK] += t [rows, RANK]^T dy [rows, lanes], up to LANES; lanes that are not there
// are zero.
static void reduce_tile(__private const float *t, __global const WEIGHT_TYPE *dy, ulong dy_row,
                        uint rows, int lanes, __private float *sums) {
#define BEGIN_SUM(J)                                               \
  VECTOR low##J = LOAD_VECTOR(F32, sums + J * BLOCK), high##J = 0; \
  if (WIDE == 2) high##J = LOAD_VECTOR(F32, sums + J * BLOCK + WIDTH);
#define ADD_SUM(J)                 \
  low##J += t[i * RANK + J] * low; \
  if (WIDE == 2) high##J += t[i * RANK + J] * high;
#define END_SUM(J)                             \
  STORE_VECTOR(F32, low##J, sums + J * BLOCK); \
  if (WIDE == 2) STORE_VECTOR(F32, high##J, sums + J * BLOCK + WIDTH);
  EACH_RANK(BEGIN_SUM)
  for (uint i = 0; lanes >= LANES && i < rows; i++) {
    const VECTOR low = LOAD_VECTOR(WEIGHT, dy + i * dy_row);
    const VECTOR high = WIDE == 2 ? LOAD_VECTOR(WEIGHT, dy + i * dy_row + WIDTH) : 0;
    EACH_RANK(ADD_SUM)
  }
  for (uint i = 0; lanes < LANES && i < rows; i++) {
    const VECTOR low = load_lanes(dy + i * dy_row, lanes);
    const VECTOR high = WIDE == 2 ? load_lanes(dy + i * dy_row + WIDTH, lanes - WIDTH) : 0;
    EACH_RANK(ADD_SUM)
  }
  EACH_RANK(END_SUM)
}

// sums [r, BLOCK] += t [rows, r]^T dy [rows, width]. Zeros stand for ranks that are not there.
static void reduce_block(__global const float *t, ulong t_row, uint r,
                         __global const WEIGHT_TYPE *dy, ulong dy_row, uint rows, uint width,
                         __private float *sums) {
  float copy[HEIGHT * RANK];
  for (uint i = 0; i < rows; i++) {
    for (uint j = 0; j < RANK; j++) copy[i * RANK + j] = j < r ? t[i * t_row + j] : 0;
  }
  for (uint o = 0; o < width; o += LANES) {
    reduce_tile(copy, dy + o, dy_row, rows, (int)(width - o), sums + o);
  }
}

// out [rows, width] = beta*out + factor * sums
static void put_sums(__private const float *sums, ulong rows, uint width, __global float *out,
                     ulong out_row, float factor, float beta) {
  for (ulong j = 0; j < rows; j++, out += out_row, sums += BLOCK) {
    for (uint o = 0; o < width; o++) {
      const float value = factor * sums[o];
      out[o] = beta != 0 ? value + beta * out[o] : value;
    }
  }
}

// sums [rows, BLOCK] = those of all slices, [parts * rows, ...], added up.
static void add_slices(__global const float *part, ulong part_row, ulong parts, ulong rows,
                       uint width, __private float *sums) {
  for (ulong j = 0; j < parts * rows; j++, part += part_row) {
    __private float *sum = sums + j % rows * BLOCK;
    for (uint o = 0; o < width; o++) sum[o] = j < rows ? part[o] : sum[o] + part[o];
  }
}

__kernel __attribute__((reqd_work_group_size(1, 1, 1))) void joint_cpu(TWOFOLD_ARGUMENTS) {
  __private float panel[A_LANES * BLOCK], sums[RANK * BLOCK], strip[PACK_X ? ROWS * CHUNK : 1];
  const float factor = scale[scale_offset];
  const ulong parts = max(out_parts, (ulong)1);
  const ulong pieces = (inner + PIECE - 1) / PIECE;
  __global const float *t = (__global const float *)in + in_offset;
  __global const WEIGHT_TYPE *dy = weight + weight_offset;
  __global float *dt = in_sum + in_sum_offset, *db = (__global float *)out + out_offset;
  a += a_offset;
  const ulong2 share = share_of(in_parts > 1 ? cols : 0, BLOCK, 0);
  for (ulong k = share.x; k < share.y; k += BLOCK) {
    const uint width = (uint)min((ulong)BLOCK, share.y - k);
    add_slices(t + k, in_row, in_parts, rows, width, sums);
    put_sums(sums, rows, width, db + k, out_row, factor, beta);
  }
  for (ulong s = get_group_id(0); in_parts <= 1 && s < parts; s += get_num_groups(0)) {
    const ulong first = s * pieces / parts * PIECE;
    const ulong last = min((s + 1) * pieces / parts * PIECE, inner);
    for (ulong k = 0; k < cols; k += BLOCK) {
      const uint width = (uint)min((ulong)BLOCK, cols - k);
      pack_panel(a + k * a_row, a_row, a_col, width, (uint)rows, A_LANES, panel);
      for (uint n = 0; n < RANK * BLOCK; n += WIDTH) STORE_VECTOR(F32, 0, sums + n);
      for (ulong i = first; i < last; i += HEIGHT) {
        const uint height = (uint)min((ulong)HEIGHT, last - i);
        __global const WEIGHT_TYPE *from = dy + i * weight_row + k;
        shrink_block(from, weight_row, height, width, panel, dt + i * in_sum_row, in_sum_row,
                     (uint)rows, k == 0, strip);
        reduce_block(t + i * in_col, in_col, (uint)rows, from, weight_row, height, width, sums);
      }
      put_sums(sums, rows, width, db + s * rows * out_row + k, out_row, factor, beta);
    }
  }
}
