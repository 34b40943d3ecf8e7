// What stands for the CUDA backend in a build without CUDA.
#include "kernels/cuda/cuda_backend.h"

namespace pagoda::kernels {

int CudaDevices() { return 0; }

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions&) {
  return absl::UnavailableError("this build has no CUDA (configure with -DPAGODA_CUDA=ON); use --device cpu");
}

}  // namespace pagoda::kernels
