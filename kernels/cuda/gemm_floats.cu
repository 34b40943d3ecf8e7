// Instantiations of gemm.cuh; one of several files so that they compile side by side.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_formats.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmF16(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kF16>(p, "GemmFew<F16>", "GemmMany<F16>", stream);
}
cudaError_t GemmBF16(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kBF16>(p, "GemmFew<BF16>", "GemmMany<BF16>", stream);
}

}  // namespace pagoda::kernels::cuda
