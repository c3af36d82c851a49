{{- define "masdeepflow.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "masdeepflow.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "masdeepflow.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "masdeepflow.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "masdeepflow.selector" -}}
app.kubernetes.io/name: {{ include "masdeepflow.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "masdeepflow.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name (.Chart.Version | replace "+" "_") }}
{{ include "masdeepflow.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "masdeepflow.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "masdeepflow.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "masdeepflow.secret" -}}
{{- default (printf "%s-token" (include "masdeepflow.fullname" .)) .Values.listen.token.existingSecret -}}
{{- end -}}

{{- define "masdeepflow.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "masdeepflow.endpoint" -}}
port: http
path: /metrics
interval: {{ .interval }}
authorization:
  type: Bearer
  credentials:
    name: {{ include "masdeepflow.secret" .root }}
    key: {{ .root.Values.listen.token.key }}
{{- end -}}
