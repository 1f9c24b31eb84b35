// y = f(x), and dx = dy f'(x), element by element: a work-item each.
//
// knob  values  meaning
// KIND  0 1 2   ReLU, GELU by erf, GELU by tanh (Hendrycks and Gimpel, arXiv 1606.08415)

#if KIND == 0
// NaN stays NaN.
static float value_of(float h) {
  return h < 0 ? 0 : h;
}
static float gradient_of(float h, float dy) {
  return h <= 0 ? 0 : dy;  // NaN passes dy on
}
#elif KIND == 1
static float value_of(float h) {
  return 0.5f * h * (1 + erf(h * M_SQRT1_2_F));
}
static float gradient_of(float h, float dy) {
  const float density = 0.3989422804f * exp(-0.5f * (h * h));  // 1 / sqrt(2 pi)
  return dy * (0.5f * (1 + erf(h * M_SQRT1_2_F)) + h * density);
}
#else
// (1 + tanh(z)) / 2 is 1 / (1 + exp(-2 z)), which has both tails right: a tanh that ends one ulp
// below 1, as PoCL's does, leaves an error that grows with h, and in the gradient with its cube.
#define SLOPE 0.7978845608f  // sqrt(2 / pi)
#define CUBIC 0.044715f
#define FAR 11  // from here on the gradient is 0 or dy
static float argument_of(float h) {
  return 2 * (SLOPE * (h + CUBIC * (h * h * h)));
}
static float value_of(float h) {
  return h / (1 + exp(-argument_of(h)));
}
static float gradient_of(float h, float dy) {
  const float near = clamp(h, -(float)FAR, (float)FAR), tail = exp(-fabs(argument_of(near)));
  const float inner = SLOPE * (1 + 3 * CUBIC * (near * near));
  const float curve = 2 * near * (tail / ((1 + tail) * (1 + tail))) * inner;
  return dy * (1 / (1 + exp(-argument_of(h))) + curve);
}
#endif

__kernel void activation(MATRIX(const OUT_TYPE, x), MATRIX(OUT_TYPE, y), ulong rows, ulong cols) {
  const ulong item = get_global_id(0);
  if (item >= rows * cols) return;
  const ulong i = item / cols, k = item - i * cols;
  const float value = value_of(LOAD(OUT, x, x_offset + i * x_row + k));
  STORE(OUT, value, y, y_offset + i * y_row + k);
}

__kernel void activation_backward(MATRIX(const OUT_TYPE, x), MATRIX(const OUT_TYPE, dy),
                                  MATRIX(OUT_TYPE, dx), ulong rows, ulong cols) {
  const ulong item = get_global_id(0);
  if (item >= rows * cols) return;
  const ulong i = item / cols, k = item - i * cols;
  const float h = LOAD(OUT, x, x_offset + i * x_row + k);
  const float value = gradient_of(h, LOAD(OUT, dy, dy_offset + i * dy_row + k));
  STORE(OUT, value, dx, dx_offset + i * dx_row + k);
}
