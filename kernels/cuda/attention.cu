#include "kernels/cuda/attention_types.h"
#include "kernels/cuda/kv_elements.cuh"

namespace pagoda::kernels::cuda {

cudaError_t LaunchAttend(const AttendKernelParams& p, cudaStream_t stream) {
  if (p.unit_grid == 0) return cudaSuccess;
  if (p.kv.tile_bytes % 16 != 0 || p.kv.block_tokens % 16 != 0 || p.kv.padded_dim < p.kv.head_dim || p.sliding_window < 0 ||
      p.stages < 1) {
    return cudaErrorInvalidValue;
  }
  switch (p.kv.type) {
    case kKvF16:
      return AttendF16(p, stream);
    case kKvBF16:
      return AttendBF16(p, stream);
    case kKvI8:
      return AttendI8(p, stream);
    case kKvF8:
      return AttendF8(p, stream);
    default:
      return cudaErrorNotSupported;
  }
}

}  // namespace pagoda::kernels::cuda
