// The device as the backend sees it: errors with the kernel's name, memory as handles, transfers. One stream.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/backend.h"

namespace pagoda::kernels::cuda {

class Device {
 public:
  static absl::StatusOr<std::unique_ptr<Device>> Open(int number);
  ~Device();

  cudaStream_t stream() const {
    Use();
    return stream_;
  }
  void Use() const;  // makes this device the calling thread's
  int multiprocessors() const { return multiprocessors_; }
  int shared_limit() const { return shared_limit_; }  // of a block
  int capability() const { return capability_; }  // 90
  const std::string& name() const { return name_; }

  // OK, or what failed: kInvalidArgument for shapes that a launcher refused, kResourceExhausted for memory, kInternal for a
  // broken context, which is remembered with the kernel that ran last.
  absl::Status Check(cudaError_t error, absl::string_view what);
  const absl::Status& health() const { return health_; }
  absl::Status Synchronize(absl::string_view what);

  // Host memory is read before it returns.
  absl::Status Upload(const void* from, void* to, size_t bytes);
  absl::Status Download(const void* from, void* to, size_t bytes);
  size_t free_bytes() const;

 private:
  Device() = default;
  absl::Status OpenStaging();

  struct Staging {  // pinned: read while the other one is on its way
    void* data = nullptr;
    cudaEvent_t sent = nullptr;
  };
  int number_ = 0;
  int multiprocessors_ = 0;
  int shared_limit_ = 0;
  int capability_ = 0;
  std::string name_;
  cudaStream_t stream_ = nullptr;
  Staging staging_[2];
  int next_staging_ = 0;
  absl::Status health_;
};

// Device memory, or pinned host memory. Freed with the handle.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  static absl::StatusOr<DeviceMemory> New(Device& device, size_t bytes, absl::string_view what, bool zero = false);
  static absl::StatusOr<DeviceMemory> NewPinned(Device& device, size_t bytes);
  DeviceMemory(DeviceMemory&& other) noexcept { *this = std::move(other); }
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;
  ~DeviceMemory() { Free(); }

  template <typename T = uint8_t>
  T* as() const {
    return static_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  void Free();
  void* data_ = nullptr;
  size_t bytes_ = 0;
  bool pinned_ = false;
};

class DeviceBuffer final : public Buffer {
 public:
  explicit DeviceBuffer(DeviceMemory memory) : memory_(std::move(memory)) {}
  void* data() override { return memory_.as<void>(); }
  size_t bytes() const override { return memory_.bytes(); }

 private:
  DeviceMemory memory_;
};

}  // namespace pagoda::kernels::cuda
