# Completion of Pagoda's commands for bash (and for zsh after `autoload -U bashcompinit && bashcompinit`).
# Made by docs/generate.py. Copy to /usr/share/bash-completion/completions/pagoda, or source it.
_pagoda_words() {
  case "$1" in
    'pagoda-router') echo '--help --config --version --check-config --coordinators --listen --grpc-listen --name --ready-file --log-level --log-format --access-log --shutdown-timeout-ms --max-requests-in-flight --request-timeout-ms --prefix-index-bytes --max-connections --max-body-bytes --header-timeout-ms --body-timeout-ms --idle-timeout-ms --write-timeout-ms --coordinator-timeout-ms --hold-ms --grpc-reflection --otlp-endpoint --trace-sampling-ratio --threads' ;;
    'pagoda-coordinator') echo '--help --config --version --listen --metrics-listen --advertise --store --etcd-ca-file --etcd-certificate-file --etcd-key-file --leader-lease-ms --name --cache-dir --heartbeat-ms --lease-ms --step-deadline-ms --canary-every-ms --shutdown-timeout-ms --log-level --log-format --ready-file --otlp-endpoint --check-config' ;;
    'pagoda-worker') echo '--help --config --version --coordinators --name --advertise --threads --memory-bytes --kv-cache-bytes --replay-bytes --cache-dir --device --gpu-memory-utilization --numerics --isa --pin-threads --transports --net-devices --tcp-port-range --blob-listen --metrics-listen --ready-file --shutdown-timeout-ms --log-level --log-format --otlp-endpoint --check-config' ;;
    'pagoda') echo 'serve chat deploy top bench plan pull doctor' ;;
    'pagoda serve') echo '--help --model --served-model-name --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --data-parallel-size --num-coordinators --spares --num-routers --host --port --grpc-port --max-model-len --activation-bits --kv-cache-dtype --kv-cache-memory-bytes --max-num-batched-tokens --max-num-seqs --max-queued-requests --block-size --no-enable-prefix-caching --no-enable-chunked-prefill --threads-per-worker --isa --pin-threads --transports --otlp-endpoint --cache-dir --state-dir --log-level --shutdown-timeout-ms --hang-timeout-ms --no-example --config --check-config' ;;
    'pagoda chat') echo '--help --url --grpc --model --system --max-tokens --temperature --top-p --seed --api-key --config' ;;
    'pagoda deploy') echo 'apply list scale drain delete' ;;
    'pagoda deploy apply') echo '--help --coordinators --model --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --data-parallel-size --max-model-len --activation-bits --kv-cache-dtype --kv-cache-memory-bytes --max-num-batched-tokens --max-num-seqs --config' ;;
    'pagoda deploy list') echo '--help --coordinators --config' ;;
    'pagoda deploy scale') echo '--help --coordinators --data-parallel-size --config' ;;
    'pagoda deploy drain') echo '--help --coordinators --timeout-ms --config' ;;
    'pagoda deploy delete') echo '--help --coordinators --config' ;;
    'pagoda top') echo '--help --coordinators --interval-ms --once --config' ;;
    'pagoda bench') echo '--help --url --grpc --model --api-key --num-prompts --max-concurrency --request-rate --burstiness --input-len --output-len --max-len --shared-prefix-len --stop-at-eos --temperature --top-p --top-k --num-speculative-tokens --prompt-file --cancel-fraction --timeout-ms --seed --slo-ttft-ms --slo-itl-ms --slo-e2e-ms --token-id-low --token-id-high --output --config' ;;
    'pagoda plan') echo '--help --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --max-model-len --kv-cache-dtype --kv-cache-memory-bytes --memory --cache-dir --json --config' ;;
    'pagoda pull') echo '--help --cache-dir --config' ;;
    'pagoda doctor') echo '--help --coordinators --router --cache-dir --config' ;;
  esac
}
_pagoda_values() {
  case "$1" in
    'pagoda-router --log-format') echo 'json plain' ;;
    'pagoda-coordinator --log-format') echo 'json plain' ;;
    'pagoda-worker --numerics') echo 'invariant fast' ;;
    'pagoda serve --activation-bits') echo '8 12' ;;
    'pagoda serve --kv-cache-dtype') echo 'f16 f32 bf16 int8' ;;
    'pagoda serve --isa') echo 'auto scalar avx2 avx512 amx' ;;
    'pagoda deploy apply --activation-bits') echo '8 12' ;;
  esac
}
_pagoda() {
  local current="${COMP_WORDS[COMP_CWORD]}" previous="${COMP_WORDS[COMP_CWORD-1]}" command word words
  command="$(basename -- "${COMP_WORDS[0]}")"
  for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    [ -n "$(_pagoda_words "$command $word")" ] && command="$command $word"
  done
  words="$(_pagoda_values "$command $previous")"
  if [ -z "$words" ] && [[ "$previous" == --*file || "$previous" == --config || "$previous" == --*dir || "$previous" == --store ]]; then
    COMPREPLY=($(compgen -f -- "$current"))
    return
  fi
  COMPREPLY=($(compgen -W "${words:-$(_pagoda_words "$command")}" -- "$current"))
}
complete -F _pagoda pagoda pagoda-router pagoda-coordinator pagoda-worker
