#!/usr/bin/env bash
# Writes deploy/manifests/masdeepflow.yaml from the Helm chart, for who uses no Helm. HELM: the helm to use.
#
#   deploy/manifests.sh           after a change of the chart
#   deploy/manifests.sh --print   on stdout
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$here/manifests/masdeepflow.yaml

# Without what only Helm makes use of. The Secret is the user's to make: what is in a file is no secret.
render() {
    cat <<'END'
# Made by deploy/manifests.sh from deploy/helm/masdeepflow. Before it is applied, the token that /metrics asks for:
#
#   kubectl create namespace masdeepflow
#   kubectl --namespace masdeepflow create secret generic masdeepflow-token --from-literal=token="$(openssl rand -hex 20)"
#   kubectl apply --filename deploy/manifests/masdeepflow.yaml
---
apiVersion: v1
kind: Namespace
metadata:
  name: masdeepflow
  labels:
    # For hostPID and the added capabilities.
    pod-security.kubernetes.io/enforce: privileged
END
    "${HELM:-helm}" template masdeepflow "$here/helm/masdeepflow" --namespace masdeepflow --kube-version 1.30 \
        --set listen.token.existingSecret=masdeepflow-token \
        | sed -e '/^# Source: /d' -e '/^ *helm\.sh\/chart: /d' -e '/^ *app\.kubernetes\.io\/managed-by: /d'
}

rendered=$(render)
if [[ ${1:-} == --print ]]; then
    printf '%s\n' "$rendered"
else
    printf '%s\n' "$rendered" >"$target"
fi
