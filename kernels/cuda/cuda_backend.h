// The CUDA backend: one device, one stream, everything in order on it. Weights, activations, KV cache and workspace are device
// memory; the host sees them through Upload and Download only. A step's rows are planned and uploaded once (BeginStep); steps of
// single rows are recorded as CUDA graphs by padded row count and replayed. numerics.h states the arithmetic.
//
// Thread rule: one thread at a time, as Backend says. Errors that break the context are remembered: Health() names the kernel.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace pagoda::kernels {

struct CudaBackendOptions {
  int device = 0;
  bool fast = false;  // the fast profile: quickest products, whose bits depend on the number of tokens
  bool graphs = true;
  bool overlap = true;  // launches overlap where the device can (compute capability 9.0)
};
// kUnavailable: no device, no driver, or one older than compute capability 8.0; the message says which.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const CudaBackendOptions& options);
int CudaDevices();  // 0 also where there is no driver

}  // namespace pagoda::kernels
