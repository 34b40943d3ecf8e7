#include "kernels/cpu/kernel_table.h"
namespace pagoda::kernels::cpu {
const KernelTable& Avx2Kernels() { return ScalarKernels(); }
}  // namespace pagoda::kernels::cpu
