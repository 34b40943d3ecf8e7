// Choosing a token of each row of raw logits on the device: the steps of worker/sampler, so that the token is the one that the host would
// choose. What a device cannot do at a reasonable price (more than about a thousand candidates) is left to the host: token -1.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace pagoda::kernels::cuda {

struct SampleRowParams {
  int32_t row = 0;            // of the logits
  int32_t first_edit = 0;
  int32_t edits = 0;
  float repetition = 1;
  float frequency = 0;
  float presence = 0;
  float factor = 0;           // 1 / temperature; 0: the largest
  int32_t top_k = 0;          // 0: all
  double top_p = 1;
  uint32_t least = 0;         // weight
  double uniform = 0;         // in [0, 1)
};
struct SampleEdit {
  int32_t token = 0;
  uint32_t flags = 0;  // 1: forbid; 2: seen (repetition); the rest: times it was put out << 2
  float bias = 0;      // before the penalties
};

struct SampleKernelParams {
  const float* logits = nullptr;  // [., vocabulary]
  int64_t stride = 0;
  int vocabulary = 0;
  const SampleRowParams* rows = nullptr;
  int count = 0;
  const SampleEdit* edits = nullptr;
  float* edited = nullptr;        // [count, vocabulary]
  uint32_t* weights = nullptr;    // [count, vocabulary]
  int32_t* tokens = nullptr;      // [count]
};
cudaError_t LaunchSample(const SampleKernelParams& params, cudaStream_t stream);

}  // namespace pagoda::kernels::cuda
