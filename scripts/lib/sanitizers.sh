# Which tests run under which sanitizer, and how. Sourced, never run.

# Readers of bytes from outside: what CI runs under AddressSanitizer besides all tests without it.
PAGODA_SHORT_ASAN_TESTS=(common_test checkpoint_hostile_test text_test)
# Whatever threads meet in: queues, engines, streams, and servers with what speaks to them (the last two are whole routers,
# by HTTP and by gRPC).
PAGODA_TSAN_TESTS=(common_test security_test kernels_thread_team_test
  worker_comm_test worker_engine_test worker_rebuild_test worker_kv_move_test worker_blob_test worker_model_opener_test worker_leader_watch_test
  coordinator_server_test coordinator_store_test etcd_store_test
  router_session_test router_resume_session_test router_failover_test router_grpc_test)
# Of those, what compiles in a minute and a half of processor time.
PAGODA_SHORT_TSAN_TESTS=(common_test kernels_thread_team_test worker_comm_test)

# UCX's hooks of the memory functions take a lock in threads that TSan has already let go of.
run_sanitized() {
  UCX_MEM_MMAP_HOOK_MODE=none \
  ASAN_OPTIONS="detect_leaks=1:strict_string_checks=1:detect_stack_use_after_return=1" \
  UBSAN_OPTIONS="print_stacktrace=1" \
  TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:suppressions=$PAGODA_ROOT/scripts/lib/tsan.suppressions" \
    "$@"
}
