{{/* The store of the coordinators: etcd, or a file on the pod's claim. (In brackets here and elsewhere: what `helm upgrade
     --reuse-values` leaves out, because an older version of the chart did not have it.) */}}
{{- define "pagoda.storeArgs" -}}
{{- if (.Values.etcd).endpoints }}
{{- $tls := default dict .Values.etcd.tls }}
{{- $prefix := default (printf "/pagoda/%s/%s" .Release.Namespace (include "pagoda.fullname" .)) .Values.etcd.prefix }}
- --store={{ if $tls.existingSecret }}etcds{{ else }}etcd{{ end }}://{{ join "," (.Values.etcd).endpoints }}{{ $prefix }}
{{- if $tls.existingSecret }}
- --etcd-ca-file=/etc/pagoda/etcd/ca.crt
{{- if $tls.certificateKey }}
- --etcd-certificate-file=/etc/pagoda/etcd/tls.crt
- --etcd-key-file=/etc/pagoda/etcd/tls.key
{{- end }}
{{- end }}
- --leader-lease-ms={{ int .Values.coordinator.leaderLeaseMs }}
{{- else }}
- --store=/var/lib/pagoda/coordinator.db
{{- end }}
{{- end -}}

{{- define "pagoda.etcdVolume" -}}
{{- with (.Values.etcd).tls }}
{{- if and ($.Values.etcd).endpoints .existingSecret }}
- name: etcd-tls
  secret:
    secretName: {{ .existingSecret }}
    defaultMode: 0440
    items:
      - {key: {{ .caKey }}, path: ca.crt}
      {{- if .certificateKey }}
      - {key: {{ .certificateKey }}, path: tls.crt}
      - {key: {{ .keyKey }}, path: tls.key}
      {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Certificates and keys of a process: flags, mounts, volumes. Arguments: root, role (router, coordinator, worker or admin). */}}
{{- define "pagoda.tlsSecret" -}}
{{- if or (eq .root.Values.tls.source "existingSecrets") (and (eq .role "server") .root.Values.tls.existingSecrets.server) -}}
{{- index .root.Values.tls.existingSecrets .role -}}
{{- else -}}
{{ include "pagoda.fullname" .root }}-{{ .role }}-tls
{{- end -}}
{{- end -}}

{{/* A name that the certificate which clients see is for; `pagoda.serverAuthority`: "secret", or "system" when everybody knows who signed it. */}}
{{- define "pagoda.serverName" -}}
{{- if .Values.tls.existingSecrets.server }}{{ default (printf "%s-router" (include "pagoda.fullname" .)) .Values.tls.serverName }}{{ end -}}
{{- end -}}

{{- define "pagoda.serverAuthority" -}}
{{- if .Values.tls.existingSecrets.server }}{{ default "secret" .Values.tls.serverAuthority }}{{ else }}secret{{ end -}}
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
