// One function for each type of KV cache; attention.cu chooses.
#pragma once

#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {

cudaError_t AttendF16(const AttendKernelParams& params, cudaStream_t stream);
cudaError_t AttendBF16(const AttendKernelParams& params, cudaStream_t stream);
cudaError_t AttendI8(const AttendKernelParams& params, cudaStream_t stream);
cudaError_t AttendF8(const AttendKernelParams& params, cudaStream_t stream);

}  // namespace pagoda::kernels::cuda
