// One way to launch a kernel: raises the shared memory limit where it must, remembers the name. For .cu files.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace pagoda::kernels::cuda {

void NoteKernel(const char* name);
// Whether launches may overlap with the end of the kernel before (FollowPrevious): on devices from compute capability 9.0.
bool LaunchesOverlap();

struct LaunchShape {
  dim3 grid;
  dim3 block;
  size_t shared_bytes = 0;
  cudaStream_t stream = nullptr;
};

template <typename... Parameters>
cudaError_t Launch(const char* name, void (*kernel)(Parameters...), const LaunchShape& shape, Parameters... arguments) {
  NoteKernel(name);
  if (shape.shared_bytes > (48u << 10)) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shape.shared_bytes));
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = shape.stream;
  cudaLaunchAttribute overlap = {};
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
  config.attrs = &overlap;
  config.numAttrs = LaunchesOverlap() ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}

}  // namespace pagoda::kernels::cuda
