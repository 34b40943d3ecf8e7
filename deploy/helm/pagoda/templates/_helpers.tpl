{{- define "pagoda.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "pagoda.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "pagoda.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "pagoda.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* Selectors are never changed over versions: a workload's selector is immutable. Arguments: root, component. */}}
{{- define "pagoda.selectorLabels" -}}
app.kubernetes.io/name: {{ include "pagoda.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "pagoda.labels" -}}
{{ include "pagoda.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{- define "pagoda.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "pagoda.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: name the account to use in serviceAccount.name" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* Arguments: root, image. */}}
{{- define "pagoda.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{/* Several are named one by one: whoever gets no answer from one tries the next, which a name of all of them would not promise. */}}
{{- define "pagoda.coordinators" -}}
{{- $name := printf "%s-coordinator" (include "pagoda.fullname" .) -}}
{{- if eq (int .Values.coordinator.replicas) 1 -}}
{{ $name }}:7070
{{- else -}}
{{- range $index := until (int .Values.coordinator.replicas) }}{{ if $index }},{{ end }}{{ $name }}-{{ $index }}.{{ $name }}:7070{{ end -}}
{{- end -}}
{{- end -}}

{{- define "pagoda.tracingArgs" -}}
{{- with (.Values.tracing).endpoint }}
- --otlp-endpoint={{ . }}
{{- end }}
{{- end -}}

{{/* Workers of one pipeline of a model. */}}
{{- define "pagoda.ranks" -}}
{{- $tensor := .tensorParallelSize | default (list 1) -}}
{{- $stages := .pipelineParallelSize | default 1 | int -}}
{{- if gt (len $tensor) 1 -}}
{{- $sum := 0 -}}
{{- range $tensor }}{{ $sum = add $sum (int .) }}{{ end -}}
{{ $sum }}
{{- else -}}
{{ mul $stages (int (first $tensor)) }}
{{- end -}}
{{- end -}}

{{/* Pipelines that `pagoda deploy apply` asks for. With autoscaling that is the most there may be: the coordinator assembles
     as many as it has workers for. Arguments: root, model. */}}
{{- define "pagoda.wantedPipelines" -}}
{{- if ne .root.Values.workers.autoscaling.type "none" -}}
{{ int .root.Values.workers.autoscaling.maxPipelines }}
{{- else -}}
{{ int (default 1 .model.replicas) }}
{{- end -}}
{{- end -}}

{{- define "pagoda.spares" -}}
{{ max (int .Values.workers.spares) (int .Values.workers.spare) }}
{{- end -}}

{{/* All of them, spares too. */}}
{{- define "pagoda.workerCount" -}}
{{- $count := int (include "pagoda.spares" .) -}}
{{- range .Values.models }}{{ $count = add $count (mul (int (include "pagoda.ranks" .)) (int (default 1 .replicas))) }}{{ end -}}
{{ $count }}
{{- end -}}

{{- define "pagoda.pipelineCount" -}}
{{- $count := 0 -}}
{{- range .Values.models }}{{ $count = add $count (int (default 1 .replicas)) }}{{ end -}}
{{ $count }}
{{- end -}}

{{/* "yes" when the reference has to be pulled, nothing for a path. */}}
{{- define "pagoda.pulled" -}}
{{- if or (hasPrefix "hf://" .) (hasPrefix "pypi://" .) }}yes{{ end -}}
{{- end -}}

{{- define "pagoda.pullsAnything" -}}
{{- range .Values.models }}{{ include "pagoda.pulled" .model }}{{ end -}}
{{- end -}}

{{/* What SIGTERM needs: the wait before it, the grace of the process, and ten seconds for the rest. Arguments: preStop, timeoutMs. */}}
{{- define "pagoda.gracePeriod" -}}
{{ add (int .preStop) (div (add (int .timeoutMs) 999) 1000) 10 }}
{{- end -}}

{{/* Scheduling and identity of a pod. Arguments: root, of (the component's values). */}}
{{- define "pagoda.podCommon" -}}
serviceAccountName: {{ include "pagoda.serviceAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.images.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Arguments: root, component, keys. */}}
{{- define "pagoda.spread" -}}
{{- with .keys }}
topologySpreadConstraints:
  {{- range . }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "pagoda.selectorLabels" $ | nindent 8 }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What a model's containers are called after: Kubernetes wants small letters, digits and dashes. */}}
{{- define "pagoda.nameOfContainer" -}}
{{ . | lower | replace "." "-" | replace "_" "-" | trunc 50 | trimSuffix "-" }}
{{- end -}}

{{/* One init container for each model that has to be pulled. Arguments: root, cache (folder), volume. */}}
{{- define "pagoda.pullContainers" -}}
{{- $root := .root -}}
{{- $cache := .cache -}}
{{- $volume := .volume -}}
{{- range $root.Values.models }}
{{- if include "pagoda.pulled" .model }}
- name: pull-{{ include "pagoda.nameOfContainer" .name }}
  image: {{ include "pagoda.image" (dict "root" $root "image" $root.Values.images.control) }}
  imagePullPolicy: {{ $root.Values.images.pullPolicy }}
  command: [pagoda]
  args:
    - pull
    - {{ .model | quote }}
    - --cache-dir={{ $cache }}
  env:
    - {name: HOME, value: /tmp}
    {{- with $root.Values.pull.env }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml $root.Values.pull.resources | nindent 4 }}
  securityContext:
    {{- toYaml $root.Values.containerSecurityContext | nindent 4 }}
  volumeMounts:
    - {name: {{ $volume }}, mountPath: {{ dir $cache }}}
    - {name: tmp, mountPath: /tmp}
    {{- if $root.Values.pull.hubToken.existingSecret }}
    - {name: hub-token, mountPath: /tmp/.cache/huggingface, readOnly: true}
    {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "pagoda.pullVolume" -}}
{{- with .Values.pull.hubToken }}
{{- if .existingSecret }}
- {name: hub-token, secret: {secretName: {{ .existingSecret }}, items: [{key: {{ .key }}, path: token}]}}
{{- end }}
{{- end }}
{{- end -}}
