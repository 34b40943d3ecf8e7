#include "tests/fakes/cuda_emulation/cuda_runtime.h"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <vector>

struct CUstream_st {
  bool capturing = false;
  std::vector<std::function<void()>> captured;
};
struct CUevent_st {};
struct CUgraph_st {
  std::vector<std::function<void()>> work;
};
struct CUgraphExec_st {
  std::vector<std::function<void()>> work;
};

namespace {

std::mutex mutex;
std::map<uintptr_t, size_t> allocations;  // begin -> bytes, of device memory
std::map<const void*, int> shared_limits;
cudaError_t broken = cudaSuccess;
cudaError_t last_error = cudaSuccess;

cudaError_t Note(cudaError_t error) {
  if (error != cudaSuccess) last_error = error;
  return error;
}

// Whether [data, data + bytes) lies in one allocation of device memory.
bool InDevice(const void* data, size_t bytes) {
  const std::lock_guard lock(mutex);
  const auto at = reinterpret_cast<uintptr_t>(data);
  auto found = allocations.upper_bound(at);
  if (found == allocations.begin()) return false;
  --found;
  return at >= found->first && at + bytes <= found->first + found->second;
}

}  // namespace

namespace cuda_emulation {
cudaError_t Enqueue(cudaStream_t stream, std::function<void()> work) {
  if (broken != cudaSuccess) return Note(broken);
  if (stream != nullptr && stream->capturing) {
    stream->captured.push_back(std::move(work));
    return cudaSuccess;
  }
  work();
  return cudaSuccess;
}
cudaError_t AllowShared(const void* kernel, int bytes) {
  if (bytes > (227 << 10)) return Note(cudaErrorInvalidValue);
  const std::lock_guard lock(mutex);
  shared_limits[kernel] = bytes;
  return cudaSuccess;
}
int AllowedShared(const void* kernel) {
  const std::lock_guard lock(mutex);
  return shared_limits[kernel];
}
void Break(cudaError_t error) { broken = error; }
void Mend() { broken = last_error = cudaSuccess; }
int64_t LiveAllocations() {
  const std::lock_guard lock(mutex);
  return static_cast<int64_t>(allocations.size());
}
}  // namespace cuda_emulation

cudaError_t cudaMalloc(void** out, size_t bytes) {
  if (broken != cudaSuccess) return Note(broken);
  if (bytes > (size_t{8} << 30)) return Note(cudaErrorMemoryAllocation);
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
  std::memset(*out, 0xff, bytes);  // NaN in every float format: reads of what nothing wrote show
  const std::lock_guard lock(mutex);
  allocations[reinterpret_cast<uintptr_t>(*out)] = bytes;
  return cudaSuccess;
}
cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  {
    const std::lock_guard lock(mutex);
    if (allocations.erase(reinterpret_cast<uintptr_t>(data)) == 0) return Note(cudaErrorInvalidValue);
  }
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** out, size_t bytes, unsigned) {
  *out = std::aligned_alloc(256, (bytes + 255) / 256 * 256 + 256);
  return cudaSuccess;
}
cudaError_t cudaFreeHost(void* data) {
  std::free(data);
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total) {
  *total = size_t{8} << 30;
  size_t used = 0;
  const std::lock_guard lock(mutex);
  for (const auto& [begin, bytes] : allocations) used += bytes;
  *free_bytes = *total - used;
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  if (InDevice(to, bytes) != to_device || InDevice(from, bytes) != from_device) return Note(cudaErrorInvalidValue);
  return cuda_emulation::Enqueue(stream, [=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemsetAsync(void* data, int value, size_t bytes, cudaStream_t stream) {
  if (!InDevice(data, bytes)) return Note(cudaErrorInvalidValue);
  return cuda_emulation::Enqueue(stream, [=] { std::memset(data, value, bytes); });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (broken != cudaSuccess) return Note(broken);
  return stream != nullptr && stream->capturing ? Note(cudaErrorStreamCaptureUnsupported) : cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = true;
  stream->captured.clear();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  *graph = new CUgraph_st{std::move(stream->captured)};
  stream->captured.clear();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
  *exec = new CUgraphExec_st{graph->work};
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& work : exec->work) {
    if (const cudaError_t error = cuda_emulation::Enqueue(stream, work); error != cudaSuccess) return error;
  }
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
  delete exec;
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventQuery(cudaEvent_t) { return broken; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return broken; }
cudaError_t cudaEventElapsedTime(float* ms, cudaEvent_t, cudaEvent_t) {
  *ms = 0.001f;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() {
  const cudaError_t error = last_error;
  if (broken == cudaSuccess) last_error = cudaSuccess;
  return error;
}
const char* cudaGetErrorName(cudaError_t error) { return error == cudaSuccess ? "cudaSuccess" : "cudaErrorEmulated"; }
const char* cudaGetErrorString(cudaError_t error) { return error == cudaSuccess ? "no error" : "an emulated error"; }
cudaError_t cudaGetDeviceCount(int* count) {
  *count = 1;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  std::strcpy(properties->name, "emulated device");
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMultiProcessorCount: *value = 4; break;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; break;
    default: *value = 227 << 10;
  }
  return cudaSuccess;
}
