# The CUDA backend's sources: built by nvcc (kernels/CMakeLists.txt), and as C++ over the emulation (tests/fakes).
set(PAGODA_CUDA_KERNELS
  attention.cu attention_bf16.cu attention_f16.cu attention_f8.cu attention_i8.cu
  gemm.cu gemm_bits2.cu gemm_bits4.cu gemm_bits5.cu gemm_bits8.cu gemm_floats.cu gemm_warpgroup.cu
  pack.cu rope_store.cu row_ops.cu sample.cu)
set(PAGODA_CUDA_HOST
  attention_plan.cc cuda_backend.cc device.cc objects.cc recorded_steps.cc slice_plan.cc step_data.cc)
list(TRANSFORM PAGODA_CUDA_KERNELS PREPEND ${CMAKE_SOURCE_DIR}/kernels/cuda/)
list(TRANSFORM PAGODA_CUDA_HOST PREPEND ${CMAKE_SOURCE_DIR}/kernels/cuda/)
