// Losses: the loss of every row and the gradient by y, a work-item a row; and their mean, by one
// group in a fixed order.
//
// knob   values     meaning
// GROUP  1 ... 64   work-items of the mean, a power of two

// row_loss[i] = mean over o of (y - target)^2; dy = 2 (y - target) / (rows cols)
__kernel void loss_mse(MATRIX(const OUT_TYPE, y), MATRIX(const OUT_TYPE, target),
                       MATRIX(OUT_TYPE, dy), MATRIX(float, row_loss), ulong rows, ulong cols,
                       ulong wants_dy) {
  const ulong i = get_global_id(0);
  if (i >= rows) return;
  const float count = (float)rows * (float)cols;
  float sum = 0;
  for (ulong o = 0; o < cols; o++) {
    const float difference = LOAD(OUT, y, y_offset + i * y_row + o) -
                             LOAD(OUT, target, target_offset + i * target_row + o);
    sum += difference * difference;
    if (wants_dy) STORE(OUT, 2 * difference / count, dy, dy_offset + i * dy_row + o);
  }
  row_loss[row_loss_offset + i * row_loss_row] = sum / (float)cols;
}

// row_loss[i] = log(sum over o of exp(y[i,o])) - y[i,label]; dy = (softmax(y) - onehot) / rows.
// A label outside of y gives a loss and a gradient of NaN.
__kernel void loss_cross_entropy(MATRIX(const OUT_TYPE, y), __global const int *labels,
                                 ulong labels_offset, MATRIX(OUT_TYPE, dy), MATRIX(float, row_loss),
                                 ulong rows, ulong cols, ulong wants_dy) {
  const ulong i = get_global_id(0);
  if (i >= rows) return;
  const int label = labels[labels_offset + i];
  const bool is_valid = label >= 0 && (ulong)label < cols;
  float most = -INFINITY, sum = 0;
  for (ulong o = 0; o < cols; o++) most = fmax(most, LOAD(OUT, y, y_offset + i * y_row + o));
  for (ulong o = 0; o < cols; o++) sum += exp(LOAD(OUT, y, y_offset + i * y_row + o) - most);
  for (ulong o = 0; wants_dy && o < cols; o++) {
    const float share = exp(LOAD(OUT, y, y_offset + i * y_row + o) - most) / sum;
    const float gradient = (share - (o == (ulong)label ? 1 : 0)) / (float)rows;
    STORE(OUT, is_valid ? gradient : NAN, dy, dy_offset + i * dy_row + o);
  }
  const float own = is_valid ? LOAD(OUT, y, y_offset + i * y_row + label) : NAN;
  row_loss[row_loss_offset + i * row_loss_row] = log(sum) + (most - own);
}

// loss = the mean of row_loss
__kernel __attribute__((reqd_work_group_size(GROUP, 1, 1))) void loss_mean(
    MATRIX(const float, row_loss), MATRIX(float, loss), ulong rows) {
  __local float sums[GROUP];
  const uint item = get_local_id(0);
  float sum = 0;
  for (ulong i = item; i < rows; i += GROUP) sum += row_loss[row_loss_offset + i * row_loss_row];
  sums[item] = sum;
  for (uint rest = GROUP / 2; rest > 0; rest /= 2) {
    barrier(CLK_LOCAL_MEM_FENCE);
    if (item < rest) sums[item] += sums[item + rest];
  }
  if (item == 0) loss[loss_offset] = sums[0] / (float)rows;
}
