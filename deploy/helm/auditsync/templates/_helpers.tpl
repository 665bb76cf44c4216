{{/* Leaves room for suffixes, since Kubernetes limits some names to 52 characters. */}}
{{- define "auditsync.name" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) }}{{ $name = printf "%s-%s" $name .Chart.Name }}{{ end -}}
{{- $name | trunc 43 | trimSuffix "-" -}}
{{- end }}

{{/* The labels that all pods of a release share. */}}
{{- define "auditsync.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "auditsync.sync.selector" -}}
{{ include "auditsync.selector" . }}
app.kubernetes.io/component: sync
{{- end }}

{{- define "auditsync.receiver.selector" -}}
{{ include "auditsync.selector" . }}
app.kubernetes.io/component: receiver
{{- end }}

{{- define "auditsync.labels" -}}
{{ include "auditsync.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "auditsync.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (ternary (include "auditsync.name" .) "default" .Values.serviceAccount.create) -}}
{{- end }}

{{- define "auditsync.secret" -}}
{{- if .Values.secret.existing }}{{ .Values.secret.existing }}{{ else if .Values.secret.create }}{{ include "auditsync.name" . }}{{ end -}}
{{- end }}

{{/* The environment of a container, with each name once. The arguments: root, the variables that the chart sets, and the values. */}}
{{- define "auditsync.env" -}}
{{- $all := merge (dict "AUDITSYNC_HTTP_LISTEN" "0.0.0.0:9090") .set .env -}}
{{- if include "auditsync.secret" .root }}{{ $_ := set $all "CREDENTIALS_DIRECTORY" "/run/credentials" }}{{ end -}}
{{- range .extraEnv }}
{{- if hasKey $all .name }}{{ fail (printf "extraEnv: %s is already set, in env or by the chart" .name) }}{{ end }}
{{- end }}
{{- range $name, $value := $all }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with .extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* A pod. The arguments: root, and the kind. Each kind has templates for its own parts. */}}
{{- define "auditsync.pod" -}}
{{- $root := .root -}}
{{- $kind := .kind -}}
{{- with $root.Values -}}
{{- $secret := include "auditsync.secret" $root -}}
metadata:
  labels:
    {{- include "auditsync.labels" $root | nindent 4 }}
    app.kubernetes.io/component: {{ get (dict "receiver" "receiver" "job" "command") $kind | default "sync" }}
  {{- with .podAnnotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  serviceAccountName: {{ include "auditsync.serviceAccount" $root }}
  # auditsync does not use the Kubernetes API. The webhooks for cloud roles mount tokens of their own.
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 65532
    runAsGroup: 65532
    fsGroup: 65532
    # Without this, Kubernetes changes the owner of every file of a large spool at each start.
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with .image.pullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: auditsync
      image: {{ printf "%s:%s" .image.repository (.image.tag | default $root.Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .image.pullPolicy }}
      env:
        {{- include (printf "auditsync.%s.env" (ternary "receiver" "sync" (eq $kind "receiver"))) $root | trim | nindent 8 }}
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities:
          drop: [ALL]
      resources:
        {{- toYaml .resources | nindent 8 }}
      volumeMounts:
        - name: tmp
          mountPath: /tmp
        {{- if $secret }}
        - name: secret
          mountPath: /run/credentials
          readOnly: true
        {{- end }}
        {{- include (printf "auditsync.%s.mounts" $kind) $root | nindent 8 }}
      {{- include (printf "auditsync.%s.container" $kind) $root | nindent 6 }}
  volumes:
    - name: tmp
      emptyDir:
        sizeLimit: {{ .temporarySpace }}
    {{- if $secret }}
    - name: secret
      secret:
        secretName: {{ $secret }}
        defaultMode: 0440
    {{- end }}
    {{- include (printf "auditsync.%s.volumes" $kind) $root | nindent 4 }}
  {{- include (printf "auditsync.%s.spec" $kind) $root | nindent 2 }}
  {{- with .nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "auditsync.sync.env" -}}
{{- $set := dict "AUDITSYNC_PIPELINES" .Values.pipelines "AUDITSYNC_STORAGE_BACKEND" .Values.state.backend -}}
{{- include "auditsync.env" (dict "root" . "set" $set "env" .Values.env "extraEnv" .Values.extraEnv) }}
{{- end }}

{{/* The arguments and the probe of a daemon. A new container would not help during an outage of a source or a destination. */}}
{{- define "auditsync.daemon" -}}
args: [run]
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 30
  timeoutSeconds: 5
{{- end }}

{{/* The argument: the labels of the pods to spread over nodes. */}}
{{- define "auditsync.spread" -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- . | nindent 8 }}
{{- end }}

{{/* The arguments: root, name and selector. */}}
{{- define "auditsync.podDisruptionBudget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "auditsync.labels" .root | nindent 4 }}
spec:
  maxUnavailable: 1
  # During an outage of the destination the active pod is not ready. An eviction loses nothing, so that must not hold up a drain.
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- .selector | nindent 6 }}
{{- end }}
