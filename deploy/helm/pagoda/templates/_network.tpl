{{/* Arguments: root, component. */}}
{{- define "pagoda.policyHead" }}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: {{ include "pagoda.fullname" .root }}-{{ .component }}
  labels:
    {{- include "pagoda.labels" . | nindent 4 }}
spec:
  podSelector:
    matchLabels:
      {{- include "pagoda.selectorLabels" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
{{- end }}

{{- define "pagoda.peer" }}
- podSelector:
    matchLabels:
      {{- include "pagoda.selectorLabels" . | nindent 6 }}
{{- end }}

{{- define "pagoda.dnsEgress" }}
- to: [{namespaceSelector: {}}]
  ports: [{protocol: UDP, port: 53}, {protocol: TCP, port: 53}]
{{- end }}

{{/* To peers, or to anywhere when none are named. Arguments: to, ports. */}}
{{- define "pagoda.egress" }}
- ports:
    {{- range .ports }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
  {{- with .to }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}

{{- define "pagoda.portOf" -}}
{{ regexReplaceAll "^.*:([0-9]+)$" . "${1}" }}
{{- end }}

{{- define "pagoda.tracingEgress" }}
{{- with (.Values.tracing).endpoint }}
{{- $port := regexReplaceAll "^http://[^/]*:([0-9]+)(/.*)?$" . "${1}" }}
{{- include "pagoda.egress" (dict "to" $.Values.networkPolicy.collectorTo "ports" (list $port)) }}
{{- end }}
{{- end }}

{{- define "pagoda.etcdEgress" }}
{{- $ports := list }}
{{- range (.Values.etcd).endpoints }}{{ $ports = append $ports (include "pagoda.portOf" .) }}{{ end }}
{{- if $ports }}
{{- include "pagoda.egress" (dict "to" .Values.networkPolicy.etcdTo "ports" (uniq $ports)) }}
{{- end }}
{{- end }}

{{- define "pagoda.pullEgress" }}
- to:
    {{- toYaml .pullTo | nindent 4 }}
  ports:
    {{- range .pullPorts }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}
