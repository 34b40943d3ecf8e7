// Instantiations of gemm.cuh; one of several files so that they compile side by side.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_formats.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmQ5_0(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ5_0>(p, "GemmFew<Q5_0>", "GemmMany<Q5_0>", stream);
}
cudaError_t GemmQ5_1(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ5_1>(p, "GemmFew<Q5_1>", "GemmMany<Q5_1>", stream);
}
cudaError_t GemmQ5_K(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ5_K>(p, "GemmFew<Q5_K>", "GemmMany<Q5_K>", stream);
}

}  // namespace pagoda::kernels::cuda
