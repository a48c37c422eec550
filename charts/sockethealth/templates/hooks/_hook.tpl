{{- /*
A hook's annotations, as (dict "on" events "weight" number). Of one that has failed its Job or Pod stays, for its log.
*/ -}}
{{- define "sockethealth.hookAnnotations" -}}
helm.sh/hook: {{ .on }}
helm.sh/hook-weight: {{ .weight | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- /*
Service account, permissions and Job of one hook, as (dict "root" $ "name" suffix "on" events "args" list
"clusterRules" list "rules" list): the rules of a ClusterRole, and those of a Role in the release's namespace.
*/ -}}
{{- define "sockethealth.hook" -}}
{{ include "sockethealth.hookAccount" . }}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ include "sockethealth.fullname" .root }}-{{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "sockethealth.labels" (dict "root" .root "component" .name) | nindent 4 }}
  annotations:
    {{- include "sockethealth.hookAnnotations" (dict "on" .on "weight" 0) | nindent 4 }}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: {{ .root.Values.hooks.deadlineSeconds }}
  template:
    metadata:
      labels:
        {{- include "sockethealth.podLabels" (dict "root" .root "component" .name) | nindent 8 }}
    spec:
      {{- include "sockethealth.hookPod" . | nindent 6 }}
{{- end -}}

{{- /* A hook's service account and permissions. */ -}}
{{- define "sockethealth.hookAccount" -}}
{{- $full := printf "%s-%s" (include "sockethealth.fullname" .root) .name -}}
{{- $labels := include "sockethealth.labels" (dict "root" .root "component" .name) -}}
{{- $before := include "sockethealth.hookAnnotations" (dict "on" .on "weight" -10) -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $full }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $before | nindent 4 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ $full }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $before | nindent 4 }}
rules:
  {{- toYaml .clusterRules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ $full }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $before | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $full }}
subjects:
  - {kind: ServiceAccount, name: {{ $full }}, namespace: {{ .root.Release.Namespace }}}
{{- if .rules }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $full }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $before | nindent 4 }}
rules:
  {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $full }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- $labels | nindent 4 }}
  annotations:
    {{- $before | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $full }}
subjects:
  - {kind: ServiceAccount, name: {{ $full }}, namespace: {{ .root.Release.Namespace }}}
{{- end }}
{{- end -}}

{{- /* The spec of a hook's pod. */ -}}
{{- define "sockethealth.hookPod" -}}
restartPolicy: Never
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
serviceAccountName: {{ include "sockethealth.fullname" .root }}-{{ .name }}
securityContext:
  {{- include "sockethealth.unprivilegedPod" .root | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "sockethealth.image" .root | quote }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [sockethealth-operator]
    args:
      {{- toYaml .args | nindent 6 }}
    securityContext:
      {{- include "sockethealth.unprivilegedContainer" .root | nindent 6 }}
    resources:
      {{- toYaml .root.Values.hooks.resources | nindent 6 }}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .root.Values.hooks.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .root.Values.hooks.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "sockethealth.definitionNames" -}}
- clustersockethealthpolicies.sockethealth.io
- nodesockethealths.sockethealth.io
- sockethealthpolicies.sockethealth.io
- sockethealths.sockethealth.io
- sysctlprofiles.sockethealth.io
{{- end -}}
