// One function for each format of weights; gemm.cu has the table.
#pragma once

#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

cudaError_t GemmF16(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmBF16(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ4_0(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ4_1(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ5_0(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ5_1(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ8_0(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ2_K(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ3_K(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ4_K(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ5_K(const GemmParams& params, cudaStream_t stream);
cudaError_t GemmQ6_K(const GemmParams& params, cudaStream_t stream);

// 16-bit weights by many tokens with wgmma: the fast profile, on sm_90a only.
cudaError_t LaunchGemmWarpgroup(const GemmParams& params, cudaStream_t stream);

}  // namespace pagoda::kernels::cuda
