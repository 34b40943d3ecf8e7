// What the machine can do, measured minutes before a benchmark: integer dot products from registers, and reading memory.
#pragma once

#include <cstddef>

namespace pagoda::bench {

// Operations (2 per multiply-add) a second of 512-bit u8 x s8 dot products on so many threads. 0 without AVX-512 VNNI.
double MeasureVnni(int threads);
// Floating-point operations a second of 512-bit fused multiply-adds in f32. 0 without AVX-512.
double MeasureF32(int threads);
// Bytes a second of reading `bytes` round and round, cut evenly over the threads, on huge pages.
double MeasureRead(int threads, size_t bytes);

}  // namespace pagoda::bench
