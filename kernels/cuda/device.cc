#include "kernels/cuda/device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/kernels.h"

namespace pagoda::kernels::cuda {
namespace {

constexpr size_t kStagingBytes = 8u << 20;
thread_local int current_device = -1;

}  // namespace

absl::StatusOr<std::unique_ptr<Device>> Device::Open(int number) {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) {
    cudaGetLastError();
    return absl::UnavailableError(absl::StrCat("no CUDA device: ", cudaGetErrorString(error),
                                               "; check the driver (nvidia-smi), or use --device cpu"));
  }
  if (number < 0 || number >= count) {
    return absl::UnavailableError(absl::StrCat("there is no CUDA device ", number, ": this machine has ", count));
  }
  auto device = std::unique_ptr<Device>(new Device);
  device->number_ = number;
  if (absl::Status status = device->Check(cudaSetDevice(number), "choose the device"); !status.ok()) return status;
  cudaDeviceProp properties = {};
  int major = 0, minor = 0;
  for (const cudaError_t result :
       {cudaGetDeviceProperties(&properties, number),
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, number),
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, number),
        cudaDeviceGetAttribute(&device->multiprocessors_, cudaDevAttrMultiProcessorCount, number),
        cudaDeviceGetAttribute(&device->shared_limit_, cudaDevAttrMaxSharedMemoryPerBlockOptin, number),
        cudaStreamCreateWithFlags(&device->stream_, cudaStreamNonBlocking)}) {
    if (absl::Status status = device->Check(result, "open the device"); !status.ok()) return status;
  }
  device->capability_ = 10 * major + minor;
  device->name_ = properties.name;
  if (device->capability_ < 80) {
    return absl::UnavailableError(absl::StrCat("CUDA device ", number, " (", device->name_, ") has compute capability ", major,
                                               ".", minor, "; 8.0 is the least that Pagoda runs on"));
  }
  if (absl::Status status = device->OpenStaging(); !status.ok()) return status;
  return device;
}

void Device::Use() const {
  if (current_device == number_) return;
  cudaSetDevice(number_);  // an error shows at the call that follows
  current_device = number_;
}

absl::Status Device::OpenStaging() {
  for (Staging& staging : staging_) {
    if (absl::Status status = Check(cudaHostAlloc(&staging.data, kStagingBytes, cudaHostAllocDefault), "pinned memory"); !status.ok()) {
      return status;
    }
    if (absl::Status status = Check(cudaEventCreateWithFlags(&staging.sent, cudaEventDisableTiming), "event"); !status.ok()) {
      return status;
    }
  }
  return absl::OkStatus();
}

Device::~Device() {
  if (stream_ != nullptr) cudaStreamSynchronize(stream_);
  for (Staging& staging : staging_) {
    if (staging.sent != nullptr) cudaEventDestroy(staging.sent);
    if (staging.data != nullptr) cudaFreeHost(staging.data);
  }
  if (stream_ != nullptr) cudaStreamDestroy(stream_);
}

absl::Status Device::Check(cudaError_t error, absl::string_view what) {
  if (!health_.ok()) return health_;
  if (error == cudaSuccess) return absl::OkStatus();
  const std::string text = absl::StrCat(what, ": ", cudaGetErrorName(error), " (", cudaGetErrorString(error), ")");
  cudaGetLastError();  // an error that does not break the context is reported once
  if (error == cudaErrorInvalidValue || error == cudaErrorNotSupported) {
    return absl::InvalidArgumentError(absl::StrCat(text, "; last kernel ", LastKernel()));
  }
  if (error == cudaErrorMemoryAllocation) {
    return absl::ResourceExhaustedError(absl::StrCat(text, ": ", free_bytes(), " bytes are free on ", name_));
  }
  health_ = absl::InternalError(absl::StrCat("CUDA device ", number_, " is lost: ", text, "; the kernel launched last was ",
                                             LastKernel()));
  return health_;
}

absl::Status Device::Synchronize(absl::string_view what) {
  return Check(cudaStreamSynchronize(stream()), what);
}

absl::Status Device::Upload(const void* from, void* to, size_t bytes) {
  for (size_t at = 0; at < bytes; at += kStagingBytes) {
    const size_t part = std::min(kStagingBytes, bytes - at);
    Staging& staging = staging_[next_staging_];
    next_staging_ = 1 - next_staging_;
    if (absl::Status status = Check(cudaEventSynchronize(staging.sent), "wait for a transfer"); !status.ok()) return status;
    std::memcpy(staging.data, static_cast<const char*>(from) + at, part);  // reads the file's pages while the other part travels
    if (absl::Status status = Check(cudaMemcpyAsync(static_cast<char*>(to) + at, staging.data, part, cudaMemcpyHostToDevice,
                                                    stream()), "copy to the device");
        !status.ok()) {
      return status;
    }
    if (absl::Status status = Check(cudaEventRecord(staging.sent, stream_), "event"); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status Device::Download(const void* from, void* to, size_t bytes) {
  if (bytes == 0) return Synchronize("wait for the device");
  if (absl::Status status = Check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream()), "copy from the device");
      !status.ok()) {
    return status;
  }
  return Synchronize("copy from the device");
}

size_t Device::free_bytes() const {
  Use();
  size_t free_bytes = 0, total = 0;
  return cudaMemGetInfo(&free_bytes, &total) == cudaSuccess ? free_bytes : 0;
}

absl::StatusOr<DeviceMemory> DeviceMemory::New(Device& device, size_t bytes, absl::string_view what, bool zero) {
  DeviceMemory memory;
  device.Use();
  const size_t rounded = std::max<size_t>(256, (bytes + 255) / 256 * 256);
  if (absl::Status status = device.Check(cudaMalloc(&memory.data_, rounded), absl::StrCat(bytes, " bytes for ", what)); !status.ok()) {
    return status;
  }
  memory.bytes_ = bytes;
  if (zero) {
    if (absl::Status status = device.Check(cudaMemsetAsync(memory.data_, 0, rounded, device.stream()), what); !status.ok()) return status;
  }
  return memory;
}

absl::StatusOr<DeviceMemory> DeviceMemory::NewPinned(Device& device, size_t bytes) {
  DeviceMemory memory;
  memory.pinned_ = true;
  device.Use();
  if (absl::Status status = device.Check(cudaHostAlloc(&memory.data_, std::max<size_t>(bytes, 64), cudaHostAllocDefault),
                                         "pinned memory");
      !status.ok()) {
    return status;
  }
  std::memset(memory.data_, 0, bytes);
  memory.bytes_ = bytes;
  return memory;
}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  if (this == &other) return *this;
  Free();
  data_ = std::exchange(other.data_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  pinned_ = other.pinned_;
  return *this;
}

void DeviceMemory::Free() {
  if (data_ == nullptr) return;
  if (pinned_) {
    cudaFreeHost(data_);
  } else {
    cudaFree(data_);
  }
  data_ = nullptr;
}

}  // namespace pagoda::kernels::cuda
