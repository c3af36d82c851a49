"""What deploy/ holds, checked with Helm itself and the schemas of Kubernetes."""
