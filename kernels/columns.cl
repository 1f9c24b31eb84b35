// y[i,o] = factors[o] * y[i,o] + shifts[o], a work-item an element.

__kernel void columns(MATRIX(OUT_TYPE, y), MATRIX(const float, factors),
                      MATRIX(const float, shifts), ulong rows, ulong cols) {
  const ulong item = get_global_id(0);
  if (item >= rows * cols) return;
  const ulong i = item / cols, o = item - i * cols, at = y_offset + i * y_row + o;
  const float value = fma(factors[factors_offset + o], LOAD(OUT, y, at), shifts[shifts_offset + o]);
  STORE(OUT, value, y, at);
}
