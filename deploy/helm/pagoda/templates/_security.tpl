{{/* Certificates and keys of a process: flags, mounts, volumes. Arguments: root, role (router, coordinator, worker or admin). */}}
{{- define "pagoda.tlsSecret" -}}
{{- if eq .root.Values.tls.source "existingSecrets" -}}
{{- index .root.Values.tls.existingSecrets .role -}}
{{- else -}}
{{ include "pagoda.fullname" .root }}-{{ .role }}-tls
{{- end -}}
{{- end -}}

{{- define "pagoda.scheme" -}}
{{ if .Values.tls.enabled }}HTTPS{{ else }}HTTP{{ end }}
{{- end -}}

{{- define "pagoda.clientScheme" -}}
{{ if and .Values.tls.enabled .Values.tls.clients }}HTTPS{{ else }}HTTP{{ end }}
{{- end -}}

{{- define "pagoda.securityArgs" -}}
{{- if .root.Values.tls.enabled }}
- --tls=/etc/pagoda/tls
{{- if and .root.Values.tls.clients (eq .role "router") }}
- --ssl-certfile=/etc/pagoda/server/tls.crt
- --ssl-keyfile=/etc/pagoda/server/tls.key
{{- end }}
{{- end }}
{{- if and .root.Values.apiKeys.existingSecret (ne .role "admin") }}
- --api-key-file=/etc/pagoda/keys/keys.yaml
{{- end }}
{{- end -}}

{{- define "pagoda.securityMounts" -}}
{{- if .root.Values.tls.enabled }}
- {name: tls, mountPath: /etc/pagoda/tls, readOnly: true}
{{- if and .root.Values.tls.clients (eq .role "router") }}
- {name: server-tls, mountPath: /etc/pagoda/server, readOnly: true}
{{- end }}
{{- end }}
{{- if and .root.Values.apiKeys.existingSecret (ne .role "admin") }}
- {name: api-keys, mountPath: /etc/pagoda/keys, readOnly: true}
{{- end }}
{{- end -}}

{{- define "pagoda.securityVolumes" -}}
{{- if .root.Values.tls.enabled }}
- {name: tls, secret: {secretName: {{ include "pagoda.tlsSecret" . }}, defaultMode: 0440}}
{{- if and .root.Values.tls.clients (eq .role "router") }}
- {name: server-tls, secret: {secretName: {{ include "pagoda.tlsSecret" (dict "root" .root "role" "server") }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- if and .root.Values.apiKeys.existingSecret (ne .role "admin") }}
- {name: api-keys, secret: {secretName: {{ .root.Values.apiKeys.existingSecret }}, defaultMode: 0440, items: [{key: {{ .root.Values.apiKeys.key }}, path: keys.yaml}]}}
{{- end }}
{{- end -}}
