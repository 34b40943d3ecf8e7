{{/* The pod of a worker, the same in a StatefulSet and in a LeaderWorkerSet. Arguments: root, spare (beside a LeaderWorkerSet). */}}
{{- define "pagoda.workerPod" -}}
{{- $spare := .spare -}}
{{- with .root -}}
{{- $labels := dict "root" . "component" "worker" -}}
{{- $workers := .Values.workers -}}
metadata:
  labels:
    {{- include "pagoda.labels" $labels | nindent 4 }}
    {{- if $spare }}
    pagoda/pool: spare
    {{- end }}
    {{- with $workers.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    kubectl.kubernetes.io/default-container: worker
    {{- with $workers.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- include "pagoda.podCommon" (dict "root" . "of" $workers) | nindent 2 }}
  {{- include "pagoda.spread" (dict "root" . "component" "worker" "keys" $workers.spreadOver) | indent 2 }}
  {{- with $workers.gpu.runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  terminationGracePeriodSeconds: {{ include "pagoda.gracePeriod" (dict "preStop" 0 "timeoutMs" $workers.shutdownTimeoutMs) }}
  {{- if and .Values.pull.workers (include "pagoda.pullsAnything" .) }}
  initContainers:
    {{- include "pagoda.pullContainers" (dict "root" . "cache" "/var/cache/pagoda/models" "volume" "cache") | nindent 4 }}
  {{- end }}
  containers:
    - name: worker
      image: {{ include "pagoda.image" (dict "root" . "image" .Values.images.worker) }}
      imagePullPolicy: {{ .Values.images.pullPolicy }}
      command: [pagoda-worker]
      args:
        - --name=$(POD_NAME)
        - --coordinators={{ include "pagoda.coordinators" . }}
        - --advertise=$(POD_IP)
        - --blob-listen={{ .Values.listenHost }}:7072
        - --metrics-listen={{ .Values.listenHost }}:7073
        {{- include "pagoda.securityArgs" (dict "root" . "role" "worker") | nindent 8 }}
        - --cache-dir=/var/cache/pagoda/models
        - --threads={{ int $workers.threads }}
        - --memory-bytes={{ int64 $workers.memoryBytes }}
        - --kv-cache-bytes={{ int64 $workers.kvCacheBytes }}
        - --isa={{ $workers.isa }}
        {{- if $workers.pinThreads }}
        - --pin-threads
        {{- end }}
        - --transports={{ $workers.ucx.transports }}
        {{- with $workers.ucx.netDevices }}
        - --net-devices={{ . }}
        {{- end }}
        - --tcp-port-range={{ $workers.ucx.tcpPortRange }}
        - --shutdown-timeout-ms={{ int $workers.shutdownTimeoutMs }}
        {{- include "pagoda.tracingArgs" . | nindent 8 }}
        - --log-level={{ .Values.logLevel }}
        - --log-format={{ .Values.logFormat }}
      env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        - name: POD_IP
          valueFrom: {fieldRef: {fieldPath: status.podIP}}
        {{- with $workers.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      ports:
        - {name: blob, containerPort: 7072, protocol: TCP}
        - {name: metrics, containerPort: 7073, protocol: TCP}
      # The process is up: it has measured this machine. Loading a model comes later and is not waited for here.
      startupProbe:
        httpGet: {path: /livez, port: metrics, scheme: {{ include "pagoda.scheme" . }}}
        periodSeconds: 2
        timeoutSeconds: 2
        failureThreshold: {{ div (add (int $workers.startupSeconds) 1) 2 }}
      # Registered at a coordinator, and idle or part of a running pipeline: not while it loads or waits for the others of its
      # pipeline. Nothing is routed by it; rollouts and disruption budgets count it, and so wait for pipelines.
      readinessProbe:
        httpGet: {path: /readyz, port: metrics, scheme: {{ include "pagoda.scheme" . }}}
        periodSeconds: 5
        timeoutSeconds: 5
        failureThreshold: 3
      # Only this process: neither peers nor the coordinator, whose absence a restart would not cure.
      livenessProbe:
        httpGet: {path: /livez, port: metrics, scheme: {{ include "pagoda.scheme" . }}}
        periodSeconds: 10
        timeoutSeconds: 5
        failureThreshold: 6
      {{- $devices := deepCopy $workers.extraResources }}
      {{- if gt (int $workers.gpu.count) 0 }}
      {{- $_ := set $devices $workers.gpu.resourceName (int $workers.gpu.count) }}
      {{- end }}
      resources:
        requests:
          {{- toYaml (merge (deepCopy $devices) $workers.resources.requests) | nindent 10 }}
        limits:
          {{- toYaml (merge (deepCopy $devices) $workers.resources.limits) | nindent 10 }}
      securityContext:
        {{- toYaml (mergeOverwrite (deepCopy .Values.containerSecurityContext) (default dict $workers.containerSecurityContext)) | nindent 8 }}
      volumeMounts:
        - {name: cache, mountPath: /var/cache/pagoda}
        - {name: shm, mountPath: /dev/shm}
        - {name: tmp, mountPath: /tmp}
        {{- include "pagoda.securityMounts" (dict "root" . "role" "worker") | nindent 8 }}
        {{- if .Values.modelVolume.existingClaim }}
        - {name: models, mountPath: {{ .Values.modelVolume.mountPath }}, readOnly: true}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: 1Gi}}
    {{- include "pagoda.securityVolumes" (dict "root" . "role" "worker") | nindent 4 }}
    {{- if .Values.pull.workers }}
    {{- include "pagoda.pullVolume" . | nindent 4 }}
    {{- end }}
    - {name: shm, emptyDir: {medium: Memory, sizeLimit: {{ $workers.shm.sizeLimit }}}}
    {{- with .Values.modelVolume.existingClaim }}
    - {name: models, persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}}
    {{- end }}
    {{- if eq $workers.cache.type "emptyDir" }}
    - {name: cache, emptyDir: {sizeLimit: {{ $workers.cache.size }}}}
    {{- end }}
{{- end -}}
{{- end -}}

{{- define "pagoda.workerClaims" -}}
{{- $cache := .Values.workers.cache -}}
- metadata:
    name: cache
    labels:
      {{- include "pagoda.selectorLabels" (dict "root" . "component" "worker") | nindent 6 }}
  spec:
    accessModes: {{ toJson $cache.accessModes }}
    {{- with $cache.storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ $cache.size }}}}
{{- end -}}
