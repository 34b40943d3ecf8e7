// Teaches ThreadSanitizer what gRPC orders without locks: whoever starts operations on a call comes before whoever is told
// that they are done. gRPC's core is built without instrumentation and hands calls over through queues of atomics, so that TSan
// would take each of our reactors for a race. Linked into whatever uses gRPC in the tsan preset (proto/CMakeLists.txt), built with
// -fno-access-control. Edges run between the start and the end of the same operations only: what our threads owe each
// other besides is still seen.
#include <dlfcn.h>
#include <grpc/grpc.h>
#include <grpcpp/support/callback_common.h>
#include <grpcpp/support/server_callback.h>

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);

// Makes the linker take this file.
int pagoda_tsan_grpc = 0;

// In place of the inline functions that gRPC's headers put into our objects: a definition that is not weak wins.
void PagodaRunSuccessTag(grpc_completion_queue_functor* tag, int ok) asm(
    "_ZN4grpc8internal22CallbackWithSuccessTag9StaticRunEP29grpc_completion_queue_functori");
void PagodaRunStatusTag(grpc_completion_queue_functor* tag, int ok) asm(
    "_ZN4grpc8internal21CallbackWithStatusTag9StaticRunEP29grpc_completion_queue_functori");

void PagodaRunSuccessTag(grpc_completion_queue_functor* tag, int ok) {
  __tsan_acquire(tag);
  static_cast<grpc::internal::CallbackWithSuccessTag*>(tag)->Run(ok != 0);
}

void PagodaRunStatusTag(grpc_completion_queue_functor* tag, int ok) {
  __tsan_acquire(tag);
  static_cast<grpc::internal::CallbackWithStatusTag*>(tag)->Run(ok != 0);
}

// In place of libgrpc's, for libgrpc++: these call the library's.
grpc_call_error grpc_call_start_batch(grpc_call* call, const grpc_op* operations, size_t count, void* tag, void* reserved) {
  static auto* const next =
      reinterpret_cast<decltype(&grpc_call_start_batch)>(dlsym(RTLD_NEXT, "grpc_call_start_batch"));
  __tsan_release(tag);
  return next(call, operations, count, tag, reserved);
}

grpc_event grpc_completion_queue_next(grpc_completion_queue* queue, gpr_timespec deadline, void* reserved) {
  static auto* const next =
      reinterpret_cast<decltype(&grpc_completion_queue_next)>(dlsym(RTLD_NEXT, "grpc_completion_queue_next"));
  grpc_event event = next(queue, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}

grpc_event grpc_completion_queue_pluck(grpc_completion_queue* queue, void* tag, gpr_timespec deadline, void* reserved) {
  static auto* const next =
      reinterpret_cast<decltype(&grpc_completion_queue_pluck)>(dlsym(RTLD_NEXT, "grpc_completion_queue_pluck"));
  grpc_event event = next(queue, tag, deadline, reserved);
  if (event.type == GRPC_OP_COMPLETE) __tsan_acquire(event.tag);
  return event;
}
}

namespace grpc::internal {

// The last of a call's callbacks ends it; in the library the count is not seen.
void ServerCallbackCall::ScheduleOnDone(bool inline_ondone) {
  static auto* const next = reinterpret_cast<void (*)(ServerCallbackCall*, bool)>(
      dlsym(RTLD_NEXT, "_ZN4grpc8internal18ServerCallbackCall14ScheduleOnDoneEb"));
  __tsan_acquire(&callbacks_outstanding_);
  next(this, inline_ondone);
}

}  // namespace grpc::internal
