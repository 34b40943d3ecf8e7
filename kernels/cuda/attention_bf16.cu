// Instantiations of attention.cuh for one type of cache; one of several files so that they compile side by side.
#include "kernels/cuda/attention.cuh"
#include "kernels/cuda/attention_types.h"

namespace pagoda::kernels::cuda {

cudaError_t AttendBF16(const AttendKernelParams& params, cudaStream_t stream) { return LaunchAttendType<kKvBF16>(params, stream); }

}  // namespace pagoda::kernels::cuda
