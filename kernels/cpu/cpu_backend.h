// The CPU backend: a thread team and kernels chosen at run time for the machine (scalar, AVX2, AVX-512 VNNI, AMX), all with
// the same bits.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/backend.h"

namespace pagoda::kernels {

enum class Isa : uint8_t { kAuto, kScalar, kAvx2, kAvx512, kAmx };
absl::StatusOr<Isa> ParseIsa(std::string_view name);  // auto|scalar|avx2|avx512|amx
std::string_view NameOf(Isa isa);
bool IsaSupported(Isa isa);  // by this machine and kernel

struct CpuBackendOptions {
  int threads = 1;      // the caller's thread is one of them
  Isa isa = Isa::kAuto; // kUnimplemented when this machine lacks it
  bool pin = false;     // bind thread i to the i-th allowed CPU; thread 0 is the one that makes the backend: let it be the engine's
  int spin_us = 20;     // how long an idle team thread spins before it sleeps
};
absl::StatusOr<std::unique_ptr<Backend>> MakeCpuBackend(const CpuBackendOptions& options);

}  // namespace pagoda::kernels
