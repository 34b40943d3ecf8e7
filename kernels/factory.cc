#include "kernels/factory.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/cuda_backend.h"

namespace pagoda::kernels {

absl::StatusOr<DeviceChoice> ParseDevice(const std::string& text) {
  if (text == "cpu") return DeviceChoice{};
  if (text == "auto") return DeviceChoice{.kind = CudaDevices() > 0 ? DeviceKind::kCuda : DeviceKind::kCpu};
  if (text == "cuda") return DeviceChoice{.kind = DeviceKind::kCuda};
  int index = 0;
  if (text.rfind("cuda:", 0) == 0 && absl::SimpleAtoi(text.substr(5), &index) && index >= 0 && index < 1024) {
    return DeviceChoice{.kind = DeviceKind::kCuda, .index = index};
  }
  return absl::InvalidArgumentError(absl::StrCat("'", text, "' is none of auto, cpu, cuda, cuda:N"));
}

absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const BackendOptions& options) {
  if (options.device.kind == DeviceKind::kCuda) return MakeCudaBackend({.device = options.device.index, .fast = options.fast});
  return MakeCpuBackend(options.cpu);
}

}  // namespace pagoda::kernels
