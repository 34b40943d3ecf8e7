// What this machine can do, as one JSON object: the roofs that results are compared with.
//   machine_roofs [--threads N] [--bytes B]    B: the size of the cyclic read, that of the model
#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "bench/kernels/roofs.h"

int main(int argc, char** argv) {
  int threads = 2;
  size_t bytes = 97 << 20;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    if (name == "--threads") threads = std::atoi(argv[i + 1]);
    if (name == "--bytes") bytes = std::strtoull(argv[i + 1], nullptr, 10);
  }
  std::printf("{\"threads\": %d, \"vnni_ops_per_s\": %.4g, \"read_bytes\": %zu, \"read_bytes_per_s\": %.4g, "
              "\"memory_bytes_per_s\": %.4g, \"f32_flop_per_s\": %.4g}\n",
              threads, pagoda::bench::MeasureVnni(threads), bytes, pagoda::bench::MeasureRead(threads, bytes),
              pagoda::bench::MeasureRead(threads, size_t{1} << 30), pagoda::bench::MeasureF32(threads));
  return 0;
}
