#include <asm/prctl.h>
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "kernels/cpu/cpu_backend.h"

namespace pagoda::kernels {
namespace {

constexpr unsigned kXsaveAvx = 0x6, kXsaveAvx512 = 0xe6, kXsaveAmx = 0x60000;

// What the system saves at a context switch; an instruction set without it must not be used.
unsigned SavedState() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d) || (c >> 27 & 1) == 0) return 0;
  unsigned low = 0, high = 0;
  asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

bool HasAvx2() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid(1, &a, &b, &c, &d)) return false;
  const bool fma = c >> 12 & 1, f16c = c >> 29 & 1;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return fma && f16c && (b >> 5 & 1) && (SavedState() & kXsaveAvx) == kXsaveAvx;
}

bool HasAvx512() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!HasAvx2() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool foundation = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1, vnni = c >> 11 & 1;
  return foundation && dq && bw && vl && vnni && (SavedState() & kXsaveAvx512) == kXsaveAvx512;
}

bool HasAmx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!HasAvx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool tile = d >> 24 & 1, int8 = d >> 25 & 1;
  if (!tile || !int8 || (SavedState() & kXsaveAmx) != kXsaveAmx) return false;
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace

absl::StatusOr<Isa> ParseIsa(std::string_view name) {
  for (Isa isa : {Isa::kAuto, Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    if (name == NameOf(isa)) return isa;
  }
  return absl::InvalidArgumentError(absl::StrCat("\"", absl::string_view(name.data(), name.size()),
                                                 "\" is none of auto, scalar, avx2, avx512, amx"));
}

std::string_view NameOf(Isa isa) {
  switch (isa) {
    case Isa::kAuto:
      return "auto";
    case Isa::kScalar:
      return "scalar";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAmx:
      return "amx";
  }
  return "?";
}

bool IsaSupported(Isa isa) {
  switch (isa) {
    case Isa::kAvx2:
      return HasAvx2();
    case Isa::kAvx512:
      return HasAvx512();
    case Isa::kAmx:
      return HasAmx();
    default:
      return true;
  }
}

}  // namespace pagoda::kernels
