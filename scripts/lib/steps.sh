# Talking to a person or a log file: one line per step, with progress while it runs. Sourced, never run.
# Sets PAGODA_ROOT. The full output of every step goes to build/logs/.

PAGODA_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PAGODA_LOGS="$PAGODA_ROOT/build/logs"

say() { printf '%s\n' "pagoda: $*"; }
fail() {
  printf '%s\n' "pagoda: error: $*" >&2
  exit 1
}

on_terminal() { [ -t 1 ] && [ "${TERM:-dumb}" != dumb ]; }

# run_step "title" command...: runs it with its output in a log file. Under two seconds: silent unless it fails. On a terminal
# one line is rewritten; elsewhere a plain line at the start, each 30 s, and at the end. Fails as the command does, after
# printing the end of its output.
run_step() {
  local title="$1"
  shift
  mkdir -p "$PAGODA_LOGS"
  local log="$PAGODA_LOGS/$(printf '%s' "$title" | tr -c 'a-zA-Z0-9\n' '-').log"
  local start=$SECONDS status=0 shown=0 last_line="" next_plain=2
  "$@" >"$log" 2>&1 </dev/null &
  local job=$!
  trap 'kill "$job" 2>/dev/null; wait "$job" 2>/dev/null; exit 130' INT TERM
  local tick=0
  while kill -0 "$job" 2>/dev/null; do
    # Quick commands are noticed quickly; long ones cost nothing to watch.
    if [ "$tick" -lt 20 ]; then sleep 0.1; else sleep 0.5; fi
    tick=$((tick + 1))
    local elapsed=$((SECONDS - start))
    [ "$elapsed" -lt 2 ] && continue
    if on_terminal; then
      last_line="$(tail -c 400 "$log" 2>/dev/null | tr '\r' '\n' | tail -n 1 | cut -c1-70)"
      printf '\r\033[Kpagoda: %s  %ds  %s' "$title" "$elapsed" "$last_line"
      shown=1
    elif [ "$elapsed" -ge "$next_plain" ]; then
      last_line="$(tail -c 400 "$log" 2>/dev/null | tr '\r' '\n' | tail -n 1 | cut -c1-100)"
      say "$title: ${elapsed} s: $last_line"
      shown=1
      next_plain=$((elapsed + 30))
    fi
  done
  wait "$job" || status=$?
  trap - INT TERM
  if on_terminal && [ "$shown" -eq 1 ]; then printf '\r\033[K'; fi
  if [ "$status" -ne 0 ]; then
    {
      printf '%s\n' "pagoda: error: $title failed (exit $status). The end of its output, all of it in $log:"
      tail -n 60 "$log"
    } >&2
    return "$status"
  fi
  [ "$shown" -eq 1 ] && say "$title: done in $((SECONDS - start)) s"
  return 0
}
