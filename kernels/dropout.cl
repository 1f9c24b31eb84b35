// y = beta*y + x / (1 - p) where a draw keeps the element, else beta*y. A work-item does four
// elements, counted along the rows of the matrix whatever its stride: one draw of Philox4x32-10
// (Salmon, Moraes, Dror, Shaw 2011) with the counter (n / 4, call) and the key `seed`.

static uint4 philox(uint4 counter, uint2 key) {
  for (int round = 0; round < 10; round++) {
    const uint high0 = mul_hi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
    const uint high1 = mul_hi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
    counter = (uint4)(high1 ^ counter.y ^ key.x, low1, high0 ^ counter.w ^ key.y, low0);
    key += (uint2)(0x9E3779B9u, 0xBB67AE85u);
  }
  return counter;
}

__kernel void dropout(MATRIX(const OUT_TYPE, x), MATRIX(OUT_TYPE, y), ulong rows, ulong cols,
                      ulong seed, ulong call, ulong threshold, float factor, float beta) {
  const ulong item = get_global_id(0), count = rows * cols;
  if (item * 4 >= count) return;
  const uint4 draw = philox((uint4)((uint)item, (uint)(item >> 32), (uint)call, (uint)(call >> 32)),
                            (uint2)((uint)seed, (uint)(seed >> 32)));
  const uint draws[4] = {draw.x, draw.y, draw.z, draw.w};
  for (uint lane = 0; lane < 4 && item * 4 + lane < count; lane++) {
    const ulong n = item * 4 + lane, i = n / cols, k = n - i * cols;
    const bool kept = draws[lane] >= threshold;
    float value = kept ? LOAD(OUT, x, x_offset + i * x_row + k) * factor : 0;
    if (beta != 0) value += beta * LOAD(OUT, y, y_offset + i * y_row + k);
    STORE(OUT, value, y, y_offset + i * y_row + k);
  }
}
