{{- /* Parts that the policies of the agent share. before and after are dyn: CEL's type checker knows no {} of their type. */ -}}
{{- define "sockethealth.agentVariables" -}}
- name: node
  expression: request.userInfo.?extra[?'authentication.kubernetes.io/node-name'][?0].orValue('')
- name: before
  expression: "request.operation == 'CREATE' ? dyn({}) : dyn(oldObject)"
- name: after
  expression: "request.operation == 'DELETE' ? dyn(oldObject) : dyn(object)"
{{- end -}}

{{- define "sockethealth.tokenNamesNode" -}}
- expression: variables.node != ''
  reason: Forbidden
  messageExpression: >-
    "the token of '" + request.userInfo.username + "' names no node, so it may write no node's objects: only a token
    that a pod has mounted does"
{{- end -}}

{{- define "sockethealth.factsOnly" -}}
- expression: >-
    ['health', 'findings', 'evaluation', 'conditions'].all(field,
    variables.after.?status[?field] == variables.before.?status[?field])
  reason: Forbidden
  message: >-
    health, findings, evaluation and conditions of a status are the operator's judgement, and an agent may not change them
- expression: variables.after.metadata.?finalizers.orValue([]) == variables.before.?metadata.?finalizers.orValue([])
  reason: Forbidden
  message: an agent may not set finalizers, which would keep the object from being deleted
{{- end -}}
