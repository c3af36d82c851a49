"""How the agent arrives: as a container, by run-in-docker.sh, and as a pod of the chart's DaemonSet."""
