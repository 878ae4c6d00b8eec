{{- /* Names and labels. A release that is called after the chart gives plain names. */ -}}
{{- define "eider.fullname" -}}
{{- if contains "eider" .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-eider" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "eider.serviceAccountName" -}}
{{- default (include "eider.fullname" .) .Values.serviceAccount.name -}}
{{- end }}

{{- define "eider.selectorLabels" -}}
app.kubernetes.io/name: eider
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "eider.labels" -}}
{{ include "eider.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}
