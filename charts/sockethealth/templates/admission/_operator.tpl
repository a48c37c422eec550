{{- /* A match condition: the user is one of a list. */ -}}
{{- define "sockethealth.isOneOf" -}}
- name: user
  expression: {{ printf "request.userInfo.username in ['%s']" (join "', '" .) | quote }}
{{- end -}}

{{- /*
Names of what an update changes: fields of the object, and with the argument list "status" those of its status one by one;
and fields of its metadata, without those that the API server keeps itself. Some may be named twice.
*/ -}}
{{- define "sockethealth.changedFields" -}}
- name: before
  expression: dyn(oldObject)
- name: after
  expression: dyn(object)
- name: changedFields
  expression: >-
    (variables.after.map(k, string(k)) + variables.before.map(k, string(k)))
    .filter(k, !(k in {{ toJson (prepend . "metadata") | replace "\"" "'" }}) && variables.after[?k] != variables.before[?k])
    {{- range . }}
    + (variables.after.?{{ . }}.orValue({}).map(k, string(k)) + variables.before.?{{ . }}.orValue({}).map(k, string(k)))
    .filter(k, variables.after.?{{ . }}[?k] != variables.before.?{{ . }}[?k]).map(k, '{{ . }}.' + k)
    {{- end }}
- name: changedMetadata
  expression: >-
    (variables.after.metadata.map(k, string(k)) + variables.before.metadata.map(k, string(k)))
    .filter(k, !(k in ['managedFields', 'resourceVersion', 'generation'])
    && variables.after.metadata[?k] != variables.before.metadata[?k]).map(k, 'metadata.' + k)
{{- end -}}
