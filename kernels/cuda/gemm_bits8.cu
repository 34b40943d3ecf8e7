// Instantiations of gemm.cuh; one of several files so that they compile side by side.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_formats.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmQ8_0(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ8_0>(p, "GemmFew<Q8_0>", "GemmMany<Q8_0>", stream);
}
cudaError_t GemmQ6_K(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ6_K>(p, "GemmFew<Q6_K>", "GemmMany<Q6_K>", stream);
}

}  // namespace pagoda::kernels::cuda
