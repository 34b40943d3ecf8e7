# Completion of Pagoda's commands for bash (and for zsh after `autoload -U bashcompinit && bashcompinit`).
# Made by docs/generate.py. Copy to /usr/share/bash-completion/completions/pagoda, or source it.
_pagoda_words() {
  case "$1" in
    'pagoda-router') echo '--help --config --version --check-config --coordinators --listen --grpc-listen --tls --ssl-certfile --ssl-keyfile --ssl-ca-certs --api-key-file --allowed-hosts --name --ready-file --log-level --log-format --access-log --shutdown-timeout-ms --max-requests-in-flight --request-timeout-ms --prefix-index-bytes --max-connections --max-connections-per-address --max-body-bytes --header-timeout-ms --body-timeout-ms --idle-timeout-ms --write-timeout-ms --coordinator-timeout-ms --hold-ms --grpc-reflection --otlp-endpoint --trace-sampling-ratio --threads' ;;
    'pagoda-coordinator') echo '--help --config --version --listen --metrics-listen --advertise --store --etcd-ca-file --etcd-certificate-file --etcd-key-file --leader-lease-ms --metrics-tls --tls --encrypt-data-plane --api-key-file --name --cache-dir --heartbeat-ms --lease-ms --makeshift-after-ms --step-deadline-ms --canary-every-ms --shutdown-timeout-ms --log-level --log-format --ready-file --otlp-endpoint --check-config' ;;
    'pagoda-worker') echo '--help --config --version --coordinators --tls --api-key-file --name --advertise --threads --memory-bytes --kv-cache-bytes --replay-bytes --cache-dir --device --gpu-memory-utilization --numerics --isa --pin-threads --transports --net-devices --tcp-port-range --blob-listen --metrics-listen --metrics-tls --ready-file --shutdown-timeout-ms --log-level --log-format --otlp-endpoint --check-config' ;;
    'pagoda') echo 'serve chat deploy top bench plan certs keys pull config health doctor' ;;
    'pagoda serve') echo '--help --model --served-model-name --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --data-parallel-size --num-coordinators --spares --num-routers --host --port --grpc-port --max-model-len --activation-bits --kv-cache-dtype --kv-cache-memory-bytes --max-num-batched-tokens --max-num-seqs --max-queued-requests --block-size --no-enable-prefix-caching --no-enable-chunked-prefill --threads-per-worker --isa --pin-threads --transports --otlp-endpoint --tls --api-key-file --cache-dir --state-dir --log-level --shutdown-timeout-ms --hang-timeout-ms --no-example --config --check-config' ;;
    'pagoda chat') echo '--help --url --grpc --model --system --max-tokens --temperature --top-p --seed --api-key --ssl-ca-certs --grpc-tls --config' ;;
    'pagoda deploy') echo 'apply list scale drain delete' ;;
    'pagoda deploy apply') echo '--help --coordinators --tls --model --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --data-parallel-size --max-model-len --activation-bits --kv-cache-dtype --kv-cache-memory-bytes --max-num-batched-tokens --max-num-seqs --config' ;;
    'pagoda deploy list') echo '--help --coordinators --tls --config' ;;
    'pagoda deploy scale') echo '--help --coordinators --tls --data-parallel-size --config' ;;
    'pagoda deploy drain') echo '--help --coordinators --tls --timeout-ms --config' ;;
    'pagoda deploy delete') echo '--help --coordinators --tls --config' ;;
    'pagoda top') echo '--help --coordinators --tls --interval-ms --once --config' ;;
    'pagoda bench') echo '--help --url --grpc --model --api-key --ssl-ca-certs --ssl-server-name --grpc-tls --num-prompts --max-concurrency --request-rate --burstiness --input-len --output-len --max-len --shared-prefix-len --stop-at-eos --temperature --top-p --top-k --num-speculative-tokens --prompt-file --cancel-fraction --timeout-ms --deadline-ms --seed --slo-ttft-ms --slo-itl-ms --slo-e2e-ms --token-id-low --token-id-high --output --config' ;;
    'pagoda plan') echo '--help --pipeline-parallel-size --tensor-parallel-size --layers-per-stage --max-model-len --kv-cache-dtype --kv-cache-memory-bytes --memory --cache-dir --json --config' ;;
    'pagoda certs') echo '--help --hosts --days --renew --config' ;;
    'pagoda keys') echo 'create list revoke' ;;
    'pagoda keys create') echo '--help --file --tenant --scopes --models --requests-per-minute --tokens-per-minute --weight --config' ;;
    'pagoda keys list') echo '--help --file --config' ;;
    'pagoda keys revoke') echo '--help --file --config' ;;
    'pagoda pull') echo '--help --cache-dir --config' ;;
    'pagoda config') echo 'check' ;;
    'pagoda config check') echo '--help --for' ;;
    'pagoda health') echo '--help --ssl-ca-certs --ssl-server-name --timeout-ms' ;;
    'pagoda doctor') echo '--help --coordinators --tls --router --ssl-ca-certs --cache-dir --config' ;;
  esac
}
_pagoda_values() {
  case "$1" in
    'pagoda-router --log-format') echo 'json plain' ;;
    'pagoda-coordinator --log-format') echo 'json plain' ;;
    'pagoda-worker --numerics') echo 'invariant fast' ;;
    'pagoda-worker --isa') echo 'auto scalar avx2 avx512 amx' ;;
    'pagoda-worker --log-format') echo 'json plain' ;;
    'pagoda serve --activation-bits') echo '8 12' ;;
    'pagoda serve --kv-cache-dtype') echo 'f16 f32 bf16 int8' ;;
    'pagoda serve --isa') echo 'auto scalar avx2 avx512 amx' ;;
    'pagoda deploy apply --activation-bits') echo '8 12' ;;
    'pagoda deploy apply --kv-cache-dtype') echo 'f16 f32 bf16 int8' ;;
    'pagoda plan --kv-cache-dtype') echo 'f16 f32 bf16 int8' ;;
    'pagoda keys create --scopes') echo 'inference metrics admin' ;;
    'pagoda config check --for') echo 'router coordinator worker serve' ;;
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
