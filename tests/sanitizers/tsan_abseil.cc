// Teaches ThreadSanitizer the locks of Debian's Abseil, on which gRPC stands: both are built without instrumentation, so
// that whatever gRPC hands from one thread to another would look like a race in our own code. Linked into every binary of
// the tsan preset; the dynamic linker then finds these in place of the library's, and they call the library's.
// Only what gRPC calls is here: `nm -DC libgrpc.so libgpr.so libgrpc++.so | grep 'U absl.*\(Mutex\|CondVar\)'`.
#include <dlfcn.h>

#include "absl/synchronization/mutex.h"

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}

namespace {

// The library's function of the same (mangled) name.
template <typename Function>
Function* Next(const char* name) {
  void* found = dlsym(RTLD_NEXT, name);
  if (found == nullptr) __builtin_trap();  // another Abseil: the names below want another look
  return reinterpret_cast<Function*>(found);
}

#define PAGODA_TEXT_INNER(text) #text
#define PAGODA_TEXT(text) PAGODA_TEXT_INNER(text)
// "debian3": the inline namespace of the installed Abseil, seven characters in mangled names.
#define PAGODA_ABSL(rest) "_ZN4absl7" PAGODA_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME) rest
static_assert(sizeof(PAGODA_TEXT(ABSL_OPTION_INLINE_NAMESPACE_NAME)) == 8);

}  // namespace

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  static auto* const next = Next<void(Mutex*)>(PAGODA_ABSL("5Mutex4LockEv"));
  next(this);
  __tsan_acquire(this);
}

bool Mutex::TryLock() {
  static auto* const next = Next<bool(Mutex*)>(PAGODA_ABSL("5Mutex7TryLockEv"));
  const bool taken = next(this);
  if (taken) __tsan_acquire(this);
  return taken;
}

void Mutex::Unlock() {
  static auto* const next = Next<void(Mutex*)>(PAGODA_ABSL("5Mutex6UnlockEv"));
  __tsan_release(this);
  next(this);
}

void CondVar::Wait(Mutex* mutex) {
  static auto* const next = Next<void(CondVar*, Mutex*)>(PAGODA_ABSL("7CondVar4WaitEPNS0_5MutexE"));
  __tsan_release(mutex);
  next(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  static auto* const next =
      Next<bool(CondVar*, Mutex*, Time)>(PAGODA_ABSL("7CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE"));
  __tsan_release(mutex);
  const bool timed_out = next(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  static auto* const next =
      Next<bool(CondVar*, Mutex*, Duration)>(PAGODA_ABSL("7CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE"));
  __tsan_release(mutex);
  const bool timed_out = next(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

ABSL_NAMESPACE_END
}  // namespace absl
