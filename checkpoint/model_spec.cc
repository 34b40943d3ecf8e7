#include "checkpoint/model_spec.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "common/limits.h"
#include "common/status.h"

namespace pagoda::checkpoint {
namespace {

constexpr int kMaxHeadDim = 1024;
constexpr int kMaxFfn = 1 << 20;
constexpr int64_t kMaxContext = int64_t{1} << 30;

absl::Status CheckRange(std::string_view name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the model's ", AsAbsl(name), " is ", value,
                                                 "; it has to be in ", low, " to ", high));
}

absl::Status CheckPositive(std::string_view name, double value) {
  if (std::isfinite(value) && value > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("the model's ", AsAbsl(name), " is ", value,
                                                 "; it has to be finite and above 0"));
}

absl::Status ValidateScaling(const RopeSpec& rope) {
  if (rope.scaling == RopeScalingKind::kNone) return absl::OkStatus();
  PAGODA_RETURN_IF_ERROR(CheckPositive("rope scaling factor", rope.factor));
  if (rope.scaling == RopeScalingKind::kLinear) return absl::OkStatus();
  PAGODA_RETURN_IF_ERROR(
      CheckRange("original context (rope scaling)", rope.original_context, 1, kMaxContext));
  if (rope.scaling == RopeScalingKind::kLlama3) {
    PAGODA_RETURN_IF_ERROR(CheckPositive("low_freq_factor", rope.low_frequency_factor));
    PAGODA_RETURN_IF_ERROR(CheckPositive("high_freq_factor", rope.high_frequency_factor));
    if (rope.high_frequency_factor <= rope.low_frequency_factor) {
      return absl::InvalidArgumentError(
          absl::StrCat("rope scaling's high_freq_factor (", rope.high_frequency_factor,
                       ") must be above low_freq_factor (", rope.low_frequency_factor, ")"));
    }
    return absl::OkStatus();
  }
  PAGODA_RETURN_IF_ERROR(CheckPositive("yarn beta_fast", rope.yarn_beta_fast));
  PAGODA_RETURN_IF_ERROR(CheckPositive("yarn beta_slow", rope.yarn_beta_slow));
  if (!std::isfinite(rope.yarn_attention_factor) || rope.yarn_attention_factor < 0) {
    return absl::InvalidArgumentError("yarn's attention factor must be finite and not negative");
  }
  return absl::OkStatus();
}

absl::Status ValidateRope(const RopeSpec& rope, int head_dim) {
  PAGODA_RETURN_IF_ERROR(CheckRange("rope dimensions", rope.dimensions, 2, head_dim));
  if (rope.dimensions % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("rope turns pairs; ", rope.dimensions, " dimensions are odd"));
  }
  PAGODA_RETURN_IF_ERROR(CheckPositive("rope base, less 1,", rope.base - 1.0));
  PAGODA_RETURN_IF_ERROR(ValidateScaling(rope));
  if (rope.frequency_divisors.empty()) return absl::OkStatus();
  if (rope.frequency_divisors.size() != static_cast<size_t>(rope.dimensions / 2)) {
    return absl::InvalidArgumentError(absl::StrCat("rope has ", rope.frequency_divisors.size(),
                                                   " frequency divisors; ", rope.dimensions / 2,
                                                   " are needed"));
  }
  for (const float divisor : rope.frequency_divisors) {
    PAGODA_RETURN_IF_ERROR(CheckPositive("rope frequency divisor", divisor));
  }
  return absl::OkStatus();
}

// The dimension (not rounded) that turns `turns` times within `context` positions.
double YarnDimension(const RopeSpec& rope, double turns) {
  return rope.dimensions *
         std::log(static_cast<double>(rope.original_context) / (turns * 2 * std::numbers::pi)) /
         (2 * std::log(static_cast<double>(rope.base)));
}

// How much of dimension pair `i` keeps its own frequency: 1 for quick ones, 0 for those that are
// stretched.
struct YarnRamp {
  explicit YarnRamp(const RopeSpec& rope) {
    low = YarnDimension(rope, rope.yarn_beta_fast);
    high = YarnDimension(rope, rope.yarn_beta_slow);
    if (rope.yarn_truncate) {
      low = std::floor(low);
      high = std::ceil(high);
    }
    low = std::max(low, 0.0);
    high = std::min(high, rope.dimensions - 1.0);
    if (low == high) high += 0.001;
  }
  double Kept(int i) const { return 1.0 - std::clamp((i - low) / (high - low), 0.0, 1.0); }

  double low;
  double high;
};

double Llama3Frequency(const RopeSpec& rope, double frequency) {
  const double wavelength = 2 * std::numbers::pi / frequency;
  const double context = static_cast<double>(rope.original_context);
  if (wavelength < context / rope.high_frequency_factor) return frequency;
  if (wavelength > context / rope.low_frequency_factor) return frequency / rope.factor;
  const double smooth =
      (context / wavelength - rope.low_frequency_factor) /
      (static_cast<double>(rope.high_frequency_factor) - rope.low_frequency_factor);
  return (1 - smooth) * frequency / rope.factor + smooth * frequency;
}

}  // namespace

absl::Status Validate(const ModelSpec& spec) {
  PAGODA_RETURN_IF_ERROR(CheckRange("number of layers", spec.layers, 1, limits::kMaxLayers));
  PAGODA_RETURN_IF_ERROR(CheckRange("hidden size", spec.hidden, 1, limits::kMaxHidden));
  PAGODA_RETURN_IF_ERROR(CheckRange("number of heads", spec.heads, 1, limits::kMaxHidden));
  PAGODA_RETURN_IF_ERROR(CheckRange("number of KV heads", spec.kv_heads, 1, spec.heads));
  PAGODA_RETURN_IF_ERROR(CheckRange("head size", spec.head_dim, 2, kMaxHeadDim));
  PAGODA_RETURN_IF_ERROR(CheckRange("FFN size", spec.ffn, 1, kMaxFfn));
  PAGODA_RETURN_IF_ERROR(CheckRange("vocabulary", spec.vocabulary, 1, limits::kMaxVocabulary));
  PAGODA_RETURN_IF_ERROR(CheckRange("context length", spec.max_context, 1, kMaxContext));
  PAGODA_RETURN_IF_ERROR(CheckRange("sliding window", spec.sliding_window, 0, kMaxContext));
  PAGODA_RETURN_IF_ERROR(
      CheckRange("heads x head size", int64_t{spec.heads} * spec.head_dim, 2, limits::kMaxHidden));
  if (spec.heads % spec.kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("the model has ", spec.heads, " heads, which ",
                                                   spec.kv_heads, " KV heads cannot share evenly"));
  }
  if (!std::isfinite(spec.norm_epsilon) || spec.norm_epsilon < 0 || spec.norm_epsilon > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("the norm's epsilon is ", spec.norm_epsilon, "; 0 to 1 is allowed"));
  }
  return ValidateRope(spec.rope, spec.head_dim);
}

std::vector<float> RopeFrequencies(const RopeSpec& rope) {
  const int pairs = rope.dimensions / 2;
  std::vector<float> frequencies(static_cast<size_t>(pairs));
  const YarnRamp ramp(rope);
  for (int i = 0; i < pairs; ++i) {
    double frequency = std::pow(static_cast<double>(rope.base), -2.0 * i / rope.dimensions);
    if (!rope.frequency_divisors.empty())
      frequency /= rope.frequency_divisors[static_cast<size_t>(i)];
    switch (rope.scaling) {
      case RopeScalingKind::kNone:
        break;
      case RopeScalingKind::kLinear:
        frequency /= rope.factor;
        break;
      case RopeScalingKind::kLlama3:
        frequency = Llama3Frequency(rope, frequency);
        break;
      case RopeScalingKind::kYarn: {
        const double kept = ramp.Kept(i);
        frequency = frequency / rope.factor * (1 - kept) + frequency * kept;
        break;
      }
    }
    frequencies[static_cast<size_t>(i)] = static_cast<float>(frequency);
  }
  return frequencies;
}

float RopeAttentionFactor(const RopeSpec& rope) {
  if (rope.scaling != RopeScalingKind::kYarn) return 1.0f;
  if (rope.yarn_attention_factor > 0) return rope.yarn_attention_factor;
  if (rope.factor <= 1.0f) return 1.0f;
  return static_cast<float>(0.1 * std::log(static_cast<double>(rope.factor)) + 1.0);
}

}  // namespace pagoda::checkpoint
