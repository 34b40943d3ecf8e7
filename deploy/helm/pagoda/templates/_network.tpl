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

{{- define "pagoda.pullEgress" }}
- to:
    {{- toYaml .pullTo | nindent 4 }}
  ports:
    {{- range .pullPorts }}
    - {protocol: TCP, port: {{ int . }}}
    {{- end }}
{{- end }}
