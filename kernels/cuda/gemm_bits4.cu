// Instantiations of gemm.cuh; one of several files so that they compile side by side.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_formats.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmQ4_0(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ4_0>(p, "GemmFew<Q4_0>", "GemmMany<Q4_0>", stream);
}
cudaError_t GemmQ4_1(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ4_1>(p, "GemmFew<Q4_1>", "GemmMany<Q4_1>", stream);
}
cudaError_t GemmQ4_K(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ4_K>(p, "GemmFew<Q4_K>", "GemmMany<Q4_K>", stream);
}

}  // namespace pagoda::kernels::cuda
