// Instantiations of gemm.cuh; one of several files so that they compile side by side.
#include "kernels/cuda/gemm.cuh"
#include "kernels/cuda/gemm_formats.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmQ2_K(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ2_K>(p, "GemmFew<Q2_K>", "GemmMany<Q2_K>", stream);
}
cudaError_t GemmQ3_K(const GemmParams& p, cudaStream_t stream) {
  return LaunchFormat<kQ3_K>(p, "GemmFew<Q3_K>", "GemmMany<Q3_K>", stream);
}

}  // namespace pagoda::kernels::cuda
