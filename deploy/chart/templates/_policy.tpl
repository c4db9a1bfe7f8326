{{- /*
A policy for what agents write, and its binding.
root: the chart's context; name; kind: {group, versions, resource, operations}; validations: YAML.
*/}}
{{- define "weft.policy" -}}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata:
  name: {{ .name }}
  labels:
    {{- include "weft.labels" .root | nindent 4 }}
spec:
  failurePolicy: Fail
  matchConstraints:
    resourceRules:
      - apiGroups: [{{ .kind.group | quote }}]
        apiVersions: ["*"]
        resources: [{{ .kind.resource }}]
        operations: [{{ .kind.operations }}]
        scope: "*"
  matchConditions:
    - name: by-an-agent
      expression: request.userInfo.username == 'system:serviceaccount:weft-system:weft'
  variables:
    # The node of the pod that the token is bound to; empty where it is bound to none.
    - name: node
      expression: >-
        request.userInfo.?extra[?'authentication.kubernetes.io/node-name'].orValue([]).join(',')
  validations:
    - expression: variables.node != ''
      message: the agent's token is not bound to a pod on a node (Kubernetes 1.30 or newer does that)
      reason: Forbidden
    {{- .validations | nindent 4 }}
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "weft.labels" .root | nindent 4 }}
spec:
  policyName: {{ .name }}
  validationActions: [Deny]
{{- end -}}

{{- /* Owned by the agent's own Node and by nothing else. */}}
{{- define "weft.policy.owner" -}}
- expression: >-
    request.operation == 'DELETE' || (object.metadata.?ownerReferences.orValue([]).size() == 1
    && object.metadata.ownerReferences.all(owner, owner.apiVersion == 'v1' && owner.kind == 'Node'
    && owner.name == variables.node))
  messageExpression: "'its one owner must be the Node ' + variables.node"
  reason: Forbidden
{{- end -}}
