// What the kernels use of the device beyond plain C++: each instruction in one small function. tests/fakes/cuda_emulation holds a
// file of the same name and meaning that runs on the host, so kernels use nothing of the device but what is here.
// Arithmetic is IEEE and never contracted (compiled with -fmad=false): fused only where it says Fma.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace pagoda::kernels::cuda {

__device__ inline unsigned char* DynamicShared() {
  extern __shared__ __align__(128) unsigned char pagoda_dynamic_shared[];
  return pagoda_dynamic_shared;
}
__device__ inline void BlockSync() { __syncthreads(); }
__device__ inline void WarpSync() { __syncwarp(); }

__device__ inline float Fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
__device__ inline double FmaDouble(double a, double b, double c) { return __fma_rn(a, b, c); }
__device__ inline int NearestInt(float x) { return __float2int_rn(x); }  // half to even
__device__ inline double NearestDouble(double x) { return rint(x); }
__device__ inline float SquareRoot(float x) { return __fsqrt_rn(x); }
__device__ inline uint32_t FloatBits(float x) { return __float_as_uint(x); }
__device__ inline float FloatOfBits(uint32_t x) { return __uint_as_float(x); }
__device__ inline uint64_t DoubleBits(double x) { return static_cast<uint64_t>(__double_as_longlong(x)); }
__device__ inline double DoubleOfBits(uint64_t x) { return __longlong_as_double(static_cast<long long>(x)); }

// Rounding to nearest even. FloatToHalf keeps to the largest finite value instead of infinity.
__device__ inline float HalfToFloat(uint16_t bits) { return __half2float(__ushort_as_half(bits)); }
__device__ inline uint16_t FloatToHalf(float x) {
  const float bounded = x > 65504.0f ? 65504.0f : (x < -65504.0f ? -65504.0f : x);
  return __half_as_ushort(__float2half_rn(bounded));
}
__device__ inline float BFloatToFloat(uint16_t bits) { return __uint_as_float(static_cast<uint32_t>(bits) << 16); }
__device__ inline uint16_t FloatToBFloat(float x) { return __bfloat16_as_ushort(__float2bfloat16_rn(x)); }
// e4m3, to nearest even, bounded by 448.
__device__ inline uint8_t FloatToFp8(float x) { return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3); }
__device__ inline float Fp8ToFloat(uint8_t bits) {
  return __half2float(__half(__nv_cvt_fp8_to_halfraw(bits, __NV_E4M3)));
}

template <typename T>
__device__ inline T ShuffleXor(T value, int lanes) {
  return __shfl_xor_sync(0xffffffffu, value, lanes);
}
template <typename T>
__device__ inline T Shuffle(T value, int lane) {
  return __shfl_sync(0xffffffffu, value, lane);
}
__device__ inline bool AnyLane(bool value) { return __any_sync(0xffffffffu, value) != 0; }
__device__ inline uint32_t Ballot(bool value) { return __ballot_sync(0xffffffffu, value); }
__device__ inline int CountBits(uint32_t x) { return __popc(x); }

__device__ inline int AtomicAdd(int* at, int value) { return atomicAdd(at, value); }
__device__ inline unsigned long long AtomicMax(unsigned long long* at, unsigned long long value) {
  return atomicMax(at, value);
}

// Reads that stay in the caches, and 16 bytes at once.
template <typename T>
__device__ inline T LoadCached(const T* at) {
  return __ldg(at);
}

// Bytes of a word minus the same byte, wrapping.
__device__ inline uint32_t SubtractBytes(uint32_t a, uint32_t b) { return __vsub4(a, b); }

// Matrix products of a warp, added to d. Fragments as in the PTX manual (mma.m16n8k32, .m16n8k16): lane = 4 g + t;
//   d[0], d[1]: row g, columns 2t, 2t+1; d[2], d[3]: row g + 8.
//   8 bits, k32: a[0]: row g, k 4t..4t+3; a[1]: row g + 8; a[2], a[3]: the same rows, k + 16. b[0]: column g, k 4t..4t+3; b[1]: k + 16.
//   8 bits, k16: a0, a1 and b0 of that.  16 bits: a[0]: row g, k 2t, 2t+1; a[1]: row g + 8; a[2], a[3]: k + 8; b alike.
#define PAGODA_MMA_K32(name, types)                                                                              \
  __device__ inline void name(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {                 \
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "   \
                 "{%0,%1,%2,%3};"                                                                                \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                            \
  }
PAGODA_MMA_K32(MmaS8, "s8.s8")
PAGODA_MMA_K32(MmaU8, "u8.s8")
#undef PAGODA_MMA_K32
#define PAGODA_MMA_K16(name, types)                                                                              \
  __device__ inline void name(int32_t (&d)[4], uint32_t a0, uint32_t a1, uint32_t b) {                           \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32." types ".s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "            \
                 "{%0,%1,%2,%3};"                                                                                \
                 : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])                                                \
                 : "r"(a0), "r"(a1), "r"(b));                                                                    \
  }
PAGODA_MMA_K16(MmaS8Half, "s8.s8")
PAGODA_MMA_K16(MmaU8Half, "u8.s8")
#undef PAGODA_MMA_K16
#define PAGODA_MMA_FLOAT(name, types)                                                                            \
  __device__ inline void name(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {                 \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." types ".f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "   \
                 "{%0,%1,%2,%3};"                                                                                \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                                \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                                \
  }
PAGODA_MMA_FLOAT(MmaF16, "f16.f16")
PAGODA_MMA_FLOAT(MmaBF16, "bf16.bf16")
#undef PAGODA_MMA_FLOAT

// The product of a warpgroup (4 warps, 64 rows) by 128 columns, 16 deep, added to d: wgmma with A from registers, as each warp's
// m16n8k16 fragment, and B from shared memory. d[4 n + i] is what d[i] of mma.m16n8k16 is, for columns 8 n. B lies in blocks of 8 columns
// x 8 deep (128 bytes: a column's 8 values together), column groups `column_bytes` apart, the second 8 of the depth `depth_bytes` on.
// Between WarpgroupBegin and WarpgroupEnd products run in order; registers are not touched meanwhile. Only on sm_90a.
__device__ inline uint64_t SharedMatrix(const void* shared, uint32_t depth_bytes, uint32_t column_bytes) {
  const uint64_t address = static_cast<uint32_t>(__cvta_generic_to_shared(shared)) >> 4 & 0x3fff;
  return address | static_cast<uint64_t>(depth_bytes >> 4) << 16 | static_cast<uint64_t>(column_bytes >> 4) << 32;
}
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define PAGODA_WGMMA(name, types)                                                                                  \
  __device__ inline void name(float (&d)[64], const uint32_t (&a)[4], uint64_t b) {                                \
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32." types " {"                                         \
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63" \
                 "}, {%64, %65, %66, %67}, %68, 1, 1, 1, 0;"                                                       \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]), "+f"(d[4]), "+f"(d[5]), "+f"(d[6]), "+f"(d[7]), \
                 "+f"(d[8]), "+f"(d[9]), "+f"(d[10]), "+f"(d[11]), "+f"(d[12]), "+f"(d[13]), "+f"(d[14]), "+f"(d[15]), \
                 "+f"(d[16]), "+f"(d[17]), "+f"(d[18]), "+f"(d[19]), "+f"(d[20]), "+f"(d[21]), "+f"(d[22]), "+f"(d[23]), \
                 "+f"(d[24]), "+f"(d[25]), "+f"(d[26]), "+f"(d[27]), "+f"(d[28]), "+f"(d[29]), "+f"(d[30]), "+f"(d[31]), \
                 "+f"(d[32]), "+f"(d[33]), "+f"(d[34]), "+f"(d[35]), "+f"(d[36]), "+f"(d[37]), "+f"(d[38]), "+f"(d[39]), \
                 "+f"(d[40]), "+f"(d[41]), "+f"(d[42]), "+f"(d[43]), "+f"(d[44]), "+f"(d[45]), "+f"(d[46]), "+f"(d[47]), \
                 "+f"(d[48]), "+f"(d[49]), "+f"(d[50]), "+f"(d[51]), "+f"(d[52]), "+f"(d[53]), "+f"(d[54]), "+f"(d[55]), \
                 "+f"(d[56]), "+f"(d[57]), "+f"(d[58]), "+f"(d[59]), "+f"(d[60]), "+f"(d[61]), "+f"(d[62]), "+f"(d[63])                                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));                                            \
  }
__device__ inline void WarpgroupBegin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void WarpgroupEnd() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
}
#else
#define PAGODA_WGMMA(name, types) \
  __device__ inline void name(float (&)[64], const uint32_t (&)[4], uint64_t) { __trap(); }
__device__ inline void WarpgroupBegin() {}
__device__ inline void WarpgroupEnd() {}
#endif
PAGODA_WGMMA(WarpgroupF16, "f16.f16")
PAGODA_WGMMA(WarpgroupBF16, "bf16.bf16")
#undef PAGODA_WGMMA

// Bulk copies from global to shared memory that complete on a barrier. Addresses and sizes are multiples of 16 bytes.
// One thread: BarrierInit (count 1), then BlockSync by all. Per phase: BarrierExpect(total), BulkCopy..., BarrierCommit; all
// readers BarrierWait(parity of the phase). Before sm_90 the thread copies the bytes itself.
__device__ inline uint32_t SharedAddress(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }
__device__ inline void BarrierInit(uint64_t* barrier) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(SharedAddress(barrier)) : "memory");
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}
__device__ inline void BarrierExpect(uint64_t* barrier, uint32_t bytes) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(SharedAddress(barrier)), "r"(bytes) : "memory");
#endif
}
__device__ inline void BulkCopy(void* shared, const void* global, uint32_t bytes, uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   SharedAddress(shared)),
               "l"(global), "r"(bytes), "r"(SharedAddress(barrier))
               : "memory");
#else
  for (uint32_t i = 0; i < bytes; i += 16) {
    *reinterpret_cast<uint4*>(static_cast<char*>(shared) + i) =
        *reinterpret_cast<const uint4*>(static_cast<const char*>(global) + i);
  }
#endif
}
__device__ inline void BarrierCommit(uint64_t* barrier) {
#if __CUDA_ARCH__ < 900
  asm volatile("{\n .reg .b64 state;\n mbarrier.arrive.shared::cta.b64 state, [%0];\n}" ::"r"(SharedAddress(barrier))
               : "memory");
#endif
}
__device__ inline void BarrierWait(uint64_t* barrier, uint32_t parity) {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "{\n .reg .pred done;\n WAIT:\n mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n @done bra DONE;\n bra WAIT;\n "
      "DONE:\n}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
#else
  asm volatile(
      "{\n .reg .pred done;\n WAIT:\n mbarrier.test_wait.parity.shared::cta.b64 done, [%0], %1;\n @done bra DONE;\n bra WAIT;\n "
      "DONE:\n}" ::"r"(SharedAddress(barrier)),
      "r"(parity)
      : "memory");
#endif
}

// Kernels of one stream may overlap (programmatic dependent launch): the next one may start its blocks while this one runs, and waits
// here for the end of the one before and its writes. Every kernel calls it before it touches what another kernel wrote or reads.
__device__ inline void FollowPrevious() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// Flags in memory that other devices or kernels write: release and acquire at system scope.
__device__ inline void StoreRelease(uint32_t* at, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(at), "r"(value) : "memory");
}
__device__ inline uint32_t LoadAcquire(const uint32_t* at) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(at) : "memory");
  return value;
}
__device__ inline void Pause() { __nanosleep(40); }
__device__ inline unsigned long long ClockNs() {
  unsigned long long ns;
  asm volatile("mov.u64 %0, %globaltimer;" : "=l"(ns));
  return ns;
}

}  // namespace pagoda::kernels::cuda
