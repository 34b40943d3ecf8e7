{{/* What the schema cannot say: values that must fit each other. Rendered by serviceaccount.yaml, so always. */}}
{{- define "pagoda.validate" -}}
{{- $values := .Values -}}
{{- $names := dict -}}
{{- $containers := dict -}}
{{- range $values.models -}}
{{- if hasKey $names .name }}{{ fail (printf "models: two are named '%s'" .name) }}{{ end -}}
{{- $_ := set $names .name true -}}
{{- $container := include "pagoda.nameOfContainer" .name -}}
{{- if hasKey $containers $container -}}
{{- fail (printf "models: '%s' and '%s' would both have containers named after '%s' (Kubernetes wants small letters, digits and dashes; the first 50 count): give one of them another name" (index $containers $container) .name $container) -}}
{{- end -}}
{{- $_ := set $containers $container .name -}}
{{- $stages := int (default 1 .pipelineParallelSize) -}}
{{- $tensor := default (list 1) .tensorParallelSize -}}
{{- if and (gt (len $tensor) 1) (ne (len $tensor) $stages) -}}
{{- fail (printf "models '%s': tensorParallelSize lists %d stages, but pipelineParallelSize is %d" .name (len $tensor) $stages) -}}
{{- end -}}
{{- if and .layersPerStage (ne (len .layersPerStage) $stages) -}}
{{- fail (printf "models '%s': layersPerStage lists %d stages, but pipelineParallelSize is %d" .name (len .layersPerStage) $stages) -}}
{{- end -}}
{{- if not (include "pagoda.pulled" .model) -}}
{{- if not $values.modelVolume.existingClaim -}}
{{- fail (printf "models '%s': %s is a path, so modelVolume.existingClaim must name the claim that holds it" .name .model) -}}
{{- end -}}
{{- if not (hasPrefix (printf "%s/" $values.modelVolume.mountPath) .model) -}}
{{- fail (printf "models '%s': %s is not below modelVolume.mountPath (%s)" .name .model $values.modelVolume.mountPath) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if lt (int $values.coordinator.leaseMs) (mul 2 (int $values.coordinator.heartbeatMs)) -}}
{{- fail (printf "coordinator.leaseMs is %d, below twice heartbeatMs (%d): one late heartbeat would lose a worker" (int $values.coordinator.leaseMs) (int $values.coordinator.heartbeatMs)) -}}
{{- end -}}
{{- if and (gt (int $values.coordinator.replicas) 1) (not ($values.etcd).endpoints) -}}
{{- fail (printf "coordinator.replicas is %d, but etcd.endpoints names none: several coordinators need a store that they share" (int $values.coordinator.replicas)) -}}
{{- end -}}
{{- if and (gt (int $values.coordinator.replicas) 1) $values.coordinator.persistence.existingClaim -}}
{{- fail "coordinator.persistence.existingClaim is one claim, but coordinator.replicas is above 1: leave it empty, and each gets a claim of its own" -}}
{{- end -}}
{{- range ($values.etcd).endpoints -}}
{{- if gt (int (include "pagoda.portOf" .)) 65535 -}}
{{- fail (printf "etcd.endpoints: %s has a port above 65535" .) -}}
{{- end -}}
{{- end -}}
{{- with ($values.etcd).tls -}}
{{- if and .existingSecret (not ($values.etcd).endpoints) -}}
{{- fail "etcd.tls.existingSecret is set, but etcd.endpoints names none" -}}
{{- end -}}
{{- if ne (empty .certificateKey) (empty .keyKey) -}}
{{- fail "etcd.tls: certificateKey and keyKey belong together: name both, or none where etcd wants no certificate" -}}
{{- end -}}
{{- end -}}
{{- if gt (int $values.workers.gpu.count) 1 -}}
{{- fail (printf "workers.gpu.count is %d, but a worker uses one device and the others of its pod would stand idle: set it to 1, and raise pipelineParallelSize, tensorParallelSize or replicas of a model, which makes more workers" (int $values.workers.gpu.count)) -}}
{{- end -}}
{{- if and (gt (int $values.workers.spare) 0) (gt (int $values.workers.spares) 0) (ne (int $values.workers.spare) (int $values.workers.spares)) -}}
{{- fail (printf "workers.spare (%d) is the old name of workers.spares (%d): leave one out" (int $values.workers.spare) (int $values.workers.spares)) -}}
{{- end -}}
{{- if and $values.tls.enabled (eq $values.tls.source "existingSecrets") -}}
{{- range $role, $secret := $values.tls.existingSecrets -}}
{{- if and (not $secret) (or $values.tls.clients (ne $role "server")) -}}
{{- fail (printf "tls.source is existingSecrets, but tls.existingSecrets.%s names none" $role) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and (or ($values.tls).serverName (eq (default "secret" $values.tls.serverAuthority) "system")) (not $values.tls.existingSecrets.server) -}}
{{- fail "tls.serverName and tls.serverAuthority are about the certificate in tls.existingSecrets.server, which names none" -}}
{{- end -}}
{{- $labels := dict "monitoring.labels" $values.monitoring.labels -}}
{{- range $component := list "router" "coordinator" "workers" -}}
{{- $_ := set $labels (printf "%s.podLabels" $component) (index $values $component).podLabels -}}
{{- if hasKey (default dict (index $values $component).podAnnotations) "kubectl.kubernetes.io/default-container" -}}
{{- fail (printf "%s.podAnnotations: kubectl.kubernetes.io/default-container is the chart's own" $component) -}}
{{- end -}}
{{- end -}}
{{- range $where, $given := $labels -}}
{{- range $label, $_ := default dict $given -}}
{{- if regexMatch "^(app[.]kubernetes[.]io/(name|instance|component|version|managed-by)|helm[.]sh/chart|pagoda/pool)$" $label -}}
{{- fail (printf "%s: %s is the chart's own; with another value, selectors would not find the pods" $where $label) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- if and $values.router.engineTypeLabel (hasKey (default dict $values.router.podLabels) "llm-d.ai/engine-type") -}}
{{- fail "router.podLabels: llm-d.ai/engine-type is router.engineTypeLabel's; set that to \"\" to name your own" -}}
{{- end -}}
{{- if and $values.apiKeys.existingSecret $values.router.grpcReflection -}}
{{- fail "router.grpcReflection answers without a key: it cannot be on together with apiKeys.existingSecret" -}}
{{- end -}}
{{- if and $values.apiKeys.existingSecret $values.monitoring.podMonitor.enabled (not $values.apiKeys.metricsKey.existingSecret) -}}
{{- fail "monitoring.podMonitor.enabled with API keys needs apiKeys.metricsKey.existingSecret: /metrics wants a key of scope metrics" -}}
{{- end -}}
{{- $group := eq $values.workers.kind "LeaderWorkerSet" -}}
{{- if $group -}}
{{- $size := include "pagoda.ranks" (first $values.models) -}}
{{- range $values.models -}}
{{- if ne (include "pagoda.ranks" .) $size -}}
{{- fail (printf "workers.kind is LeaderWorkerSet, whose groups have one size, but '%s' takes %s workers and '%s' takes %s: use kind StatefulSet" (first $values.models).name $size .name (include "pagoda.ranks" .)) -}}
{{- end -}}
{{- end -}}
{{- else if $values.workers.exclusiveTopology -}}
{{- fail "workers.exclusiveTopology needs workers.kind LeaderWorkerSet" -}}
{{- end -}}
{{- with $values.workers.autoscaling -}}
{{- if ne .type "none" -}}
{{- if and (not $group) (gt (int (include "pagoda.spares" $)) 0) -}}
{{- fail "workers.spares with workers.autoscaling needs workers.kind LeaderWorkerSet: the autoscaler counts every worker of a StatefulSet as a pipeline's" -}}
{{- end -}}
{{- if ne (len $values.models) 1 -}}
{{- fail "workers.autoscaling needs exactly one model: with several, no metric says whose workers are too few" -}}
{{- end -}}
{{- if and (not $group) (ne (include "pagoda.ranks" (first $values.models)) "1") -}}
{{- fail (printf "workers.autoscaling with kind StatefulSet adds single workers, but a pipeline of '%s' takes %s: use kind LeaderWorkerSet" (first $values.models).name (include "pagoda.ranks" (first $values.models))) -}}
{{- end -}}
{{- if gt (int .minPipelines) (int .maxPipelines) -}}
{{- fail (printf "workers.autoscaling: minPipelines (%d) is above maxPipelines (%d)" (int .minPipelines) (int .maxPipelines)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- with $values.router.autoscaling -}}
{{- if and (ne .type "none") (gt (int .minReplicas) (int .maxReplicas)) -}}
{{- fail (printf "router.autoscaling: minReplicas (%d) is above maxReplicas (%d)" (int .minReplicas) (int .maxReplicas)) -}}
{{- end -}}
{{- end -}}
{{- if and $values.gateway.httpRoute.enabled (not $values.gateway.httpRoute.parentRefs) -}}
{{- fail "gateway.httpRoute.enabled needs gateway.httpRoute.parentRefs: name the Gateway that the route belongs to" -}}
{{- end -}}
{{- if and $values.gateway.inferencePool.enabled (not $values.gateway.inferencePool.endpointPicker.name) -}}
{{- fail "gateway.inferencePool.enabled needs gateway.inferencePool.endpointPicker.name: the Service of the endpoint picker" -}}
{{- end -}}
{{- $range := splitList "-" $values.workers.ucx.tcpPortRange -}}
{{- if le (int (last $range)) (int (first $range)) -}}
{{- fail (printf "workers.ucx.tcpPortRange is %s: the second port must be above the first" $values.workers.ucx.tcpPortRange) -}}
{{- end -}}
{{- if gt (int (last $range)) 65535 -}}
{{- fail (printf "workers.ucx.tcpPortRange is %s: a port is at most 65535" $values.workers.ucx.tcpPortRange) -}}
{{- end -}}
{{- range $port := list 7072 7073 -}}
{{- if and (le (int (first $range)) $port) (ge (int (last $range)) $port) -}}
{{- fail (printf "workers.ucx.tcpPortRange is %s, which contains the worker's own port %d" $values.workers.ucx.tcpPortRange $port) -}}
{{- end -}}
{{- end -}}
{{- if $values.modelVolume.existingClaim -}}
{{- $mount := printf "%s/" $values.modelVolume.mountPath -}}
{{- range $own := list "/tmp/" "/dev/" "/proc/" "/sys/" "/etc/" "/usr/" "/var/cache/pagoda/" "/var/lib/pagoda/" -}}
{{- if or (hasPrefix $own $mount) (hasPrefix $mount $own) (contains "/../" $mount) -}}
{{- fail (printf "modelVolume.mountPath is %s, which is in the way of %s: name a folder of its own, such as /models" $values.modelVolume.mountPath (trimSuffix "/" $own)) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $env := default list $values.workers.extraEnv -}}
{{- if has $env.name (list "POD_NAME" "POD_IP") -}}
{{- fail (printf "workers.extraEnv: the chart sets %s itself" $env.name) -}}
{{- end -}}
{{- end -}}
{{- range $env := $values.pull.env -}}
{{- if eq $env.name "HOME" -}}
{{- fail "pull.env: the chart sets HOME itself" -}}
{{- end -}}
{{- end -}}
{{- include "pagoda.validateNames" . -}}
{{- range $image := list "control" "worker" -}}
{{- if eq (lower (toString (index $values.images $image).tag)) "latest" -}}
{{- fail (printf "images.%s.tag is 'latest', which is another image tomorrow: pods of one release would not run the same build. Name a version, or give images.%s.digest" $image $image) -}}
{{- end -}}
{{- end -}}
{{- if eq (int $values.router.service.httpPort) (int $values.router.service.grpcPort) -}}
{{- fail (printf "router.service.httpPort and router.service.grpcPort are both %d: a Service needs two different ports" (int $values.router.service.httpPort)) -}}
{{- end -}}
{{- range $where := list "router" "coordinator" "workers" "modelsJob" "pull" -}}
{{- include "pagoda.validateResources" (dict "where" $where "resources" (index $values $where).resources) -}}
{{- end -}}
{{- end -}}

{{/* The names that are made of fullname have to be names of Services too, and short enough. A StatefulSet's pods bear its name, a dash
     and ten more letters as a label (controller-revision-hash), so it may have 52 of the 63. */}}
{{- define "pagoda.validateNames" -}}
{{- $name := include "pagoda.fullname" . -}}
{{- if gt (len .Values.fullnameOverride) 40 -}}
{{- fail (printf "fullnameOverride is %d characters long, but 40 are the most: names that are made of it, such as %s-models-0123abcd and those of its pods, must stay within the 63 that Kubernetes allows. (Earlier versions of this chart cut it to '%s': give that to keep what is installed.)" (len .Values.fullnameOverride) .Values.fullnameOverride $name) -}}
{{- end -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $name) -}}
{{- fail (printf "all objects would be named after '%s', but the name of a Service begins with a letter and has small letters, digits and dashes only: set fullnameOverride" $name) -}}
{{- end -}}
{{- if and (eq .Values.workers.kind "LeaderWorkerSet") (gt (int (include "pagoda.spares" .)) 0) (gt (len $name) 39) -}}
{{- fail (printf "%s-worker-spare would be a StatefulSet with a name of %d characters, but 52 are the most: set a shorter fullnameOverride (39 at most)" $name (add (len $name) 13)) -}}
{{- end -}}
{{- end -}}

{{/* A quantity as a number: 500m, 0.5, 2Gi. */}}
{{- define "pagoda.quantity" -}}
{{- $text := toString . -}}
{{- $unit := regexFind "[A-Za-z]+$" $text -}}
{{- $factors := dict "" 1.0 "m" 0.001 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024.0 "Mi" 1048576.0 "Gi" 1073741824.0 "Ti" 1099511627776.0 -}}
{{- mulf (float64 (trimSuffix $unit $text)) (index $factors $unit) -}}
{{- end -}}

{{/* Requests within limits. Arguments: where, resources. */}}
{{- define "pagoda.validateResources" -}}
{{- $limits := .resources.limits -}}
{{- range $resource, $request := .resources.requests -}}
{{- if hasKey $limits $resource -}}
{{- $limit := index $limits $resource -}}
{{- if gt (float64 (include "pagoda.quantity" $request)) (float64 (include "pagoda.quantity" $limit)) -}}
{{- fail (printf "%s.resources: the request of %s (%v) is above its limit (%v), which Kubernetes refuses" $.where $resource $request $limit) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
