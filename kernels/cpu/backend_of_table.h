// A CPU backend over a given table of kernels: how MakeCpuBackend ends, and how tests run a table that this machine's
// instruction sets do not have.
#pragma once

#include <memory>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/kernel_table.h"

namespace pagoda::kernels {

// `isa` is only a name here.
std::unique_ptr<Backend> MakeCpuBackendOf(const CpuBackendOptions& options, Isa isa, const cpu::KernelTable& kernels);

}  // namespace pagoda::kernels
