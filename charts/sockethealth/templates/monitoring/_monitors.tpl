{{- /*
Whether a kind of the Prometheus Operator, as (dict "root" $ "kind" name), can be installed, as "true" or nothing: not where
a cluster is at hand and does not serve it. Without a cluster (helm template) Helm knows no kinds, not even Pod.
*/ -}}
{{- define "sockethealth.monitoringServed" -}}
{{- $known := .root.Capabilities.APIVersions -}}
{{- if or ($known.Has (printf "monitoring.coreos.com/v1/%s" .kind)) (not ($known.Has "v1/Pod")) -}}
true
{{- end -}}
{{- end -}}

{{- /*
A PodMonitor or ServiceMonitor for each component, as (dict "root" $ "kind" kind "values" values).
honorLabels: namespace, pod and node of a series are those of the pod it speaks of, not of the agent that is scraped.
*/ -}}
{{- define "sockethealth.monitors" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $isPods := eq .kind "PodMonitor" -}}
{{- range $component := list "agent" "operator" }}
{{- $ports := list "metrics" }}
{{- if and (eq $component "agent") $root.Values.sysctls.enabled }}
{{- $ports = append $ports "sysctl-metrics" }}
{{- end }}
---
apiVersion: monitoring.coreos.com/v1
kind: {{ $.kind }}
metadata:
  name: {{ include "sockethealth.fullname" $root }}-{{ $component }}
  namespace: {{ default $root.Release.Namespace $values.namespace }}
  labels:
    {{- include "sockethealth.labels" (dict "root" $root "component" $component) | nindent 4 }}
    {{- with $values.labels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  namespaceSelector:
    matchNames: [{{ $root.Release.Namespace }}]
  selector:
    matchLabels:
      {{- include "sockethealth.selectorLabels" (dict "root" $root "component" $component) | nindent 6 }}
  {{ $isPods | ternary "podMetricsEndpoints" "endpoints" }}:
    {{- range $ports }}
    - port: {{ . }}
      honorLabels: true
      {{- with $values.interval }}
      interval: {{ . }}
      {{- end }}
      {{- with $values.scrapeTimeout }}
      scrapeTimeout: {{ . }}
      {{- end }}
      relabelings:
        - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: node}
        {{- with $values.relabelings }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.metricRelabelings }}
      metricRelabelings:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    {{- end }}
{{- end }}
{{- end -}}
