// The frozen mini-PointNet on the CPU: a few patches at a time go through all layers, so that
// everything stays in the L2 cache.
#include <algorithm>
#include <vector>

#include "cpu/matmul.h"
#include "cpu/parallel.h"
#include "cpu/rows.h"
#include "ops.h"

namespace dapt::cpu::DAPT_ISA {
namespace {

constexpr int64_t kTilePoints = 128;

/// One thread's view of the arguments, and its buffers for the layers of a tile of patches.
template <class Sum>
struct Encoder {
  const PatchEncoderArgs& a;
  const int64_t K = a.K, max_patches = std::max<int64_t>(1, kTilePoints / K);
  const int64_t D = a.D, first = a.first, middle = a.middle, last = a.last, C = a.C;
  Rows<Sum> patches{a.compute, a.patches, K * D}, tokens{a.compute, a.tokens, C};
  Matrix<Sum> layer1{a.compute, max_patches * K, first}, layer2{a.compute, max_patches * K, middle},
      whole{a.compute, max_patches, middle}, whole3{a.compute, max_patches, last},
      layer3{a.compute, max_patches * K, last}, layer4{a.compute, max_patches * K, C};
  std::vector<Sum> whole_bias = std::vector<Sum>(last);

  explicit Encoder(const PatchEncoderArgs& args) : a(args) {}

  static const Sum* vec(const void* data) { return static_cast<const Sum*>(data); }

  void tile(int64_t patch, int64_t count) {
    const int64_t points = count * K;
    multiply(patches.at(patch), a.conv1, layer1, points, D);
    for (int64_t i = 0; i < points; ++i) add_and_clip(layer1, i, vec(a.bias1));

    multiply(layer1.data, a.conv2, layer2, points, first);
    for (int64_t p = 0; p < count; ++p) {
      find_maximum(layer2, p, whole.open(p));
      whole.close(p);
    }

    multiply(whole.data, a.conv3_global, whole3, count, middle);
    multiply(layer1.data, a.conv3_local, layer3, points, first);
    for (int64_t p = 0; p < count; ++p) {
      const Sum *from = whole3.read(p), *bias = vec(a.bias3);
      for_each(last, [=, to = whole_bias.data()](int64_t c) { to[c] = from[c] + bias[c]; });
      for (int64_t k = 0; k < K; ++k) add_and_clip(layer3, p * K + k, whole_bias.data());
    }

    multiply(layer3.data, a.conv4, layer4, points, last);
    for (int64_t p = 0; p < count; ++p) {
      Sum* token = tokens.open(patch + p);
      find_maximum(layer4, p, token);
      for_each(C, [=, bias = vec(a.bias4)](int64_t c) { token[c] += bias[c]; });
      tokens.close(patch + p);
    }
  }

  void multiply(const void* in, const void* weight, Rows<Sum>& out, int64_t rows, int64_t inner) {
    matmul(a.compute, {in}, {weight, true}, out.data, rows, inner, out.cols);
  }

  /// ReLU(row + bias); NaN stays NaN.
  static void add_and_clip(Rows<Sum>& layer, int64_t row, const Sum* bias) {
    const Sum* from = layer.read(row);
    Sum* to = layer.open(row);
    for_each(layer.cols, [=](int64_t c) {
      const Sum value = from[c] + bias[c];
      to[c] = value < 0 ? Sum(0) : value;
    });
    layer.close(row);
  }

  /// Maximum over a patch's points; NaN propagates.
  void find_maximum(Rows<Sum>& layer, int64_t patch, Sum* best) const {
    for (int64_t k = 0; k < K; ++k) {
      const Sum* from = layer.read(patch * K + k);
      if (k == 0) {
        std::copy_n(from, layer.cols, best);
        continue;
      }
      for_each(layer.cols, [=](int64_t c) {
        best[c] = from[c] > best[c] || from[c] != from[c] ? from[c] : best[c];
      });
    }
  }
};

template <class Sum>
void encode(const PatchEncoderArgs& a) {
  const int64_t step = std::max<int64_t>(1, kTilePoints / a.K);
  // parallel over tiles of patches
  parallel_for((a.P + step - 1) / step, 1, [&](int64_t begin, int64_t end) {
    Encoder<Sum> encoder(a);
    for (int64_t tile = begin; tile < end; ++tile) {
      encoder.tile(tile * step, std::min(step, a.P - tile * step));
    }
  });
}

}  // namespace

void patch_encoder(const PatchEncoderArgs& args) {
  args.compute == Real::f64 ? encode<double>(args) : encode<float>(args);
}

}  // namespace dapt::cpu::DAPT_ISA
