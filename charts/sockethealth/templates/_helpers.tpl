{{- define "sockethealth.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- /* Cut at 50: "-operator" and the names of hooks have to fit into the 63 characters of a label. */ -}}
{{- define "sockethealth.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "sockethealth.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "sockethealth.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "sockethealth.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag | toString -}}
{{- if .Values.image.digest -}}
{{- printf "%s:%s@%s" .Values.image.repository $tag .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository $tag -}}
{{- end -}}
{{- end -}}

{{- /* Takes (dict "root" $ "component" name), as the two below do. */ -}}
{{- define "sockethealth.selectorLabels" -}}
app.kubernetes.io/name: {{ include "sockethealth.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "sockethealth.labels" -}}
{{ include "sockethealth.selectorLabels" . }}
app.kubernetes.io/part-of: sockethealth
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sockethealth.podLabels" -}}
{{ include "sockethealth.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "sockethealth.unprivilegedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- /*
Asks a port each second, so that installing and rolling out wait no longer than they must. An API server that is away is
no reason to begin anew, so it is given up late.
*/ -}}
{{- define "sockethealth.startupProbe" -}}
httpGet: {path: /readyz, port: {{ . }}}
periodSeconds: 1
timeoutSeconds: 5
failureThreshold: 600
{{- end -}}

{{- define "sockethealth.unprivilegedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- /* The name by which the API server knows a component's service account. */ -}}
{{- define "sockethealth.user" -}}
{{- printf "system:serviceaccount:%s:%s-%s" .root.Release.Namespace (include "sockethealth.fullname" .root) .component -}}
{{- end -}}

{{- /*
Whether the cluster serves ValidatingAdmissionPolicies, as "true" or nothing. Without a cluster (helm template) Helm knows
groups but no kinds, not even Pod; kubeVersion in Chart.yaml promises the kind then.
*/ -}}
{{- define "sockethealth.admissionPoliciesServed" -}}
{{- $known := .Capabilities.APIVersions -}}
{{- if or ($known.Has "admissionregistration.k8s.io/v1/ValidatingAdmissionPolicy") (not ($known.Has "v1/Pod")) -}}
true
{{- end -}}
{{- end -}}

{{- define "sockethealth.admissionPolicies" -}}
{{- if .Values.admissionPolicies.create -}}
{{- include "sockethealth.admissionPoliciesServed" . -}}
{{- end -}}
{{- end -}}

{{- /* The binding of a ValidatingAdmissionPolicy, as (dict "root" $ "name" name "component" component "action" action). */ -}}
{{- define "sockethealth.admissionBinding" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "sockethealth.labels" (dict "root" .root "component" .component) | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [{{ .action }}]
{{- end -}}
