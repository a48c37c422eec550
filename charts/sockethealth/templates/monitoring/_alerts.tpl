{{- /*
files/alerts.yaml for this release: where runbooks are, and how often things happen that an alert waits for. What is
replaced stands in the file as it is with the chart's defaults, so that the file is a valid rule file by itself.
*/ -}}
{{- define "sockethealth.alerts" -}}
{{- .Files.Get "files/alerts.yaml"
  | replace "https://sockethealth.io/runbooks/" (printf "%s/" (trimSuffix "/" .Values.defaultRules.runbookUrl))
  | replace "(30 * 10)" (printf "(30 * %v)" .Values.agent.intervalSeconds)
  | replace "(4 * 120)" (printf "(4 * %v)" .Values.agent.heartbeatSeconds)
  | replace "(60 * 5)" (printf "(60 * %v)" .Values.sysctls.intervalSeconds) -}}
{{- end -}}
