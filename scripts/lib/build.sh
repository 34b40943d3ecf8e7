# Configure and build a preset. Sourced, never run.

# Jobs: the processors this process may use, and 1 GiB of memory for each.
build_jobs() {
  local processors memory_kb by_memory
  processors="$(nproc)"
  memory_kb="$(sed -n 's/^MemAvailable: *\([0-9]*\) kB/\1/p' /proc/meminfo)"
  by_memory=$((memory_kb / 1048576))
  [ "$by_memory" -lt 1 ] && by_memory=1
  if [ "$processors" -lt "$by_memory" ]; then echo "$processors"; else echo "$by_memory"; fi
}

# build_preset PRESET [TARGET...]: all targets when none is named. A build that is up to date takes well under a second.
build_preset() {
  local preset="$1"
  shift
  local folder="$PAGODA_ROOT/build/$preset"
  # One cache of compiled objects for all checkouts of this repository.
  export CCACHE_BASEDIR="$PAGODA_ROOT" CCACHE_NOHASHDIR=1
  if [ ! -f "$folder/build.ninja" ]; then
    run_step "configure $preset" cmake -S "$PAGODA_ROOT" --preset "$preset" || exit 1
  fi
  run_step "build $preset" ninja -C "$folder" -j "$(build_jobs)" "$@" || exit 1
}
