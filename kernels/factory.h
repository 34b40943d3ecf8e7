// The one place that chooses a backend. --device: auto (cuda where there is a device, else cpu), cpu, cuda, cuda:N.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/cpu/cpu_backend.h"

namespace pagoda::kernels {

enum class DeviceKind : uint8_t { kCpu, kCuda };
struct DeviceChoice {
  DeviceKind kind = DeviceKind::kCpu;
  int index = 0;
};
// kInvalidArgument for other texts. "auto" looks for a device.
absl::StatusOr<DeviceChoice> ParseDevice(const std::string& text);

struct BackendOptions {
  DeviceChoice device;
  bool fast = false;  // CUDA: the fast numerics profile
  CpuBackendOptions cpu = {};
};
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options);

}  // namespace pagoda::kernels
