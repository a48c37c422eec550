{{- /* The container that writes sysctls, beside the agent's. */ -}}
{{- define "sockethealth.sysctlWriter" -}}
- name: sysctl-writer
  image: {{ include "sockethealth.image" . | quote }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  command: [sockethealth-sysctl-writer]
  args:
    - --interval={{ .Values.sysctls.intervalSeconds }}
    - --node-ports={{ .Values.sysctls.nodePorts }}
    - --sysctl-root=/host/sys-net
    - --journal=/var/lib/sockethealth
    - --daemonset={{ .Release.Namespace }}/{{ include "sockethealth.fullname" . }}-agent
    - --container=sysctl-writer
    - --metrics-port={{ .Values.sysctls.metricsPort }}
    - --log-level={{ .Values.sysctls.logLevel }}
    {{- range .Values.sysctls.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NODE_NAME
      valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
  ports:
    - name: sysctl-metrics
      containerPort: {{ .Values.sysctls.metricsPort }}
  livenessProbe:
    httpGet: {path: /healthz, port: sysctl-metrics}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 5
  securityContext:
    # Root for its capabilities' sake, as the agent, and because net.* is the namespace's root's to write
    # (net_ctl_permissions in net/sysctl_net.c).
    runAsUser: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      # To enter the network namespace of a pod and to open it by /proc/PID/ns/net, as the agent; writing needs none.
      add: [SYS_ADMIN, SYS_PTRACE]
  resources:
    {{- toYaml .Values.sysctls.resources | nindent 4 }}
  volumeMounts:
    - name: sys-net
      mountPath: /host/sys-net
    - name: journal
      mountPath: /var/lib/sockethealth
{{- end -}}
